"""Batches of packets, for scripts: what `Port.rx` gives and `Port.tx` takes."""

from collections.abc import Callable, Iterator
from sys import getrefcount, is_finalizing
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath.batch import free, work_for
from ixy_vfio.datapath.pool import DATA, Pool


class Batch:
    """Packets that this process owns: from `Port.rx` or `Port.new`, until `Port.tx` or `free`.

    batch[i] is a writable uint8 array of the bytes in the packet's first buffer (all of them up to 2048); no copy.
    """

    # What batches that are gone were made of, by their room: to make arrays and ask for their addresses takes most of
    # the time that a new batch takes. Only arrays that nobody else has a view of.
    _spare: ClassVar[dict[int, list[tuple[NDArray[np.uint32], NDArray[np.uint64], int]]]] = {}
    _references = staticmethod(getrefcount)
    _ending = staticmethod(is_finalizing)
    _most_spare: ClassVar[int] = 8

    __slots__ = ("_address", "_free", "_pool", "_room", "_state", "_words")

    def __init__(self, pool: Pool, room: int) -> None:
        """Empty, with room for so many packets."""
        if room < 1:
            raise UsageError(f"a batch of {room} packets")
        self._pool = pool
        self._words: NDArray[np.uint32]
        self._state: NDArray[np.uint64]  # a BATCH: pool, words, room, count
        try:
            self._words, self._state, self._address = self._spare[room].pop()
        except LookupError:
            self._words, self._state = np.empty((2, room), np.uint32), np.zeros(4, np.uint64)
            self._state[1], self._state[2] = self._words.ctypes.data, room
            self._address = int(self._state.ctypes.data)
        self._state[0] = pool.address
        self._room = room
        self._free = free()

    @property
    def _count(self) -> int:
        return self._state.item(3)

    @_count.setter
    def _count(self, count: int) -> None:
        self._state[3] = count

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
        self._free(self._address)

    def __del__(self) -> None:
        # When the interpreter ends, names of modules are gone and compiled code may be; so is the batch's memory soon.
        if self._ending() or not hasattr(self, "_free"):  # it was refused
            return
        if self._state.item(3):
            self.free()
        if self._references(self._words) == 2:  # this slot, and the argument
            spare = self._spare.setdefault(self._room, [])
            if len(spare) < self._most_spare:
                spare.append((self._words, self._state, self._address))


class Kernel:
    """A kernel compiled for batches: see `kernel`."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self._work = work_for(function)

    def __call__(self, batch: Batch) -> int:
        """Run it on each packet of a batch; returns how many are left."""
        return self._work.call(batch._address)

    def on(self, batch: Batch) -> Callable[[], int]:
        """The same as a function for this batch, to be called again and again: that is faster."""
        return self._work.bind(batch._address, batch)


def kernel(function: Callable[[Any, Any], Any]) -> Kernel:
    """Compile function(packet, length) -> bool for batches: kernel(batch) runs it on each packet.

    Packets that it refuses are freed; those it keeps stay in order. Returns how many are left. May be a decorator.
    """
    return Kernel(function)
