"""Batches of packets, for scripts: what `Port.rx` gives and `Port.tx` takes."""

from collections.abc import Callable, Iterator
from sys import getrefcount
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.pool import DATA, Pool
from ixy_vfio.ixgbe.batch import calls, work_for

MOST_SPARE = 8


class Batch:
    """Packets that this process owns: from `Port.rx` or `Port.new`, until `Port.tx` or `free`.

    batch[i] is a writable uint8 array of the bytes in the packet's first buffer (all of them up to 2048); no copy.
    """

    # Arrays of batches that are gone, by their room, and where they lie: to make one and ask for its address takes most
    # of the time that a new batch takes. Only arrays that nobody else has a view of.
    _spare: ClassVar[dict[int, list[tuple[NDArray[np.uint32], int]]]] = {}
    _references = staticmethod(getrefcount)

    __slots__ = ("_address", "_count", "_free", "_pool", "_pool_address", "_room", "_words")

    def __init__(self, pool: Pool, room: int) -> None:
        """Empty, with room for so many packets."""
        self._count = 0
        if room < 1:
            raise UsageError(f"a batch of {room} packets")
        self._pool, self._pool_address = pool, pool.address
        self._words: NDArray[np.uint32]
        try:
            self._words, self._address = self._spare[room].pop()
        except LookupError:
            self._words = np.empty((2, room), np.uint32)
            self._address = int(self._words.ctypes.data)
        self._room = room
        self._free = calls().free

    @property
    def indices(self) -> NDArray[np.uint32]:
        """The index of each packet's first buffer."""
        return self._words[0, : self._count]

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Bytes of each packet, without CRC."""
        return self._words[1, : self._count]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        if not -self._count <= i < self._count:
            raise IndexError(f"packet {i} of {self._count}")
        index, length = self._words[:, i % self._count]
        return self._pool.data(int(index), min(int(length), DATA))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        rows = self._pool.rows
        indices, lengths = self._words[:, : self._count].tolist()
        return iter([rows[index][:length] for index, length in zip(indices, lengths, strict=True)])

    def bytes_of(self, i: int) -> bytes:
        """A copy of all of packet `i`, in however many buffers it lies."""
        if not -self._count <= i < self._count:
            raise IndexError(f"packet {i} of {self._count}")
        index, length = (int(word) for word in self._words[:, i % self._count])
        chain = self._pool.chain(index, length)
        return b"".join(bytes(self._pool.data(one)) for one in chain)[:length]

    def free(self) -> None:
        """Drop all packets. Idempotent."""
        count, self._count = self._count, 0
        self._free(self._pool_address, self._address, self._room, count)

    def __del__(self) -> None:
        if self._count:
            self.free()
        if hasattr(self, "_room") and self._references(self._words) == 2:  # this slot, and the argument
            spare = self._spare.setdefault(self._room, [])
            if len(spare) < MOST_SPARE:
                spare.append((self._words, self._address))


def kernel(function: Callable[[Any, Any], Any]) -> Callable[[Batch], int]:
    """Compile function(packet, length) -> bool for batches: kernel(batch) runs it on each packet.

    Packets that it refuses are freed; those it keeps stay in order. Returns how many are left. May be a decorator.
    """
    work = work_for(function)

    def apply(batch: Batch) -> int:
        batch._count = count = work(batch._pool_address, batch._address, batch._room, batch._count)
        return count

    return apply
