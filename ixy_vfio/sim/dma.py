"""The simulated device's view of memory: DMA windows, and nothing else.

The device model maps windows as its vfio-user client says; compiled code finds them by binary search. Windows may be
thousands of single pages (a guest with a virtual IOMMU). A transfer may cross into the next window when the two are
adjacent; what lies outside is not done, and is a miss: counted, and recorded for the device model.
"""

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import bytes_at, words64_at
from ixy_vfio.sim.state import MISSES_KEPT

WINDOW_WORDS = 4  # iova, end (one past the last byte), address in this process, rights
READABLE, WRITABLE = 1, 2
NOWHERE = np.uint64(0)


class Miss(NamedTuple):
    """A DMA, or the part of one, that no window allowed."""

    iova: int
    length: int
    write: bool


class DmaTable:
    """The DMA windows of one port."""

    def __init__(self, record: Any) -> None:
        self._record = record  # the port's record in the state of the data plane
        self._windows: NDArray[np.uint64] = np.zeros((0, WINDOW_WORDS), np.uint64)

    def map(self, iova: int, size: int, address: int, readable: bool, writable: bool) -> None:
        """Let the device reach `size` bytes at `iova`, which lie at `address` in this process until unmapped.

        Raises UsageError for an empty window, one that ends above 2**64, and one that overlaps another.
        """
        end = iova + size
        if size <= 0 or iova < 0 or end >= 1 << 64:
            raise UsageError(f"DMA window {iova:#x} of {size} bytes: give a size above 0 and an end below 2**64")
        index = bisect_right(self._windows[:, 0], iova)
        before = index > 0 and int(self._windows[index - 1, 1]) > iova
        behind = index < len(self._windows) and int(self._windows[index, 0]) < end
        if before or behind:
            raise UsageError(f"DMA window {iova:#x} of {size} bytes overlaps another: unmap that first")
        rights = READABLE * readable | WRITABLE * writable
        self._set(np.insert(self._windows, index, np.array([iova, end, address, rights], np.uint64), axis=0))

    def unmap(self, iova: int, size: int) -> int:
        """Drop every window that lies wholly inside; returns how many. Part of a window is never dropped."""
        inside = (self._windows[:, 0] >= iova) & (self._windows[:, 1] <= min(iova + size, (1 << 64) - 1))
        self._set(self._windows[~inside])
        return int(inside.sum())

    def unmap_all(self) -> None:
        """Drop every window."""
        self._set(self._windows[:0])

    def _set(self, windows: NDArray[np.uint64]) -> None:
        self._windows = np.ascontiguousarray(windows)
        self._record["windows"] = self._windows.ctypes.data
        self._record["window_count"] = len(windows)

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def misses(self) -> int:
        """How many misses there were since the port was made."""
        return int(self._record["misses"])

    @property
    def last_misses(self) -> list[Miss]:
        """The last few misses, oldest first."""
        ring = self._record["missed"]
        numbers = range(max(0, self.misses - MISSES_KEPT), self.misses)
        rows = (ring[3 * (i % MISSES_KEPT) : 3 * (i % MISSES_KEPT) + 3] for i in numbers)
        return [Miss(int(iova), int(length), bool(write)) for iova, length, write in rows]
