"""The calls that Python's standard library lacks, by cffi (ABI mode: no compiler needed)."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from cffi import FFI

from ixy_vfio.core.errors import IxyError, SystemRefused

ffi = FFI()
ffi.cdef("""
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int munmap(void *address, size_t length);
int mprotect(void *address, size_t length, int protection);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int capset(void *header, void *data);
long syscall(long number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f);
""")
_libc: Any = ffi.dlopen(None)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
_PRCTL = {number: name for name, number in list(globals().items()) if name.startswith("PR_")}

FORBIDDEN = "a container runtime or a service manager may forbid it"
_EXHAUSTED = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextlib.contextmanager
def needed(call: str = "", error: type[IxyError] = SystemRefused) -> Iterator[None]:
    """Turns a refusal of a system call into one line that names it; the functions of this module do so themselves.

    Where a limit or the machine is exhausted, the error is left as it is: `surroundings` says which, and what helps.
    """
    try:
        yield
    except OSError as refused:
        if refused.errno in _EXHAUSTED:
            raise
        text = f"{call}: {refused.strerror}" if call else str(refused.strerror or refused)
        raise error(f"{text}; {FORBIDDEN}") from None


def _error(call: str) -> OSError:
    return OSError(ffi.errno, f"{call}: {os.strerror(ffi.errno)}")


def mmap(address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    """mmap(2); returns the address. Raises OSError."""
    result = int(ffi.cast("uintptr_t", _libc.mmap(ffi.cast("void *", address), length, protection, flags, fd, offset)))
    if result == 2 ** (8 * ffi.sizeof("uintptr_t")) - 1:
        raise _error("mmap")
    return result


def munmap(address: int, length: int) -> None:
    """munmap(2). Raises OSError."""
    if _libc.munmap(ffi.cast("void *", address), length):
        raise _error("munmap")


def mprotect(address: int, length: int, protection: int) -> None:
    """mprotect(2). Raises OSError."""
    if _libc.mprotect(ffi.cast("void *", address), length, protection):
        raise _error("mprotect")


def prctl(option: int, first: int = 0, second: int | bytes = 0) -> int:
    """prctl(2) with up to two arguments; bytes stand for their address. Raises OSError."""
    result = int(_libc.prctl(option, first, _word(second), 0, 0))
    if result < 0:
        raise _error(f"prctl({_PRCTL.get(option, option)})")
    return result


def capset(header: bytes, data: bytes) -> None:
    """capset(2). Raises OSError."""
    if _libc.capset(ffi.from_buffer(header), ffi.from_buffer(data)):
        raise _error("capset")


def syscall(name: str, number: int, *arguments: int | bytes) -> int:
    """A system call that the C library has no function for; bytes stand for their address. Raises OSError."""
    words = [_word(one) for one in arguments] + [0] * (6 - len(arguments))
    result = int(_libc.syscall(number, *words))
    if result < 0:
        raise _error(name)
    return result


def _word(argument: int | bytes) -> int:
    return argument if isinstance(argument, int) else int(ffi.cast("uintptr_t", ffi.from_buffer(argument)))


def address_of(data: bytes) -> int:
    """Where `data`, which the caller keeps, lies in this process: for a pointer inside a kernel structure."""
    return _word(data)
