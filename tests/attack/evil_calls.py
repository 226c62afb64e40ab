"""System calls that attack code makes, whatever process it has taken over. Each tells what came of it."""

import ctypes
import mmap
import os
import socket

LAST_SYSCALL = 470  # Linux 6.18 ends at 469
CONTROL = os.getpid()  # or what else has started the process that is taken over

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p


def call(number: int, *arguments: int) -> int:
    """A system call; OSError when the kernel says no."""
    words = [ctypes.c_ulong(word & 2**64 - 1) for word in (*arguments, *(0,) * (6 - len(arguments)))]
    ctypes.set_errno(0)
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), "")
    return result


def map_private(size: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> int:
    """New memory of its own; the address."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, ctypes.c_size_t(size), protection, flags, -1, ctypes.c_long(0))
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "")
    return int(address)


def unix_socket(_: object) -> str:
    socket.socket(socket.AF_UNIX).close()
    return "made"


def internet_socket(_: object) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    return "made"


def execute(_: object) -> str:
    os.execv("/bin/true", ["true"])


def fork(_: object) -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


def thread(_: object) -> str:
    import _thread

    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(lock.release, ())
    lock.acquire()
    return "ran"


def signal_control(_: object) -> str:
    os.kill(CONTROL, 0)
    return "may"


def trace_control(_: object) -> str:
    seize = 0x4206
    call(101, seize, CONTROL, 0, 0)
    return "traced"


def memfd(_: object) -> str:
    os.close(os.memfd_create("evil"))
    return "made"


def map_executable(_: object) -> str:
    map_private(4096, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return "mapped"


def make_executable(_: object) -> str:
    call(10, map_private(4096), 4096, mmap.PROT_READ | mmap.PROT_EXEC)
    return "executable"
