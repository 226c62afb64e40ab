"""Calls of the C library that Python has no module for. The helper's only module that touches raw memory."""

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *words: int | bytes | None) -> int:
    """Call a function; bytes stand for their address. Raises OSError."""
    result = int(getattr(_libc, name)(*(ctypes.c_ulong(word) if isinstance(word, int) else word for word in words)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def address_of(buffer: bytearray | mmap.mmap) -> int:
    """Where a buffer lies; keep it while the address is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
