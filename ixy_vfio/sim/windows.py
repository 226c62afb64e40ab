"""DMA windows: the client's memory, mapped here, and the table of the data plane kept in step with it."""

import os
from dataclasses import dataclass
from typing import Protocol

from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import Mapping


class DmaTable(Protocol):
    """The windows as the data plane sees them."""

    def map(self, iova: int, size: int, address: int, readable: bool, writable: bool) -> None:
        """Add a window. Raises UsageError where it overlaps another."""

    def unmap(self, iova: int, size: int) -> int:
        """Drop every window inside; returns how many."""

    def unmap_all(self) -> None:
        """Drop every window."""


@dataclass(slots=True)
class _File:
    """A file of the client, mapped whole: a guest maps it in thousands of single pages."""

    mapping: Mapping
    windows: int = 0


_Key = tuple[int, int, int]  # device, inode, size


class Windows:
    """The DMA windows that one client has mapped."""

    def __init__(self, table: DmaTable) -> None:
        self._table = table
        self._files: dict[_Key, _File] = {}
        self._windows: dict[int, tuple[int, _Key]] = {}  # iova -> size, file

    def __len__(self) -> int:
        return len(self._windows)

    def map(self, iova: int, size: int, fd: int, offset: int, readable: bool, writable: bool) -> None:
        """Let the device reach `size` bytes of `fd` from `offset` at `iova`. Raises OSError, UsageError."""
        status = os.fstat(fd)
        # What lies behind the end of the file would be a SIGBUS, and the end of the simulator.
        if size <= 0 or offset + size > status.st_size or iova + size >= 1 << 64:
            raise UsageError(f"DMA window of {size} bytes at {offset} of a file of {status.st_size}")
        key = (status.st_dev, status.st_ino, status.st_size)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = _File(Mapping(fd, status.st_size))
        try:
            self._table.map(iova, size, file.mapping.address + offset, readable, writable)
        except UsageError:
            self._drop_if_unused(key)
            raise
        file.windows += 1
        self._windows[iova] = (size, key)

    def unmap(self, iova: int, size: int) -> int:
        """Drop every window that lies wholly inside; returns how many."""
        self._table.unmap(iova, size)
        inside = [
            start for start, (length, _) in self._windows.items() if iova <= start and start + length <= iova + size
        ]
        for start in inside:
            _, key = self._windows.pop(start)
            self._files[key].windows -= 1
            self._drop_if_unused(key)
        return len(inside)

    def unmap_all(self) -> int:
        """Drop all windows and mappings; returns how many windows."""
        count = len(self._windows)
        self._table.unmap_all()
        self._windows.clear()
        for file in self._files.values():
            file.mapping.close()
        self._files.clear()
        return count

    def _drop_if_unused(self, key: _Key) -> None:
        if not self._files[key].windows:
            self._files.pop(key).mapping.close()
