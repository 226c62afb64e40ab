"""Memory for a side of the benchmark: a shared file mapping, as the product's packet memory is."""

import mmap
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from cffi import FFI
from numpy.typing import NDArray

from ixy_vfio.core.memory import Mapping

HUGE = 2 << 20
_ffi = FFI()
_ffi.cdef("int madvise(void *address, size_t length, int advice);")
_libc: Any = _ffi.dlopen(None)


class Memory:
    """Zeroed memory of at least `size` bytes, aligned to 2 MiB; `kind` says which pages it came to consist of."""

    def __init__(self, size: int, page_size: int = 4096) -> None:
        """With `page_size` 2 MiB: reserved huge pages, else transparent ones, else (see `kind`) none."""
        self.size = -(-size // HUGE) * HUGE
        self.mapping, self.kind = self._map(page_size)
        self.array: NDArray[np.uint8] = np.frombuffer(self.mapping.view, np.uint8)
        self.array[::4096] = 0  # touched: no page fault while the clock runs

    def _map(self, page_size: int) -> tuple[Mapping, str]:
        if page_size == HUGE:
            try:
                return self._file(os.MFD_HUGETLB | os.MFD_HUGE_2MB), "2 MiB reserved"
            except OSError:
                pass
        mapping = self._file(0)
        advice = mmap.MADV_HUGEPAGE if page_size == HUGE else mmap.MADV_NOHUGEPAGE
        _libc.madvise(_ffi.cast("void *", mapping.address), self.size, advice)
        if page_size != HUGE:
            return mapping, "4 KiB"
        np.frombuffer(mapping.view, np.uint8)[::4096] = 0
        return mapping, "2 MiB transparent" if _huge_bytes(mapping.address) >= self.size // 2 else "4 KiB"

    def _file(self, flags: int) -> Mapping:
        fd = os.memfd_create("ixy_vfio-bench", os.MFD_CLOEXEC | flags)
        try:
            os.ftruncate(fd, self.size)
            return Mapping(fd, self.size)
        finally:
            os.close(fd)

    @property
    def address(self) -> int:
        """Where it lies."""
        return self.mapping.address

    def close(self) -> None:
        """Unmap it."""
        self.array = np.zeros(0, np.uint8)
        self.mapping.close()


def _huge_bytes(address: int) -> int:
    """Bytes of the mapping at `address` that lie in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= address < int(match[2], 16)
        elif inside and line.startswith("ShmemPmdMapped:"):
            return int(line.split()[1]) * 1024
    return 0
