"""Attack code for a process that has sealed itself, and a process to run it in."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from tests.attack.evil_worker import LAST_SYSCALL, call

PARENT = os.getpid()
VFIO = 0x3B00
Attack = Callable[[Path], str]


def run(attack: Attack, directory: Path, prepare: Callable[[], object]) -> str:
    """What `attack` tells from a process that has done `prepare`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "no answer"
        try:
            prepare()
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


def signal_by_descriptor(_: Path) -> str:
    """A signal of choice, sent by the kernel when a descriptor has something to be read: no kill() is made."""
    ours, theirs = socket.socketpair()
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    heard: list[int] = []
    fcntl.fcntl(ours, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ours, 10, signal.SIGUSR1)  # F_SETSIG
    fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_ASYNC)
    theirs.send(b"x")
    for _turn in range(100):
        if heard:
            return "sent"
    return "not sent"


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
    fcntl.ioctl(0, VFIO + 0x71)
    return "mapped"


def attach_elsewhere(_: Path) -> str:
    fcntl.ioctl(0, VFIO + 0x77)
    return "attached"


def reset(_: Path) -> str:
    fcntl.ioctl(0, VFIO + 0x6F)
    return "reset"


def terminal(_: Path) -> str:
    fcntl.ioctl(0, 0x5412, b"x")  # TIOCSTI
    return "typed"


def kernel_program(_: Path) -> str:
    call(321, 0, 0, 0)  # bpf
    return "made"


def thread(_: Path) -> str:
    import _thread

    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(lock.release, ())
    lock.acquire()
    return "ran"


def write_new(place: Path) -> str:
    os.close(os.open(place / "new", os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(place / "new")
    return "made"


def read_program(_: Path) -> str:
    return "read" if Path(__import__("ixy_vfio").__file__ or "").read_text() else "empty"


def device_information(_: Path) -> str:
    fcntl.ioctl(0, VFIO + 0x6B)
    return "answered"


def hot_reset(_: Path) -> str:
    """The same number as a container's MAP_DMA."""
    fcntl.ioctl(0, VFIO + 0x71)
    return "reset"


def device_feature(_: Path) -> str:
    fcntl.ioctl(0, VFIO + 0x75)
    return "answered"


def detach(_: Path) -> str:
    fcntl.ioctl(0, VFIO + 0x78)
    return "detached"


def anywhere(number: int, *arguments: int) -> Attack:
    """A system call by number that has no business in any of these processes."""

    def attack(_: Path) -> str:
        call(number, *arguments)
        return "answered"

    return attack


def calls_that_answer(_: Path) -> str:
    """Every system call, with arguments that mean nothing; those that are not refused."""
    answered = []
    for number in range(LAST_SYSCALL + 1):
        # rt_sigreturn, pause, exit, exit_group: this process would not go on; uretprobe, uprobe: see test_evil_worker.
        if number in (15, 34, 60, 231, 335, 336):
            continue
        try:
            call(number, *[2**64 - 1] * 6)
            answered.append(number)
        except OSError as error:
            if error.errno != errno.EPERM:
                answered.append(number)
    return " ".join(map(str, answered))
