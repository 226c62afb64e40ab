"""Mappings of memory, by cffi (ABI mode: no compiler needed), and how a refused system call is told."""

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
""")
_libc: Any = ffi.dlopen(None)

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
        text = f"{call}: {refused.strerror}" if call else said(refused)
        raise error(f"{text}; {FORBIDDEN}") from None


def said(error: OSError) -> str:
    """An error in words, behind the name of the call or of the file if it has one."""
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


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
