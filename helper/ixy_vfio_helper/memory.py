"""Memory for leases, and where devices see it."""

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ixy_vfio_locks.calls import call

PAGE = 4096
HUGE = 2 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
MFD_HUGE_2MB = 21 << 26  # linux/memfd.h: log2 of the page size << MFD_HUGE_SHIFT

# IOVAs are handed out here: above 4 GiB (no legacy hole, no MSI window), below what a 39-bit IOMMU can address.
WINDOW = (0x10_0000_0000, 0x80_0000_0000)
GUARD = HUGE  # never mapped, after every mapping: a DMA that runs over the end faults
Range = tuple[int, int]  # first byte, end


@dataclass(frozen=True, slots=True)
class Memory:
    """A sealed, zeroed memfd with all its pages allocated. The owner closes `fd`."""

    fd: int
    size: int
    page_size: int
    note: str
    writable: bool = True  # by devices


def pages(size: int, page: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // page) * page


def allocate(size: int, huge: bool) -> Memory:
    """Make a memfd of at least `size` bytes, of hugepages if wanted and there are some. Raises OSError."""
    note = ""
    if huge:
        try:
            return _memfd(size, HUGE, os.MFD_HUGETLB | MFD_HUGE_2MB, note)
        except OSError as error:
            note = f"4 KiB pages: no 2 MiB hugepages ({error.strerror}); reserve some in /proc/sys/vm/nr_hugepages"
    return _memfd(size, PAGE, 0, note)


def _memfd(size: int, page: int, flags: int, note: str) -> Memory:
    size = pages(size, page)
    fd = os.memfd_create("ixy_vfio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)  # now, or never: a page fault later could only kill somebody
        clear(fd, size, page)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Memory(fd, size, page, note)


def clear(fd: int, size: int, page: int) -> None:
    """Touch every page: the kernel clears an allocated page of a memfd when a processor first touches it, no sooner.

    Pinned by its file (IOAS_MAP_FILE) before that, it shows a device what somebody else left in it; and what a device
    wrote is lost when it is cleared at last (seen on Linux 7.3).
    """
    with mmap.mmap(fd, size) as view:
        for at in range(0, size, page):
            view[at] = 0


def give_back(made: Memory) -> None:
    """Take its pages out of the memfd, whoever has it open or mapped: what is touched later is a new page of theirs."""
    call("fallocate", made.fd, PUNCH_HOLE, 0, made.size)


PLACES = 64  # in an account: leases of one user at one time


def account_page() -> mmap.mmap:
    """An account that processes share which are forked from now on."""
    return mmap.mmap(-1, PLACES * 8)


@dataclass(frozen=True, slots=True)
class Account:
    """The bytes that the leases of one user have: each lease has a number of its own, at `place`.

    A lease writes there before it looks at the sum. Of two that ask at once both may be refused, but never do both get
    what is left.
    """

    page: mmap.mmap | bytearray = field(default_factory=lambda: bytearray(PLACES * 8))
    place: int = 0

    def counts(self) -> list[int]:
        """What each lease has."""
        return memoryview(self.page).cast("Q").tolist()

    def take(self, size: int, limit: int) -> bool:
        """Count `size` bytes more, unless that is above the limit of the user."""
        if size > limit:
            return False
        self.give(-size)
        if sum(self.counts()) <= limit:
            return True
        self.give(size)
        return False

    def give(self, size: int) -> None:
        """Count `size` bytes less."""
        memoryview(self.page).cast("Q")[self.place] -= size  # one store, which struct.pack_into() is not


class Window:
    """Hands out IOVAs, upwards, none twice."""

    def __init__(self) -> None:
        self._next = WINDOW[0]

    def take(self, size: int, usable: Iterable[Sequence[Range]]) -> int:
        """An IOVA whose `size` bytes lie inside one range of each of `usable`. Raises OSError when there is none."""
        iova = self._next
        lists = [sorted(ranges) for ranges in usable]
        while iova + size <= WINDOW[1]:
            starts = [self._fit(iova, size, ranges) for ranges in lists]
            if all(start == iova for start in starts):
                self._next = pages(iova + size + GUARD, HUGE)
                return iova
            iova = max(starts)
        raise OSError("no IOVA left for this memory")

    @staticmethod
    def _fit(iova: int, size: int, ranges: Sequence[Range]) -> int:
        for first, end in ranges:
            start = max(iova, pages(first, HUGE))
            if start + size <= end:
                return start
        return WINDOW[1]
