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
from ixy_vfio.core.unsafe import borrowed, bytes_at, copy_bytes, words32_at, words64_at
from ixy_vfio.sim.state import MISSES_KEPT, Int

WINDOW_WORDS = 4  # iova, end (one past the last byte), address in this process, rights
READABLE, WRITABLE = 1, 2


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


# Compiled. `windows` is the array of `windows_of`; `hint` is the row that served last, kept by the caller for each
# kind of access, so that most look-ups are two comparisons. -1 stands for no window.


@inlined
def windows_of(port: Any) -> Any:
    """The DMA windows of a port record."""
    return words64_at(port.windows, np.intp(port.window_count) * WINDOW_WORDS)


@inlined
def _start(windows: Any, row: Int) -> Any:
    return windows[np.uintp(row) * np.uintp(WINDOW_WORDS)]


@inlined
def _end(windows: Any, row: Int) -> Any:
    return windows[np.uintp(row) * np.uintp(WINDOW_WORDS) + np.uintp(1)]


@inlined
def _address(windows: Any, row: Int) -> Any:
    return windows[np.uintp(row) * np.uintp(WINDOW_WORDS) + np.uintp(2)]


@compiled
def search(windows: Any, iova: Int, right: Int) -> Int:
    """The row of the window that holds `iova` and grants `right`, or -1."""
    windows = borrowed(windows)
    low, high = np.intp(0), np.intp(windows.size // WINDOW_WORDS)
    while low < high:
        middle = (low + high) >> 1
        if _start(windows, middle) <= iova:
            low = middle + 1
        else:
            high = middle
    row = low - 1
    if row < 0 or iova >= _end(windows, row) or not windows[row * WINDOW_WORDS + 3] & np.uint64(right):
        return np.intp(-1)
    return row


@inlined
def find(windows: Any, iova: Int, right: Int, hint: Int) -> Any:
    """`search`, but the row `hint` first (which must have come from a `find` for the same right, or be -1)."""
    if 0 <= hint < windows.size // WINDOW_WORDS and _start(windows, hint) <= iova < _end(windows, hint):
        return hint
    return search(windows, iova, right)


@inlined
def reach(windows: Any, row: Int, iova: Int) -> Any:
    """How many bytes of the window `row` there are from `iova` on."""
    return np.intp(_end(windows, row) - iova)


@inlined
def window_bytes(windows: Any, row: Int) -> Any:
    """The memory of a window as an array of bytes."""
    return bytes_at(_address(windows, row), np.intp(_end(windows, row) - _start(windows, row)))


@inlined
def descriptor_words(windows: Any, row: Int, iova: Int) -> Any:
    """The two 64-bit words of a descriptor at `iova`, which the window `row` holds whole."""
    return words64_at(_address(windows, row) + (iova - _start(windows, row)), 2)


@inlined
def word32(windows: Any, row: Int, iova: Int) -> Any:
    """The 32-bit word at `iova`, as an array of one, which the window `row` holds whole."""
    return words32_at(_address(windows, row) + (iova - _start(windows, row)), 1)


@inlined
def whole_ring(queue: Any, windows: Any) -> Any:
    """The address of a queue's ring, when one window holds all of it for reading and writing, or 0.

    Then a run of descriptors needs no look-up and no check but that of the ring's array.
    """
    row = search(windows, queue.base, READABLE)
    if row < 0 or reach(windows, row, queue.base) < 16 * np.intp(queue.count):
        return np.uint64(0)
    if not windows[np.uintp(row) * np.uintp(WINDOW_WORDS) + np.uintp(3)] & np.uint64(WRITABLE):
        return np.uint64(0)
    return _address(windows, row) + (queue.base - _start(windows, row))


@inlined
def window_of(windows: Any, row: Int) -> Any:
    """(first IOVA, end, what to add to an IOVA for the address) of a window, to be kept in registers."""
    return _start(windows, row), _end(windows, row), _address(windows, row) - _start(windows, row)


@compiled
def record_miss(port: Any, iova: Int, length: Int, write: Int) -> None:
    """Count a miss and keep it for the device model."""
    at = 3 * np.intp(port.misses % np.uint64(MISSES_KEPT))
    port.missed[at] = iova
    port.missed[at + 1] = length
    port.missed[at + 2] = write
    port.misses += np.uint64(1)


@compiled
def transfer(port: Any, windows: Any, iova: Int, memory: Any, at: Int, length: Int, write: Int) -> Int:
    """Move `length` bytes between memory[at:] and the windows, page by page; returns how many before a miss."""
    windows, memory = borrowed(windows), borrowed(memory)
    right = WRITABLE if write else READABLE
    done = np.intp(0)
    while done < length:
        here = np.uint64(iova) + np.uint64(done)
        row = search(windows, here, right)
        if row < 0:
            record_miss(port, here, np.uint64(length - done), np.uint64(write))
            break
        size = min(np.intp(length) - done, reach(windows, row, here))
        offset = np.intp(here - _start(windows, row))
        if write:
            copy_bytes(window_bytes(windows, row), offset, memory, at + done, size)
        else:
            copy_bytes(memory, at + done, window_bytes(windows, row), offset, size)
        done += size
    return done


@inlined
def dma_read(port: Any, windows: Any, iova: Int, memory: Any, at: Int, length: Int, hint: Int) -> Any:
    """Read `length` bytes at `iova` into memory[at:]; returns the next hint, or -1 when not all could be read."""
    row = find(windows, iova, READABLE, hint)
    if row >= 0 and length <= reach(windows, row, iova):
        copy_bytes(memory, at, window_bytes(windows, row), np.intp(iova - _start(windows, row)), length)
        return row
    if transfer(port, windows, iova, memory, at, length, 0) < length:
        return np.intp(-1)
    return row


@inlined
def dma_write(port: Any, windows: Any, iova: Int, memory: Any, at: Int, length: Int, hint: Int) -> Any:
    """Write memory[at:at+length] to `iova`; returns the next hint, or -1 when not all could be written."""
    row = find(windows, iova, WRITABLE, hint)
    if row >= 0 and length <= reach(windows, row, iova):
        copy_bytes(window_bytes(windows, row), np.intp(iova - _start(windows, row)), memory, at, length)
        return row
    if transfer(port, windows, iova, memory, at, length, 1) < length:
        return np.intp(-1)
    return row
