"""Calls of the C library that Python has no module for. The only module here that touches raw memory.

An OSError has the name of the call in `filename`.
"""

import ctypes
import mmap
import os

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
_PRCTL = {number: name for name, number in list(globals().items()) if name.startswith("PR_")}

_libc = ctypes.CDLL(None, use_errno=True)
Word = int | bytes | None  # bytes stand for their address


def call(name: str, *words: Word, named: str = "") -> int:
    """Call a function whose result is an int, below 0 for an error. Raises OSError, which says `named` or else `name`.

    Integers are passed as unsigned longs.
    """
    result = int(getattr(_libc, name)(*(ctypes.c_ulong(word) if isinstance(word, int) else word for word in words)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), named or name)
    return result


def prctl(option: int, first: Word = 0, second: Word = 0) -> int:
    """prctl(2) with up to two arguments. Raises OSError."""
    return call("prctl", option, first, second, 0, 0, named=f"prctl({_PRCTL.get(option, option)})")


def syscall(name: str, number: int, *arguments: Word) -> int:
    """A system call that the C library has no function for. Raises OSError."""
    return call("syscall", number, *arguments, *[0] * (6 - len(arguments)), named=name)


def address_of(buffer: bytearray | mmap.mmap) -> int:
    """Where a buffer lies; keep it while the address is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
