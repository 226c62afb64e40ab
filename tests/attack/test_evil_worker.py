"""What attack code can do inside a sealed worker: nothing of it. Each attack works where nothing is sealed."""

import ctypes
import dataclasses
import errno
import faulthandler
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from ixy_vfio_locks import rights, seccomp

from ixy_vfio.core.errors import WorkerError
from ixy_vfio.runtime import messages
from ixy_vfio.runtime.messages import Kind
from ixy_vfio.runtime.sandbox import Seal
from ixy_vfio.runtime.seccomp import worker_rules
from ixy_vfio.runtime.worker import SLEEP_AFTER, Idle, Job
from tests.attack import evil_calls as calls
from tests.attack import evil_worker as evil
from tests.filters import run_filter
from tests.model_nic import ArrayMemory, Memory, World
from tests.programs import program_of

KILLED = "killed by SIGSYS"
Attack = Callable[[Job], str]


def idle_job(loop: Callable[[object], int] = lambda _: 0, idle: Idle = Idle.POLL) -> Job:
    world = World(buffers=64)
    return Job(program_of(loop, "evil"), world.pool, tuple(world.pairs), idle=idle)


def layers() -> Seal:
    """What this kernel can do, by a worker of its own."""
    process = evil.start(idle_job())
    try:
        process.receive()
        return process.seal
    finally:
        process.kill()


@pytest.fixture(scope="module", autouse=True)
def sealed() -> Seal:
    """All of it is about the filter."""
    found = layers()
    if "seccomp" not in found.applied:
        pytest.skip(f"this kernel cannot seal a worker: {found.missing}")
    return found


# attack, what comes of it without the seal (a pattern), what comes of it in a sealed worker
ATTACKS: list[tuple[Attack, str, str]] = [
    (evil.open_file, "opened", KILLED),
    (evil.open_device, "opened", KILLED),
    (evil.open_vfio, "opened" if os.access("/dev/vfio/vfio", os.R_OK | os.W_OK) else "ENOENT|EACCES|EPERM", KILLED),
    (evil.open_map_files, "True", KILLED),
    (evil.change_directory, "changed", KILLED),
    (calls.unix_socket, "made", KILLED),
    (calls.internet_socket, "made", KILLED),
    (calls.execute, "exit 0", KILLED),
    (calls.fork, "child 7", KILLED),
    (calls.thread, "ran", KILLED),
    (calls.trace_control, "traced|EPERM", KILLED),  # EPERM: Yama lets no child trace its parent
    (evil.read_control, "read|EPERM", KILLED),
    (calls.signal_control, "may", KILLED),
    (evil.device_control, "answered", KILLED),
    (calls.memfd, "made", KILLED),
    (evil.duplicate, "made", KILLED),
    (evil.pass_descriptor, "passed", KILLED),
    (calls.map_executable, "mapped", KILLED),
    (evil.map_shared, "mapped", KILLED),
    (evil.map_over, "mapped", KILLED),
    (calls.make_executable, "executable", KILLED),
    (evil.make_packets_executable, "executable", KILLED),
    (evil.grow_doorbells, "grown", "ENOMEM"),
    (evil.move_doorbells, "moved", "ENOMEM"),
    (evil.much_memory, "mapped", "ENOMEM"),
    (evil.raise_limits, "set", KILLED),
    (evil.x32_call, "answered|ENOSYS", KILLED),
    (evil.i386_call, "answered|odd|killed by SIGSEGV", KILLED),
]


@pytest.mark.parametrize(("attack", "free", "sealed"), ATTACKS, ids=[attack.__name__ for attack, _, _ in ATTACKS])
def test_attack(attack: Attack, free: str, sealed: str) -> None:
    assert re.fullmatch(free, evil.attack(attack, sealed=False))
    assert evil.attack(attack) == sealed


