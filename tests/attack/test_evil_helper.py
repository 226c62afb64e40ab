"""Attack code in the process of a lease, after each step of its sandbox. Each attack works where nothing is sealed.

With root, as the helper has it: the attacks on files then say what user id 0 without capabilities may not do.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ixy_vfio_helper import sandbox
from ixy_vfio_helper.sandbox import READ, RECORDS, Sandbox

from ixy_vfio.transport.lease import Lease, Purpose
from tests.attack.evil_worker import LAST_SYSCALL, call
from tests.conftest import StartSimulator, address

PARENT = os.getpid()
FREE, FIRST, LAST = "free", "begin", "finish"
Attack = Callable[[Path], str]


def run(attack: Attack, directory: Path, step: str) -> str:
    """What `attack` tells from a process that is as far as `step`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "no answer"
        try:
            os.closerange(3, reader)
            paths = {directory / "leases": RECORDS, directory / "sys": READ, Path("/proc"): READ}
            box = Sandbox(paths)
            if step != FREE:
                assert box.begin() == []
            if step == LAST:
                box.finish()
            text = attack(directory)
        except OSError as error:
            text = errno.errorcode.get(error.errno or 0, "?")
        except BaseException as error:
            text = repr(error)
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said or (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """What stands for the file system: records, sysfs, and a file of root's."""
    if run(lambda _: "sealed", tmp_path, LAST) != "sealed":
        pytest.skip("this kernel cannot seal the process of a lease")
    for name in ("leases", "sys"):
        (tmp_path / name).mkdir()
    for name in ("sys/attribute", "shadow"):
        (tmp_path / name).write_text("as it was")
    yield tmp_path
    assert (tmp_path / "sys/attribute").read_text() == (tmp_path / "shadow").read_text() == "as it was"


def read_attribute(place: Path) -> str:
    return (place / "sys/attribute").read_text()


def write_attribute(place: Path) -> str:
    os.close(os.open(place / "sys/attribute", os.O_WRONLY))
    return "opened"


def read_secret(place: Path) -> str:
    return (place / "shadow").read_text()


def write_secret(place: Path) -> str:
    os.close(os.open(place / "shadow", os.O_WRONLY))
    return "opened"


def replace_secret(place: Path) -> str:
    (place / "new").symlink_to("shadow")
    (place / "new").unlink()
    return "made"


def record(place: Path) -> str:
    (place / "leases/new").write_text("mine")
    return "written"


def execute(_: Path) -> str:
    os.execv("/bin/true", ["true"])


def fork(_: Path) -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


def signal_parent(_: Path) -> str:
    os.kill(PARENT, 0)
    return "may"


def trace_parent(_: Path) -> str:
    call(101, 0x4206, PARENT, 0, 0)  # PTRACE_SEIZE
    return "traced"


def parents_memory(_: Path) -> str:
    os.close(os.open(f"/proc/{PARENT}/mem", os.O_RDONLY))
    return "opened"


def unix_socket(_: Path) -> str:
    socket.socket(socket.AF_UNIX).close()
    return "made"


def internet_socket(_: Path) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    return "made"


def mount(_: Path) -> str:
    call(272, 0x0002_0000)  # unshare(CLONE_NEWNS)
    return "unshared"


def other_user(_: Path) -> str:
    os.setuid(1000)
    return "changed"


def map_executable(_: Path) -> str:
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return "mapped"


def make_executable(_: Path) -> str:
    memory = mmap.mmap(-1, 4096)
    call(10, ctypes.addressof(ctypes.c_char.from_buffer(memory)), 4096, mmap.PROT_READ | mmap.PROT_EXEC)
    return "executable"


def memfd(_: Path) -> str:
    os.close(os.memfd_create("more"))
    return "made"


def map_for_dma(_: Path) -> str:
    """The call's number is refused, whatever the descriptor: nothing of VFIO is needed here."""
    fcntl.ioctl(0, sandbox.VFIO + 0x71)
    return "mapped"


def attach_elsewhere(_: Path) -> str:
    fcntl.ioctl(0, sandbox.VFIO + 0x77)
    return "attached"


def reset(_: Path) -> str:
    fcntl.ioctl(0, sandbox.VFIO + 0x6F)
    return "reset"


def terminal(_: Path) -> str:
    fcntl.ioctl(0, 0x5412, b"x")  # TIOCSTI
    return "typed"


def kernel_program(_: Path) -> str:
    call(321, 0, 0, 0)  # bpf
    return "made"


# attack, what comes of it without the seal (a pattern), after the first step, after the second
NOT_A_DEVICE = "ENOTTY|EINVAL|EBADF|ENODEV"
ATTACKS: list[tuple[Attack, str, str, str]] = [
    (read_attribute, "as it was", "as it was", "EPERM"),
    (record, "written", "written", "EPERM"),
    (memfd, "made", "made", "EPERM"),
    (map_for_dma, NOT_A_DEVICE, NOT_A_DEVICE, "EPERM"),
    (attach_elsewhere, NOT_A_DEVICE, NOT_A_DEVICE, "EPERM"),
    (reset, NOT_A_DEVICE, NOT_A_DEVICE, NOT_A_DEVICE),
    (write_attribute, "opened", "EACCES", "EPERM"),
    (read_secret, "as it was", "EACCES", "EPERM"),
    (write_secret, "opened", "EACCES", "EPERM"),
    (replace_secret, "made", "EPERM", "EPERM"),
    (execute, "exit 0", "EPERM", "EPERM"),
    (fork, "child 7", "EPERM", "EPERM"),
    (signal_parent, "may", "EPERM", "EPERM"),
    (trace_parent, "traced|EPERM", "EPERM", "EPERM"),  # Yama
    (parents_memory, "opened|EACCES", "EACCES", "EPERM"),
    (unix_socket, "made", "EPERM", "EPERM"),
    (internet_socket, "made", "EPERM", "EPERM"),
    (mount, "unshared|EPERM", "EPERM", "EPERM"),
    (other_user, "changed|EPERM", "EPERM", "EPERM"),
    (map_executable, "mapped", "EPERM", "EPERM"),
    (make_executable, "executable", "EPERM", "EPERM"),
    (terminal, NOT_A_DEVICE + "|EIO|EPERM|EFAULT", "EPERM", "EPERM"),
    (kernel_program, "EINVAL|EFAULT|EPERM|E2BIG", "EPERM", "EPERM"),
]


@pytest.mark.parametrize(("attack", "free", "first", "last"), ATTACKS, ids=[one[0].__name__ for one in ATTACKS])
def test_attack_from_a_lease_process(place: Path, attack: Attack, free: str, first: str, last: str) -> None:
    for step, expected in ((FREE, free), (FIRST, first), (LAST, last)):
        assert re.fullmatch(expected, told := run(attack, place, step)), (step, told)


def calls_that_answer(_: Path) -> str:
    """Every system call, with arguments that mean nothing; those that are not refused."""
    answered = []
    for number in range(LAST_SYSCALL + 1):
        if number in (15, 34, 60, 231):  # rt_sigreturn, pause, exit, exit_group: this process would not go on
            continue
        try:
            call(number, *[2**64 - 1] * 6)
            answered.append(number)
        except OSError as error:
            if error.errno != errno.EPERM:
                answered.append(number)
    return " ".join(map(str, answered))


KERNELS_OWN = {335, 336}  # uretprobe and uprobe: see test_evil_worker
NOT_BY_THESE_ARGUMENTS = {9, 10, 15, 16, 60, 231}  # refused, or not tried


def test_every_system_call_of_a_sealed_lease(place: Path) -> None:
    told = {int(word) for word in run(calls_that_answer, place, LAST).split()}
    allowed = {number for number, *_ in sandbox.last_rules()}
    assert told - KERNELS_OWN == allowed - NOT_BY_THESE_ARGUMENTS
    assert len(allowed) < 50
    assert not allowed & {2, 41, 56, 57, 58, 59, 62, 101, 157, 257, 272, 310, 319, 321, 322, 425, 435, 437}


def test_no_ioctl_of_a_sealed_lease_gives_a_device_more_memory() -> None:
    """Of container, group, iommufd and device those that map, attach and bind are missing."""
    (ioctls,) = [values for number, _, _, values in sandbox.last_rules() if number == 16]
    by_number = {value & 0xFF for value in ioctls if value & 0xFF00 == sandbox.VFIO}
    assert by_number == {0x6C, 0x6E, 0x6F, 0x72, 0x86}  # region info, interrupts, reset, unmap, IOAS unmap


def test_what_the_kernel_shows_of_a_lease_process(simulator: StartSimulator) -> None:
    """From outside: no capabilities, no new privileges, a filter; two when the client has sealed its lease."""
    sim = simulator()
    with Lease(sim.helper) as lease:
        device = lease.attach(address(0))
        lease.memory(4096, [device], Purpose.RINGS)
        assert status(sim.directory) == ("1", "1", {"0" * 16})
        lease.seal()
        assert status(sim.directory) == ("1", "2", {"0" * 16})


def status(directory: Path) -> tuple[str, str, set[str]]:
    """NoNewPrivs, filters and capabilities of the process that has the claim on port 0."""
    _, pid = (directory / "leases" / f"{address(0)}.lease").read_text().split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    sets = {f"{int(fields[f'Cap{kind}'], 16) & ~sandbox.CAP_SYSLOG:016x}" for kind in ("Inh", "Prm", "Eff", "Amb")}
    return fields["NoNewPrivs"], fields["Seccomp_filters"], sets


def test_a_kernel_without_landlock_is_named(place: Path) -> None:
    def attack(_: Path) -> str:
        sandbox._prctl(38, 1)
        sandbox.filter_calls([(number, 0, 0, ()) for number in range(LAST_SYSCALL) if number != 444])
        return "; ".join(Sandbox({}).begin())

    assert run(attack, place, FREE) == "landlock: landlock: Operation not permitted"
