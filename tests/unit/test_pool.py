"""The packet pool: one owner for each buffer, and the layout of the arena."""

import itertools
from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.datapath.pool import Pool, give, give_packet, pool_at
from tests.model_nic import Memory


@compiled
def put(address: Any, index: Any) -> None:
    give(pool_at(address), index)


@compiled
def put_packet(address: Any, first: Any, length: Any) -> None:
    give_packet(pool_at(address), first, length)


def pool(capacity: int | None = None, size: int = 16 * 2112) -> Pool:
    mapping: Any = Memory(size)
    return Pool(DmaMemory(mapping, 0x1000_0000, size, 4096), 0, capacity)


def take(p: Pool) -> int:
    p.state["free"] -= 1
    return int(p.stack[p.free])


def test_layout() -> None:
    """Buffer i is 2112 i bytes into the arena, its data 64 bytes further."""
    p = pool()
    assert (p.capacity, p.free) == (16, 16)
    p.data(3, 5)[:] = (1, 2, 3, 4, 5)
    assert bytes(p.memory.view[3 * 2112 + 64 : 3 * 2112 + 70]) == b"\1\2\3\4\5\0"
    p.check([])


def test_data_is_checked() -> None:
    p = pool(4)
    for index, length in ((-1, 1), (4, 1), (0, 2049), (0, -1)):
        with pytest.raises(IndexError):
            p.data(index, length)


def test_a_closed_pool_says_so() -> None:
    p = pool()
    p.close()
    for use in (lambda: p.data(0), lambda: p.rows, lambda: p.chain(0, 60)):
        with pytest.raises(UsageError, match=r"^the ports are closed: open them again$"):
            use()


def test_a_packet_longer_than_the_longest_chain_is_not_given_back() -> None:
    """Its links lead anywhere by then."""
    p = pool()
    held = [take(p) for _ in range(6)]
    with pytest.raises(IndexError, match="packet longer than the longest chain"):
        put_packet(p.address, np.uint64(held[0]), np.uint64(5 * 2048 + 1))
    p.check(held)


def test_a_buffer_comes_back() -> None:
    p = pool()
    index = take(p)
    p.check([index])
    put(p.address, np.uint64(index))
    p.check([])


def test_check_sees_a_lost_and_a_double_owner() -> None:
    p = pool()
    index = take(p)
    with pytest.raises(AssertionError, match="owners"):
        p.check([])
    with pytest.raises(AssertionError, match="owners"):
        p.check([index, 0])


def test_more_back_than_there_are() -> None:
    p = pool()
    with pytest.raises(IndexError):
        put(p.address, np.uint64(0))


@pytest.mark.parametrize("index", [16, 1 << 32, (1 << 64) - 1])
def test_an_index_outside(index: int) -> None:
    p = pool()
    take(p)
    with pytest.raises(IndexError):
        put(p.address, np.uint64(index))


def test_a_chain_comes_back_whole() -> None:
    p = pool()
    indices = [take(p) for _ in range(3)]
    for here, there in itertools.pairwise(indices):
        p.links[here] = there
    assert p.chain(indices[0], 4097) == indices
    put_packet(p.address, np.uint64(indices[0]), np.uint64(4097))
    p.check([])


def test_a_chain_longer_than_any() -> None:
    p = pool()
    with pytest.raises(IndexError):
        put_packet(p.address, np.uint64(0), np.uint64(10241))


def test_too_many_buffers_for_the_memory() -> None:
    with pytest.raises(UsageError):
        pool(17)
    with pytest.raises(UsageError):
        pool(0)


def test_what_is_compiled_into_others_cannot_be_called_by_python() -> None:
    """It has no code for that: Numba's own call would jump to address 0."""
    with pytest.raises(TypeError, match="give: only compiled functions can call it"):
        give(None, 0)
