"""The simulated device's view of memory: DMA windows, and nothing else.

The device model maps windows as its vfio-user client says; compiled code finds them. Windows may be a quarter of a
million single pages, mapped and unmapped one by one (a guest with a virtual IOMMU, Linux's VFIO tests). They are a
treap: finding, adding and removing one takes O(log n) steps. A transfer may cross into the next window when the two are
adjacent; what lies outside is not done, and is a miss: counted, and recorded for the device model.
"""

import random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import borrowed, bytes_at, copy_bytes, words32_at, words64_at
from ixy_vfio.sim.state import MISSES_KEPT, Int

# A row a window: iova, end (one past the last byte), address in this process, rights; the rows of the subtrees left and
# right of it (0: none), and its priority, which is above those in them. Row 0 is no window: `left` is the root.
WINDOW_WORDS = 8
LEFT, RIGHT, PRIORITY = np.uint64(4), np.uint64(5), np.uint64(6)
READABLE, WRITABLE = 1, 2
_FIRST_ROWS = 64


class Miss(NamedTuple):
    """A DMA, or the part of one, that no window allowed."""

    iova: int
    length: int
    write: bool


class DmaTable:
    """The DMA windows of one port."""

    def __init__(self, record: Any) -> None:
        self._record = record  # the port's record in the state of the data plane
        self._priorities = random.Random(82599)  # whatever the order of the windows, the treap is shallow
        self.unmap_all()

    def map(self, iova: int, size: int, address: int, readable: bool, writable: bool) -> None:
        """Let the device reach `size` bytes at `iova`, which lie at `address` in this process until unmapped.

        Raises UsageError for an empty window, one that ends above 2**64, and one that overlaps another.
        """
        end = iova + size
        if size <= 0 or iova < 0 or end >= 1 << 64:
            raise UsageError(f"DMA window {iova:#x} of {size} bytes: give a size above 0 and an end below 2**64")
        below = int(last_at(self._rows, np.uint64(end - 1)))  # the last window that begins before our end
        if below and int(self._rows[below * WINDOW_WORDS + 1]) > iova:
            raise UsageError(f"DMA window {iova:#x} of {size} bytes overlaps another: unmap that first")
        row = self._free.pop() if self._free else self._new_row()
        at, rights = row * WINDOW_WORDS, READABLE * readable | WRITABLE * writable
        self._rows[at : at + WINDOW_WORDS] = (iova, end, address, rights, 0, 0, self._priorities.getrandbits(63), 0)
        insert(self._rows, np.uint64(row))
        self._count += 1

    def _new_row(self) -> int:
        if self._used * WINDOW_WORDS == len(self._rows):
            self._place(np.concatenate((self._rows, np.zeros_like(self._rows))))
        self._used += 1
        self._record["window_count"] = self._used
        return self._used - 1

    def _place(self, rows: NDArray[np.uint64]) -> None:
        self._rows = rows
        self._record["windows"] = rows.ctypes.data

    def unmap(self, iova: int, size: int) -> list[int]:
        """Drop every window that lies wholly inside; returns where they began. Part of a window is never dropped."""
        end, dropped = min(iova + size, (1 << 64) - 1), []
        start = iova
        while row := int(first_from(self._rows, np.uint64(start))):
            begin, stop = (int(word) for word in self._rows[row * WINDOW_WORDS : row * WINDOW_WORDS + 2])
            if stop > end:
                break
            remove(self._rows, np.uint64(begin))
            self._free.append(row)
            dropped.append(begin)
            start = stop
        self._count -= len(dropped)
        return dropped

    def across(self, iova: int) -> int | None:
        """Where the window begins that lies on both sides of `iova`, or None."""
        if not 0 < iova < 1 << 64:
            return None
        row = int(last_at(self._rows, np.uint64(iova - 1)))
        begin, stop = (int(word) for word in self._rows[row * WINDOW_WORDS : row * WINDOW_WORDS + 2])
        return begin if row and begin < iova < stop else None

    def unmap_all(self) -> None:
        """Drop every window."""
        self._place(np.zeros(_FIRST_ROWS * WINDOW_WORDS, np.uint64))
        self._free: list[int] = []  # rows that a window has left
        self._used, self._count = 1, 0  # rows; windows
        self._record["window_count"] = self._used

    def __len__(self) -> int:
        return self._count

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
def _word(row: Int, word: Int) -> Any:
    return np.uintp(row) * np.uintp(WINDOW_WORDS) + np.uintp(word)


