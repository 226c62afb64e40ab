"""Attack code for a process that has sealed itself, and a process to run it in."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.attack import evil_calls
from tests.attack.evil_calls import CONTROL, LAST_SYSCALL, call

Attack = Callable[[Path], str]
PIPE = os.pipe()  # made before any sealing: each process that is taken over has it
DEVICE_INFO, SET_IRQS, RESET, MAP_DMA = 0x3B6B, 0x3B6E, 0x3B6F, 0x3B71
DEVICE_FEATURE, ATTACH, DETACH = 0x3B75, 0x3B77, 0x3B78
HOT_RESET = MAP_DMA  # the same number, of a device and not of a container
UNMAP_DMA = 0x3B72
FIONREAD, TIOCSTI = 0x541B, 0x5412


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


def signal_by_descriptor(_: Path) -> str:
    """A signal of choice, sent by the kernel when a descriptor has something to be read: no kill() is made."""
    heard: list[int] = []
    fcntl.fcntl(PIPE[0], fcntl.F_SETOWN, os.getpid())
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    fcntl.fcntl(PIPE[0], 10, signal.SIGUSR1)  # F_SETSIG
    fcntl.fcntl(PIPE[0], fcntl.F_SETFL, fcntl.fcntl(PIPE[0], fcntl.F_GETFL) | os.O_ASYNC)
    os.write(PIPE[1], b"x")
    for _turn in range(100):
        if heard:
            return "sent"
    return "not sent"


def map_private(_: Path) -> str:
    """The one kind of mapping that stays allowed: so what is refused beside it is refused for what it is."""
    evil_calls.map_private(4096)
    return "mapped"


def control_memory(_: Path) -> str:
    os.close(os.open(f"/proc/{CONTROL}/mem", os.O_RDONLY))
    return "opened"


def write_new(place: Path) -> str:
    os.close(os.open(place / "new", os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(place / "new")
    return "made"


def read_program(_: Path) -> str:
    return "read" if Path(__import__("ixy_vfio").__file__ or "").read_text() else "empty"


# open("/") by the gate of 32-bit programs; its number 5 is fstat for 64-bit ones. It lies below 4 GiB (MAP_32BIT), and
# was there before any seal: push rbx; mov eax, 5; mov ebx, path; xor ecx, ecx; xor edx, edx; int 0x80; pop rbx; ret.
_GATE = mmap.mmap(-1, 4096, prot=7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
_AT = ctypes.addressof(ctypes.c_char.from_buffer(_GATE))
_GATE[:18] = b"\x53\xb8\5\0\0\0\xbb" + (_AT + 64).to_bytes(4, "little") + b"\x31\xc9\x31\xd2\xcd\x80\x5b"
_GATE[18:19], _GATE[64:66] = b"\xc3", b"/\0"
_open = ctypes.CFUNCTYPE(ctypes.c_int)(_AT)


def open_of_i386(_: Path) -> str:
    """Opens a directory, where the filter takes the number for another call."""
    result = _open()
    return "opened" if result >= 0 else errno.errorcode[-result]


def ioctl(number: int) -> Attack:
    """The filters look at the number, whatever the descriptor: nothing of VFIO is needed here."""

    def attack(_: Path) -> str:
        fcntl.ioctl(PIPE[0], number, bytearray(8))
        return "answered"

    return attack


def be_traced(_: Path) -> str:
    traceme = 0
    call(101, traceme, 0, 0, 0)
    return "traced"


def unshare(_: Path) -> str:
    """What needs no rights of it: the rest of the call is the same to a filter."""
    files = 0x400
    call(272, files)
    return "unshared"


def same_user(_: Path) -> str:
    os.setuid(os.geteuid())
    return "set"


def kernel_program(_: Path) -> str:
    call(321, 0, 0, 0)  # bpf
    return "made"


# What no sealed process may do, and what comes of it in one that is not sealed.
REFUSED: dict[str, tuple[Attack, str]] = {
    "execute": (evil_calls.execute, "exit 0"),
    "fork": (evil_calls.fork, "child 7"),
    "signal": (evil_calls.signal_control, "may"),
    "signal by descriptor": (signal_by_descriptor, "sent"),
    "be traced": (be_traced, "traced"),
    "unix socket": (evil_calls.unix_socket, "made"),
    "internet socket": (evil_calls.internet_socket, "made"),
    "unshare": (unshare, "unshared"),
    "user": (same_user, "set"),
    "map executable": (evil_calls.map_executable, "mapped"),
    "make executable": (evil_calls.make_executable, "executable"),
    "bytes waiting": (ioctl(FIONREAD), "answered"),
    "type into a terminal": (ioctl(TIOCSTI), "ENOTTY"),
    "attach elsewhere": (ioctl(ATTACH), "ENOTTY"),
    "replace a file": (replace_secret, "made"),
    "load a program into the kernel": (kernel_program, "E(?!PERM)[A-Z]+" if os.geteuid() == 0 else "E[A-Z]+"),
}


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
