"""Mapped memory: pages of a BAR, and memory that a device may reach by DMA."""

import contextlib
import mmap
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ixy_vfio.core import libc

MAP_FIXED = 0x10  # asm-generic/mman.h


class Mapping:
    """A shared mapping of a file descriptor, that keeps no file descriptor.

    (Python's own mmap keeps a duplicate of the descriptor, which a worker must not hold.) `view` is a memoryview of
    bytes, `address` where it lies in this process, both valid until `close`.

    An array that somebody made from `view` may outlive `close`: it has private pages then. It never reaches what was
    mapped, or what another mapping puts there: the addresses are free again when the last such array is gone.
    """

    def __init__(self, fd: int, size: int, offset: int = 0, *, at: int | None = None, write: bool = True) -> None:
        """Map `size` bytes of `fd` from `offset`; `at` puts it over memory the caller owns there (MAP_FIXED).

        Without `write` it is mapped to be read.
        """
        flags = mmap.MAP_SHARED | (MAP_FIXED if at is not None else 0)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self.size = size
        self.address = libc.mmap(at or 0, size, protection, flags, fd, offset)
        self._bytes: Any = libc.ffi.buffer(libc.ffi.cast("char *", self.address), size)
        view = memoryview(self._bytes).cast("B")
        self.view = view if write else view.toreadonly()

    def close(self, *, keep: bool = False) -> None:
        """Unmap. Idempotent. Nothing may use `address` afterwards; an array made from `view` is zeros from now on.

        `keep`: such an array keeps its bytes instead, as a private copy. Not for registers, which a read may change.
        """
        if not self.address:
            return
        address, size, mapped = self.address, self.size, self._bytes
        self.address = 0
        with contextlib.suppress(BufferError):  # an array was made straight from it
            self.view.release()
        self.view, self._bytes = memoryview(b""), b""
        unmap = weakref.finalize(mapped, libc.munmap, address, size)
        unmap.atexit = False
        del mapped  # unmaps, unless somebody has an array of it
        if unmap.alive:
            _make_private(address, size, keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_private(address: int, size: int, keep: bool) -> None:
    """Put private zeroed pages, or a private copy, in the place of a mapping: at no moment is nothing there."""
    memory = libc.ffi.cast("char *", address)
    held = libc.ffi.buffer(memory, size)[:] if keep else b""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if keep:
        libc.ffi.memmove(memory, held, size)


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
        """Unmap it from this process. The helper unmaps it from the devices at the end of the lease.

        Arrays of it that are still held keep their bytes, as a private copy.
        """
        self.mapping.close(keep=True)
