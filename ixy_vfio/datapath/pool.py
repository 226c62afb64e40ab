"""The packet pool: buffers are indices into one arena, and each index has exactly one owner.

The owner is the pool's free list, a receive slot, a chain that is not complete, the application, or a transmit slot
(`rings` says when). An index is moved, never copied. A packet longer than one buffer is a chain: its first index, and
from each buffer the index of the next.

    arena   | headroom 64 | data 2048 | headroom 64 | data 2048 | ...     buffer i starts at i * STRIDE
"""

# mypy: disable-error-code="type-arg"

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.core.unsafe import record_at, words32_at
from ixy_vfio.datapath.format import CHAIN_LIMIT

HEADROOM = 64  # a cache line before the data
DATA = 2048  # what the device may write to one buffer
# Not a power of two on purpose: at 2048 all packets would share 1/32 of the sets of the cache (measured: at a batch
# of 256 the whole loop takes twice as long).
STRIDE = HEADROOM + DATA

# The pool's state. Addresses are of this process; `iova` is where the device sees `packets`.
POOL = np.dtype(
    [
        ("free", "<u8"),  # indices on the free list
        ("capacity", "<u8"),  # buffers
        ("stack", "<u8"),  # address of the free list: uint32[capacity], the first `free` of them valid
        ("links", "<u8"),  # address of the chain links: uint32[capacity]
        ("packets", "<u8"),  # address of the arena
        ("iova", "<u8"),  # IOVA of the arena
    ]
)

U = np.uint64
CLOSED = "the ports are closed: open them again"


@inlined
def pool_at(address: Any) -> Any:
    """The pool whose state lies at `address`."""
    return record_at(address, POOL)


@inlined
def give(pool: Any, index: Any) -> None:
    """Put one buffer back. IndexError for an index outside the pool, or when more come back than there are."""
    if U(index) >= pool.capacity:
        raise IndexError("buffer index outside the pool")
    words32_at(pool.stack, pool.capacity)[pool.free] = np.uint32(index)
    pool.free += U(1)


@inlined
def segments_of(length: Any) -> Any:
    """Buffers of a packet of `length` bytes: all but the last one are full."""
    return (U(length) + U(DATA - 1)) // U(DATA)


@inlined
def give_packet(pool: Any, first: Any, length: Any) -> None:
    """Put all buffers of a packet back."""
    count = segments_of(length)
    if count > U(CHAIN_LIMIT):
        raise IndexError("packet longer than the longest chain")
    links = words32_at(pool.links, pool.capacity)
    index = U(first)
    for _ in range(count - U(1)):
        following = U(links[index])
        give(pool, index)
        index = following
    give(pool, index)


class Pool:
    """The packet buffers of one worker (or of one single-process session)."""

    def __init__(self, memory: DmaMemory, offset: int = 0, capacity: int | None = None) -> None:
        """Buffers in `memory` from byte `offset`: `capacity` of them, or as many as there is room for."""
        room = (memory.size - offset) // STRIDE
        self.capacity = room if capacity is None else capacity
        if not 0 < self.capacity <= room:
            raise UsageError(f"packet memory has room for {room} buffers, {self.capacity} wanted")
        self.memory = memory
        self.stack: NDArray[np.uint32] = np.arange(self.capacity, dtype=np.uint32)[::-1].copy()
        self.links: NDArray[np.uint32] = np.zeros(self.capacity, np.uint32)
        self.state: NDArray[Any] = np.zeros(1, POOL)
        self.state[0] = (
            self.capacity,
            self.capacity,
            self.stack.ctypes.data,
            self.links.ctypes.data,
            memory.address + offset,
            memory.iova + offset,
        )
        self.address = int(self.state.ctypes.data)  # where the state lies, for `pool_at`
        self._data = np.frombuffer(memory.view, np.uint8, self.capacity * STRIDE, offset).reshape(-1, STRIDE)

    @property
    def free(self) -> int:
        """Buffers on the free list."""
        return int(self.state["free"][0])

    def data(self, index: int, length: int = DATA) -> NDArray[np.uint8]:
        """The first `length` bytes of buffer `index`, writable; no copy."""
        self._check_open()
        if not 0 <= index < self.capacity or not 0 <= length <= DATA:
            raise IndexError(f"buffer {index}, {length} bytes: the pool has {self.capacity} buffers of {DATA}")
        return self._data[index, HEADROOM : HEADROOM + length]

    @functools.cached_property
    def rows(self) -> list[NDArray[np.uint8]]:
        """The data of every buffer, as arrays that exist: to slice one takes half as long as to make it anew."""
        self._check_open()
        return list(self._data[:, HEADROOM:])

    def _check_open(self) -> None:
        if not self.capacity:
            raise UsageError(CLOSED)

    def chain(self, first: int, length: int) -> list[int]:
        """The indices of a packet of `length` bytes whose first buffer is `first`."""
        self._check_open()
        indices = [first]
        while len(indices) * DATA < length:
            indices.append(int(self.links[indices[-1]]))
        return indices

    def close(self) -> None:
        """Let go of the arena, so that its mapping can be closed. What wants packets raises UsageError then."""
        self.capacity = 0
        for name in ("free", "capacity", "packets", "iova"):
            self.state[name] = 0
        self._data = np.empty((0, STRIDE), np.uint8)
        self.__dict__.pop("rows", None)

    def check(self, held: Iterable[int]) -> None:
        """AssertionError unless the free list and `held` together name each buffer exactly once. For tests."""
        owned = np.bincount([*self.stack[: self.free], *held], minlength=self.capacity)
        wrong = np.flatnonzero(owned != 1)
        assert not wrong.size, (
            f"buffers with another number of owners than one: {dict(zip(wrong, owned[wrong], strict=True))}"
        )
