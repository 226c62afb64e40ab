"""The calls that Python's standard library lacks, by cffi (ABI mode: no compiler needed)."""

import os
from typing import Any

from cffi import FFI

ffi = FFI()
ffi.cdef("""
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int munmap(void *address, size_t length);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
""")
_libc: Any = ffi.dlopen(None)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


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


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0):
        raise _error("prctl")
