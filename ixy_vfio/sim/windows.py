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

    def unmap(self, iova: int, size: int) -> list[int]:
        """Drop every window inside; returns where they began."""

    def across(self, iova: int) -> int | None:
        """Where the window begins that lies on both sides of `iova`, or None."""

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
        self._windows: dict[int, tuple[int, _Key | None]] = {}  # iova -> size, file

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def reachable(self) -> int:
        """How many windows the device reaches."""
        return sum(file.windows for file in self._files.values())

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

    def reserve(self, iova: int, size: int) -> None:
        """A window that is reached by messages only, as QEMU's BARs are: the device cannot. Raises UsageError."""
        self._table.map(iova, size, 0, False, False)
        self._windows[iova] = (size, None)

    def unmap(self, iova: int, size: int) -> int:
        """Drop every window inside; returns how many. Raises UsageError, dropping none, when one lies across an end."""
        for end in (iova, iova + size):
            if (start := self._table.across(end)) is not None:
                raise UsageError(f"unmapping up to {end:#x} would cut the DMA window that begins at {start:#x}")
        inside = self._table.unmap(iova, size)
        for start in inside:
            _, key = self._windows.pop(start)
            if key is not None:
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