# Of BAR0: control registers, what is around the queue pages, EERD and EEWR, the last page.
GONE = (0, 0x0FFC, 0x2000, 0x5FFC, 0x8000, 0x10014, 0x10018, 0x7FFFC)
LEFT = (0x1000, 0x1FFC, 0x6000, 0x7FFC)


def test_of_a_bar_only_the_queue_pages_are_left() -> None:
    bar, world = Memory(0x80000), World(buffers=64)
    pages: list[Any] = [ArrayMemory(bar.array[0x1000:0x2000]), ArrayMemory(bar.array[0x6000:0x8000])]
    for pair in world.pairs:
        pair.queue = dataclasses.replace(pair.queue, rx_page=pages[0], tx_page=pages[1])

    def touch(offset: int) -> Attack:
        return lambda _: f"{len(ctypes.string_at(bar.address + offset, 4))} bytes"

    handled = faulthandler.is_enabled()
    faulthandler.disable()  # its handler makes system calls: that would be what kills
    try:
        free, gone, left = (
            evil.attacks([touch(offset) for offset in offsets], sealed=sealed, world=world)
            for offsets, sealed in ((GONE, False), (GONE, True), (LEFT, True))
        )
    finally:
        if handled:
            faulthandler.enable()
    assert (set(free), set(gone), set(left)) == ({"4 bytes"}, {"killed by SIGSEGV"}, {"4 bytes"})


def test_sealed_mappings_stay(sealed: Seal) -> None:
    if "mseal" not in sealed.applied:
        pytest.skip(f"this kernel cannot seal mappings (Linux 6.10 and later can): {sealed.missing}")
    assert evil.attack(evil.unmap_doorbells, sealed=False) == "unmapped"
    assert evil.attack(evil.unmap_doorbells) == "EPERM"


def test_cold_compilation_is_an_error_message() -> None:
    assert evil.attack(evil.compile_cold, sealed=False) == "compiled 42"
    told = evil.attack(evil.compile_cold)
    assert told == "WorkerError: _never_called was not compiled before the worker was sealed, and cannot be any more"


# Every system call that does not kill, by number, with all arguments 0 and all -1. The four others that a worker
# makes (recvfrom, sendto, mmap, epoll_wait) look at their arguments: see below.
ALLOWED = {
    11: ("munmap", "EINVAL", "EINVAL"),
    12: ("brk", "returned a value", "returned a value"),
    24: ("sched_yield", "returned 0", "returned 0"),
    25: ("mremap", "ENOMEM", "ENOMEM"),
    228: ("clock_gettime", "EFAULT", "EINVAL"),
    231: ("exit_group", "exit 0", "exit 255"),
}
# uretprobe and uprobe: for code that the kernel itself puts into a process that is traced. Since Linux 6.14 (6.18)
# no filter sees them; outside such code they do nothing.
KERNELS_OWN = {335: {KILLED, "killed by SIGILL"}, 336: {KILLED, "ENXIO", "killed by SIGILL"}}
AT_A_TIME = 32


def test_every_system_call() -> None:
    """Each number in a worker of its own. The list of those that do not kill is exactly this one."""
    survived: dict[int, str] = {}
    for first in range(0, calls.LAST_SYSCALL + 1, AT_A_TIME):
        numbers = range(first, min(first + AT_A_TIME, calls.LAST_SYSCALL + 1))
        told = evil.attacks([evil.sweep(number, 0) for number in numbers])
        survived |= {number: text for number, text in zip(numbers, told, strict=True) if text != KILLED}
    for number, text in survived.items():
        print(f"{number:3} {ALLOWED.get(number, ('not on the list',))[0]:16} {text}")
    for number, outcomes in KERNELS_OWN.items():
        assert survived.pop(number, KILLED) in outcomes
    assert survived == {number: zero for number, (_, zero, _) in ALLOWED.items()}


def test_the_allowed_ones_with_odd_arguments() -> None:
    told = evil.attacks([evil.sweep(number, -1) for number in ALLOWED])
    assert told == [odd for _, _, odd in ALLOWED.values()]


