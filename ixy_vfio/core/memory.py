"""Mapped memory: pages of a BAR, and memory that a device may reach by DMA."""

import mmap
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ixy_vfio.core import libc


class Mapping:
    """A shared mapping of a file descriptor, that keeps no file descriptor.

    (Python's own mmap keeps a duplicate of the descriptor, which a worker must not hold.) `view` is a writable
    memoryview of bytes, `address` where it lies in this process, both valid until `close`.
    """

    def __init__(self, fd: int, size: int, offset: int = 0, *, at: int | None = None) -> None:
        """Map `size` bytes of `fd` from `offset`; `at` puts it over memory the caller owns there (MAP_FIXED)."""
        flags = mmap.MAP_SHARED | (0x10 if at is not None else 0)  # MAP_FIXED, asm-generic/mman.h
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        self.size = size
        self.address = libc.mmap(at or 0, size, protection, flags, fd, offset)
        self.view = memoryview(libc.ffi.buffer(libc.ffi.cast("char *", self.address), size)).cast("B")

    def close(self) -> None:
        """Unmap. Idempotent. Nothing may use `address`, or an array made from `view`, afterwards."""
        if self.address:
            self.view.release()
            libc.munmap(self.address, self.size)
            self.address = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class DmaMemory:
    """Memory that the helper has made, zeroed and mapped for one or more devices.

    `iova` is where every one of those devices sees the first byte; the helper chose it. Contiguous in both views.
    """

    mapping: Mapping
    iova: int
    size: int
    page_size: int

    @property
    def address(self) -> int:
        """Where the first byte lies in this process."""
        return self.mapping.address

    @property
    def view(self) -> memoryview:
        """All bytes, writable."""
        return self.mapping.view

    def close(self) -> None:
        """Unmap it from this process. The helper unmaps it from the devices at the end of the lease."""
        self.mapping.close()