@inlined
def _start(windows: Any, row: Int) -> Any:
    return windows[_word(row, 0)]


@inlined
def _end(windows: Any, row: Int) -> Any:
    return windows[_word(row, 1)]


@inlined
def _address(windows: Any, row: Int) -> Any:
    return windows[_word(row, 2)]


@compiled
def last_at(windows: Any, iova: Int) -> Int:
    """The row of the last window that begins at `iova` or below it, or 0."""
    found, row = np.uint64(0), windows[_word(0, LEFT)]
    while row:
        if _start(windows, row) <= iova:
            found, row = row, windows[_word(row, RIGHT)]
        else:
            row = windows[_word(row, LEFT)]
    return found


@compiled
def first_from(windows: Any, iova: Int) -> Int:
    """The row of the first window that begins at `iova` or above it, or 0."""
    found, row = np.uint64(0), windows[_word(0, LEFT)]
    while row:
        if _start(windows, row) >= iova:
            found, row = row, windows[_word(row, LEFT)]
        else:
            row = windows[_word(row, RIGHT)]
    return found


@compiled
def insert(windows: Any, new: Int) -> None:
    """Put the row `new`, which is filled in, into the tree: above all rows of lower priority on its way down."""
    key, priority = _start(windows, new), windows[_word(new, PRIORITY)]
    link = _word(0, LEFT)
    row = windows[link]
    while row and windows[_word(row, PRIORITY)] >= priority:
        link = _word(row, LEFT if key < _start(windows, row) else RIGHT)
        row = windows[link]
    windows[link] = new
    left, right = _word(new, LEFT), _word(new, RIGHT)
    while row:  # what was here is cut in two: windows below ours, and above
        if _start(windows, row) < key:
            windows[left] = row
            left = _word(row, RIGHT)
            row = windows[left]
        else:
            windows[right] = row
            right = _word(row, LEFT)
            row = windows[right]
    windows[left] = windows[right] = np.uint64(0)


@compiled
def remove(windows: Any, key: Int) -> None:
    """Take the window that begins at `key`, which must be there, out of the tree, and clear its row."""
    link = _word(0, LEFT)
    row = windows[link]
    while _start(windows, row) != key:
        link = _word(row, LEFT if key < _start(windows, row) else RIGHT)
        row = windows[link]
    left, right = windows[_word(row, LEFT)], windows[_word(row, RIGHT)]
    while left and right:  # its two subtrees become one
        if windows[_word(left, PRIORITY)] >= windows[_word(right, PRIORITY)]:
            windows[link] = left
            link = _word(left, RIGHT)
            left = windows[link]
        else:
            windows[link] = right
            link = _word(right, LEFT)
            right = windows[link]
    windows[link] = left | right
    for i in range(WINDOW_WORDS):
        windows[_word(row, i)] = np.uint64(0)


@compiled
def search(windows: Any, iova: Int, right: Int) -> Int:
    """The row of the window that holds `iova` and grants `right`, or -1."""
    windows = borrowed(windows)
    row = last_at(windows, np.uint64(iova))
    if not row or iova >= _end(windows, row) or not windows[_word(row, 3)] & np.uint64(right):
        return np.intp(-1)
    return np.intp(row)


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
    if not windows[_word(row, 3)] & np.uint64(WRITABLE):
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