def test_system_calls_without_the_seal() -> None:
    """The sweep sees what a kernel answers: so a kill is the filter's doing."""
    answers = {39: "returned a value", 102: "returned a value|returned 0", 2: "EFAULT", 16: "ENOTTY|EBADF|EINVAL"}
    answers |= {41: "EINVAL|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT", 437: "EINVAL|EFAULT", 59: "EFAULT"}
    for number, expected in answers.items():
        told = evil.attack(evil.sweep(number, 0), sealed=False)
        assert re.fullmatch(expected, told), (number, told)


MMAP, RW, ANONYMOUS = 9, 3, 0x22
SOCKET, WAKER = 7, 8  # stand for the worker's own two descriptors
WRONG: dict[str, tuple[int, tuple[int, ...]]] = {
    "mmap, executable": (MMAP, (0, 4096, RW | 4, ANONYMOUS, 2**64 - 1, 0)),
    "mmap, growing down": (MMAP, (0, 4096, RW | 0x0100_0000, ANONYMOUS, 2**64 - 1, 0)),
    "mmap, high half of the protection": (MMAP, (0, 4096, RW | 1 << 34, ANONYMOUS, 2**64 - 1, 0)),
    "mmap, of a file": (MMAP, (0, 4096, RW, 2, 3, 0)),
    "mmap, fixed": (MMAP, (0, 4096, RW, ANONYMOUS | 0x10, 2**64 - 1, 0)),
    "mmap, high half of the flags": (MMAP, (0, 4096, RW, ANONYMOUS | 1 << 32, 2**64 - 1, 0)),
    "recvfrom, other descriptor": (45, (WAKER, 0, 0, 0, 0, 0)),
    "recvfrom, flags": (45, (SOCKET, 0, 0, 2, 0, 0)),
    "recvfrom, address": (45, (SOCKET, 0, 0, 0, 1 << 40, 0)),
    "sendto, other descriptor": (44, (WAKER, 0, 0, 0, 0, 0)),
    "sendto, flags": (44, (SOCKET, 0, 0, 0x20000000, 0, 0)),
    "sendto, address": (44, (SOCKET, 0, 0, 0, 1, 0)),
    "epoll_wait, other descriptor": (232, (SOCKET, 0, 1, 0, 0, 0)),
}
RIGHT: dict[str, tuple[int, tuple[int, ...]]] = {
    "mmap": (MMAP, (0, 4096, RW, ANONYMOUS, 2**64 - 1, 0)),
    "mmap, nothing allowed": (MMAP, (0, 4096, 0, ANONYMOUS, 2**64 - 1, 0)),
    "recvfrom": (45, (SOCKET, 1, 2, 0, 0, 0)),
    "recvfrom, not waiting": (45, (SOCKET, 1, 2, 0x40, 0, 5)),
    "sendto": (44, (SOCKET, 1, 2, 0, 0, 0)),
    "sendto, not waiting": (44, (SOCKET, 1, 2, 0x40, 0, 5)),
    "epoll_wait": (232, (WAKER, 1, 2, 3, 0, 0)),
}


def test_arguments_that_the_filter_looks_at() -> None:
    program = seccomp.program(worker_rules(SOCKET, WAKER))
    assert len(program) // 8 < 200
    for name, (number, arguments) in RIGHT.items():
        assert run_filter(program, number, arguments) == 0x7FFF0000, name
        assert run_filter(program, number, arguments, 0x40000003) == 0x80000000, f"{name} of i386"
        assert run_filter(program, number | 0x40000000, arguments) == 0x80000000, f"{name} of x32"
    for name, (number, arguments) in WRONG.items():
        assert run_filter(program, number, arguments) == 0x80000000, name
    for number in set(range(1000)) - set(ALLOWED) - {9, 44, 45, 232}:
        assert run_filter(program, number, (0,) * 6) == 0x80000000, number


