"""Receive, against a model NIC: plain packets, chains, what a hostile device may write back, an empty pool."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.datapath import queue
from ixy_vfio.drivers import intel as desc
from ixy_vfio.drivers.ixgbe.format import BITS
from tests.batches import free_batch, receive_batch
from tests.model_nic import World, deliver, read_bytes, transmit

PLAIN = 60 << 32 | 3  # 7.1.6.2: DD, EOP, 60 bytes


def batch_of(count: int) -> NDArray[np.uint32]:
    return np.zeros((2, count), np.uint32)


def armed(**options: Any) -> World:
    world = World(**options)
    for pair in world.pairs:
        pair.arm()
    return world


def counters(world: World) -> dict[str, int]:
    rx = world.pairs[0].state[0]["rx"]
    size = queue.counters(world.pairs[0]).received_bytes
    drops = {name: int(rx[name]) for name in ("errors", "oversize", "no_buffer")}
    return {"packets": world.pairs[0].received, "bytes": size, **drops}


def expected(packets: int = 0, size: int = 0, errors: int = 0, oversize: int = 0, no_buffer: int = 0) -> dict[str, int]:
    return {"packets": packets, "bytes": size, "errors": errors, "oversize": oversize, "no_buffer": no_buffer}


def word(length: int, *, end: bool = True, error: int = 0) -> int:
    return length << 32 | 1 | (2 if end else 0) | error


def test_golden_bytes_of_the_constants() -> None:
    """By hand from 7.1.6.2 and 7.2.3.2.4."""
    assert (int(desc.RX_DD), int(desc.RX_EOP), BITS.errors) == (0x1, 0x2, 0x38000000)
    assert (int(desc.TX_DATA), int(desc.TX_LAST)) == (0x22300000, 0x09000000)
    assert int(desc.TX_DD) == 0x1_0000_0000


def test_the_ring_is_armed_with_the_address_of_the_data_and_a_zero_word() -> None:
    world = armed(ports=1)
    queue = world.pairs[0].queue
    first = int(world.pairs[0].rx_slots[0])
    packets = int(world.pool.state["iova"][0])
    assert read_bytes(queue.rx.address, 16) == (packets + first * 2112 + 64).to_bytes(8, "little") + bytes(8)
    assert world.bars[0].array[0x1018:0x101C].tobytes() == b"\x3f\x00\x00\x00"
    world.check()


def test_packets_come_in_order_with_index_length_and_bytes() -> None:
    world = armed()
    for length in (60, 61, 1514, 2048, 17):
        assert deliver(world.nics[0], 1, word(length), min(length, 64)) == 1
    batch = batch_of(8)
    slots = world.pairs[0].rx_slots[:5].copy()
    assert receive_batch(world.pairs[0].state, batch) == 5
    assert batch[0, :5].tolist() == slots.tolist()
    assert batch[1, :5].tolist() == [60, 61, 1514, 2048, 17]
    assert bytes(world.pool.data(int(batch[0, 1]), 61)) == world.template.tobytes()[:61]
    assert counters(world) == expected(5, 60 + 61 + 1514 + 2048 + 17)
    world.check(batch[0, :5].tolist())


@pytest.mark.parametrize("size", [1, 3, 32, 33, 64])
def test_many_laps_lose_nothing(size: int) -> None:
    world = armed(buffers=256)
    batch, seen = batch_of(size), 0
    for _ in range(200):
        delivered = deliver(world.nics[0], size, PLAIN, 60)
        count = receive_batch(world.pairs[0].state, batch)
        assert count == delivered
        free_batch(world.pairs[0].state, batch, count)
        seen += count
    assert counters(world) == expected(seen, seen * 60)
    assert seen >= 200 * min(size, 31)
    world.check()


def test_a_full_ring_never_gives_the_device_a_descriptor_that_is_not_armed() -> None:
    world = armed(buffers=256)
    assert deliver(world.nics[0], 1000, PLAIN, 0) == 63  # one less than the ring: head == tail means empty
    batch = batch_of(64)
    assert receive_batch(world.pairs[0].state, batch) == 63
    assert receive_batch(world.pairs[0].state, batch_of(64)) == 0
    world.check(batch[0, :63].tolist())


def test_a_chain_is_one_packet() -> None:
    world = armed(ports=1)
    for length, end in ((2048, False), (2048, False), (100, True)):
        deliver(world.nics[0], 1, word(length, end=end), 60)
    deliver(world.nics[0], 1, PLAIN, 60)
    batch = batch_of(4)
    assert receive_batch(world.pairs[0].state, batch) == 2
    assert batch[1, :2].tolist() == [4196, 60]
    chain = world.pool.chain(int(batch[0, 0]), 4196)
    assert chain == world.pairs[0].rx_slots[:3].tolist()
    world.check([*chain, int(batch[0, 1])])
    free_batch(world.pairs[0].state, batch, 2)
    world.check()


def test_a_chain_that_is_not_complete_waits() -> None:
    world = armed(ports=1)
    batch = batch_of(4)
    deliver(world.nics[0], 1, word(2048, end=False), 60)
    assert receive_batch(world.pairs[0].state, batch) == 0
    world.check()
    deliver(world.nics[0], 1, word(52), 60)
    assert receive_batch(world.pairs[0].state, batch) == 1
    assert batch[1, 0] == 2100
    world.check(world.pool.chain(int(batch[0, 0]), 2100))


def test_the_longest_chain_passes_and_one_buffer_more_is_oversize() -> None:
    world = armed(ports=1)
    batch = batch_of(4)
    for end in (False, False, False, False, True):
        deliver(world.nics[0], 1, word(2048, end=end), 0)
    assert receive_batch(world.pairs[0].state, batch) == 1
    assert batch[1, 0] == 10240
    free_batch(world.pairs[0].state, batch, 1)
    for end in (False, False, False, False, False, True):
        deliver(world.nics[0], 1, word(2048, end=end), 0)
    deliver(world.nics[0], 1, PLAIN, 0)
    assert receive_batch(world.pairs[0].state, batch) == 1
    assert counters(world) == expected(2, 10300, oversize=1)
    world.check([int(batch[0, 0])])


def test_dd_without_eop_for_ever_ends() -> None:
    """Each call returns, every buffer comes back, and one packet is counted as dropped."""
    world = armed(ports=1, buffers=128)
    batch = batch_of(4)
    for _ in range(50):
        deliver(world.nics[0], 64, word(2048, end=False), 0)
        assert receive_batch(world.pairs[0].state, batch) == 0
        world.check()
    assert counters(world) == expected(oversize=1)
    deliver(world.nics[0], 1, word(60), 0)  # the end of the endless one
    deliver(world.nics[0], 1, word(60), 0)
    assert receive_batch(world.pairs[0].state, batch) == 1


@pytest.mark.parametrize(
    "bad",
    [
        word(0),
        word(1),
        word(16),
        word(2049),
        word(0xFFFF),
        word(60, error=1 << 29),
        word(60, error=1 << 27),
        word(60, error=1 << 28),
        0xFFFF_FFFF_FFFF_FFFF,
    ],
    ids=hex,
)
def test_what_cannot_be_is_dropped_and_counted(bad: int) -> None:
    world = armed(ports=1)
    batch = batch_of(8)
    deliver(world.nics[0], 1, PLAIN, 0)
    deliver(world.nics[0], 1, np.uint64(bad), 0)
    deliver(world.nics[0], 1, PLAIN, 0)
    assert receive_batch(world.pairs[0].state, batch) == 2
    assert batch[1, :2].tolist() == [60, 60]
    assert counters(world) == expected(2, 120, errors=1)
    world.check(batch[0, :2].tolist())


@pytest.mark.parametrize("bad", [word(60, end=False), word(0, end=False), word(0xFFFF, end=False)], ids=hex)
def test_a_chain_with_a_buffer_that_is_not_full_is_dropped_to_its_end(bad: int) -> None:
    world = armed(ports=1)
    batch = batch_of(8)
    for one in (word(2048, end=False), bad, word(2048, end=False), word(60), PLAIN):
        deliver(world.nics[0], 1, one, 0)
    assert receive_batch(world.pairs[0].state, batch) == 1
    assert counters(world) == expected(1, 60, errors=1)
    world.check([int(batch[0, 0])])


@pytest.mark.parametrize("bad", [word(0), word(2049)], ids=hex)
def test_a_chain_whose_last_buffer_cannot_be_is_dropped_whole(bad: int) -> None:
    """One of no bytes as well: the packet would have a buffer more than its length says, and lose it."""
    world = armed(ports=1)
    batch = batch_of(8)
    for one in (word(2048, end=False), bad, PLAIN):
        deliver(world.nics[0], 1, one, 0)
    assert receive_batch(world.pairs[0].state, batch) == 1
    assert counters(world) == expected(1, 60, errors=1)
    world.check([int(batch[0, 0])])


def test_checksum_errors_are_not_the_forwarders_business() -> None:
    world = armed(ports=1)
    batch = batch_of(1)
    deliver(world.nics[0], 1, np.uint64(word(60, error=1 << 31 | 1 << 30)), 0)  # IPE, L4E
    assert receive_batch(world.pairs[0].state, batch) == 1


def test_an_empty_pool_costs_buffers_not_packets_and_recovers() -> None:
    world = armed(ports=1, buffers=64 + 20)
    held = batch_of(64)
    deliver(world.nics[0], 64, PLAIN, 0)
    assert receive_batch(world.pairs[0].state, held) == 63
    assert counters(world)["no_buffer"] == 1
    assert deliver(world.nics[0], 64, PLAIN, 0) == 0  # nothing was armed
    assert receive_batch(world.pairs[0].state, batch_of(64)) == 0
    world.check(held[0, :63].tolist())
    free_batch(world.pairs[0].state, held, 63)
    receive_batch(world.pairs[0].state, batch_of(1))  # arms
    assert deliver(world.nics[0], 64, PLAIN, 0) == 32  # 31 of the block, and the one that RDT had kept back
    world.check()


@pytest.mark.parametrize("buffers", [256, 70], ids=["plenty", "often no block to renew"])
def test_bytes_are_those_of_good_packets_at_any_time(buffers: int) -> None:
    """Also of a chain that is not complete, and of blocks that are renewed late."""
    world = armed(ports=1, buffers=buffers)
    random = np.random.default_rng(buffers)
    batch = batch_of(64)
    size = dropped = 0
    for _ in range(500):
        length = int(random.choice([17, 60, 1514, 2048, 2049, 6000, 10240, 5, 10241]))
        error = int(random.choice([0, 0, 0, 1 << 29]))
        pieces = [2048] * ((length - 1) // 2048) + [(length - 1) % 2048 + 1]
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            while not deliver(world.nics[0], 1, word(piece, end=last, error=error if last else 0), 0):
                free_batch(world.pairs[0].state, batch, receive_batch(world.pairs[0].state, batch))
                assert counters(world)["bytes"] == size
            if not last and random.random() < 0.3:
                free_batch(world.pairs[0].state, batch, receive_batch(world.pairs[0].state, batch))
                assert counters(world)["bytes"] == size
        good = not error and 17 <= length <= 10240
        size += length if good else 0
        dropped += not good
        if random.random() < 0.3:
            free_batch(world.pairs[0].state, batch, receive_batch(world.pairs[0].state, batch))
            assert counters(world)["bytes"] == size
    while count := receive_batch(world.pairs[0].state, batch):
        free_batch(world.pairs[0].state, batch, count)
    found = counters(world)
    assert (found["bytes"], found["errors"] + found["oversize"]) == (size, dropped)
    assert (found["no_buffer"] > 0) == (buffers == 70)
    world.check()


def test_what_a_ring_held_before_counts_for_nothing() -> None:
    world = World(ports=1)
    words = np.frombuffer(world.memory.view, np.uint64)  # the receive ring comes first
    words[1:128:2] = PLAIN
    world.pairs[0].arm()
    assert counters(world) == expected()
    deliver(world.nics[0], 40, PLAIN, 0)
    receive_batch(world.pairs[0].state, batch_of(64))
    assert counters(world) == expected(40, 40 * 60)


def test_random_write_backs_never_break_ownership() -> None:
    world = armed(ports=1, buffers=256)
    random = np.random.default_rng(1)
    batch = batch_of(64)
    for _ in range(300):
        for value in random.integers(0, 1 << 64, 20, dtype=np.uint64):
            deliver(world.nics[0], 1, value if value & np.uint64(1 << 40) else np.uint64(PLAIN), 0)
        count = receive_batch(world.pairs[0].state, batch)
        held = [i for k in range(count) for i in world.pool.chain(int(batch[0, k]), int(batch[1, k]))]
        world.check(held)
        free_batch(world.pairs[0].state, batch, count)
    world.check()
    assert transmit(world.nics[0], 1) == 0