def make(number: int, arguments: tuple[int, ...]) -> Attack:
    """The call with the worker's own descriptors."""

    def attack(_: Job) -> str:
        first, *others = arguments
        if number != MMAP:
            first = {SOCKET: evil.own_connection().fileno(), WAKER: evil.own_waker()}[first]
        return "nothing" if calls.call(number, first, *others) == 0 else "a value"

    return attack


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_kill(name: str) -> None:
    assert evil.attack(make(*WRONG[name])) == KILLED


def test_right_arguments_do_not_kill() -> None:
    """So the wrong ones, which differ in one argument each, kill by that."""
    right = {name: call for name, call in RIGHT.items() if name != "recvfrom"}  # that one would wait
    told = evil.attacks([make(*call) for call in right.values()])
    assert dict(zip(right, told, strict=True)) == {
        "mmap": "a value",
        "mmap, nothing allowed": "a value",
        "recvfrom, not waiting": "EAGAIN",
        "sendto": "EFAULT",
        "sendto, not waiting": "EFAULT",
        "epoll_wait": "nothing",
    }


@pytest.mark.timed
def test_a_stopped_and_continued_worker_goes_on() -> None:
    """A sleep that was interrupted is not finished by a system call of another number."""
    process = evil.start(idle_job(idle=Idle.SLEEP))
    try:
        process.receive()
        messages.send(process.connection, Kind.GO)
        time.sleep(2 * SLEEP_AFTER)  # it sleeps from here on
        for _ in range(20):
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            os.kill(process.pid, signal.SIGCONT)
            messages.send(process.connection, Kind.GIVE_BACK)
            process.receive()
        messages.send(process.connection, Kind.STOP)
        process.receive()
        assert process.done
        assert process.wait(10) == 0
    finally:
        process.kill()


def test_the_seal_says_what_is_missing() -> None:
    """A kernel without mseal and without Landlock, made by a filter that says so."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            missing = [seccomp.Rule(number, (), seccomp.ERRNO | errno.ENOSYS) for number in (444, 462)]
            rights.no_new_privileges()
            seccomp.install(seccomp.program(missing, seccomp.ALLOW))
            found = layers()
            wanted = [
                "landlock: landlock_create_ruleset: Function not implemented",
                "mseal: mseal: Function not implemented",
            ]
            kept = ["memory", "no-new-privs", "capabilities", "not-dumpable", "descriptors", "limits", "seccomp"]
            status = 0 if sorted(found.missing) == wanted and found.applied == kept else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_every_layer_is_reported(sealed: Seal) -> None:
    everything = {"memory", "no-new-privs", "capabilities", "not-dumpable", "descriptors", "limits", "seccomp"}
    optional = {"landlock", "landlock-network", "landlock-scope", "mseal"}
    assert everything <= set(sealed.applied) <= everything | optional
    assert {text.split(":")[0] for text in sealed.missing} <= optional
    assert Seal.unpack(sealed.pack()) == sealed


def test_a_worker_killed_by_the_filter_is_named() -> None:
    process = evil.start(idle_job(lambda _: os.getuid()))
    try:
        process.receive()
        messages.send(process.connection, Kind.GO)
        with pytest.raises(WorkerError, match=r"made a system call that a sealed worker may not make"):
            process.receive()
    finally:
        process.kill()


def test_the_reason_is_not_lost_when_it_left_a_question_unread() -> None:
    world = World(buffers=64)
    process = evil.start(evil.evil_job(lambda _: "the reason", world))
    try:
        process.receive()
        messages.send(process.connection, Kind.GO)
        messages.send(process.connection, Kind.GIVE_BACK)
        assert os.waitstatus_to_exitcode(process.wait(10) or 0) == 1
        with pytest.raises(WorkerError, match="the reason"):
            process.receive()
    finally:
        process.kill()
