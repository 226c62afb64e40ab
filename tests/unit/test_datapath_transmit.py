"""Transmit, against a model NIC: descriptors, reports, a full ring, chains, wrong input."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.datapath.queue import counters
from tests.batches import send_batch
from tests.model_nic import World, read_bytes, transmit


def take(world: World, lengths: list[int]) -> NDArray[np.uint32]:
    """Packets of these lengths from the pool, as a batch."""
    batch = np.zeros((2, max(len(lengths), 1)), np.uint32)
    state = world.pool.state

    def pop() -> int:
        state["free"] -= 1
        return int(world.pool.stack[int(state["free"][0])])

    for k, length in enumerate(lengths):
        first = last = pop()
        for _ in range((length - 1) // 2048):
            following = pop()
            world.pool.links[last] = following
            last = following
        batch[:, k] = first, length
    return batch


def tx(world: World, port: int = 0) -> Any:
    return world.pairs[port].state[0]["tx"]


def tail(world: World) -> int:
    return int.from_bytes(world.bars[0].array[0x6018:0x601C].tobytes(), "little")


def test_golden_bytes_of_one_packet() -> None:
    """60 bytes: DTALEN 60, DTYP 3, EOP, IFCS, RS, DEXT, PAYLEN 60 << 14 in the upper half."""
    world = World(ports=1)
    batch = take(world, [60])
    assert send_batch(world.pairs[0].state, batch, 1) == 1
    address = int(world.pool.state["iova"][0]) + int(batch[0, 0]) * 2112 + 64
    assert read_bytes(world.pairs[0].queue.tx.address, 16) == address.to_bytes(8, "little") + bytes.fromhex(
        "3c00302b 00000f00"
    )
    assert tail(world) == 1
    world.check()


def test_golden_bytes_of_a_chain() -> None:
    """2100 bytes in two descriptors: PAYLEN in the first, EOP and RS in the last."""
    world = World(ports=1)
    assert send_batch(world.pairs[0].state, take(world, [2100]), 1) == 1
    raw = read_bytes(world.pairs[0].queue.tx.address, 32)
    assert raw[8:16] == bytes.fromhex("00083022 00000d02")
    assert raw[24:32] == bytes.fromhex("3400302b 00000000")
    assert tail(world) == 2
    world.check()


def test_every_packet_reports_and_its_block_is_freed_when_the_last_has() -> None:
    world = World(ports=1)
    assert send_batch(world.pairs[0].state, take(world, [60] * 40), 40) == 40
    ring = read_bytes(world.pairs[0].queue.tx.address, 40 * 16)
    assert [k for k in range(40) if ring[16 * k + 11] & 0x08] == list(range(40))
    free = world.pool.free
    assert transmit(world.nics[0], 31) == 31
    send_batch(world.pairs[0].state, take(world, []), 0)
    assert world.pool.free == free
    assert transmit(world.nics[0], 40) == 9
    send_batch(world.pairs[0].state, take(world, []), 0)
    assert world.pool.free == free + 32
    assert world.pairs[0].used == 8
    world.check()


def test_nothing_sent_rings_no_doorbell() -> None:
    world = World(ports=1)
    world.bars[0].array[0x6018] = 0xAA
    assert send_batch(world.pairs[0].state, take(world, []), 0) == 0
    assert tail(world) == 0xAA


def test_a_full_ring_keeps_one_descriptor_and_the_rest_is_freed_and_counted() -> None:
    world = World(ports=1, buffers=200)
    assert send_batch(world.pairs[0].state, take(world, [60] * 100), 100) == 63
    assert (world.pairs[0].sent, int(tx(world)["no_room"])) == (63, 37)
    assert counters(world.pairs[0]).sent_bytes == 63 * 60
    assert tail(world) == 63
    world.check()
    assert send_batch(world.pairs[0].state, take(world, [60]), 1) == 0
    transmit(world.nics[0], 1000)
    assert send_batch(world.pairs[0].state, take(world, [60] * 100), 100) == 32  # the block that was not full stays
    world.check()


@pytest.mark.parametrize("lengths", [[60], [60, 1514, 2048], [2049], [10240], [60, 9018, 60, 4096, 4097]])
def test_many_laps_of_any_mixture(lengths: list[int]) -> None:
    world = World(ports=1, buffers=256)
    rounds = 300
    for i in range(rounds):
        assert send_batch(world.pairs[0].state, take(world, lengths), len(lengths)) == len(lengths)
        assert counters(world.pairs[0]).sent_bytes == (i + 1) * sum(lengths)  # wherever in a block that is
        transmit(world.nics[0], 1000)
        world.check()
    assert int(world.nics[0]["sent"][0]) == rounds * len(lengths)
    assert int(world.nics[0]["sent_bytes"][0]) == rounds * sum(lengths)


def test_random_mixtures_and_a_slow_device() -> None:
    """Chains end anywhere in a block; the model refuses RS without EOP and a PAYLEN that is not the packet's."""
    world = World(ports=1, buffers=512)
    random = np.random.default_rng(2)
    given = sent = 0
    for _ in range(500):
        lengths = random.integers(17, 10241, random.integers(1, 12)).tolist()
        given += len(lengths)
        sent += send_batch(world.pairs[0].state, take(world, lengths), len(lengths))
        transmit(world.nics[0], int(random.integers(0, 40)))
        world.check()
    assert (world.pairs[0].sent, int(tx(world)["no_room"])) == (sent, given - sent)
    transmit(world.nics[0], 1000)
    assert int(world.nics[0]["sent"][0]) == sent
    assert counters(world.pairs[0]).sent_bytes == int(world.nics[0]["sent_bytes"][0])
    assert 0 < sent < given


def test_a_chain_finds_room_as_a_whole_or_not_at_all() -> None:
    world = World(ports=1, buffers=200)
    send_batch(world.pairs[0].state, take(world, [60] * 60), 60)
    assert send_batch(world.pairs[0].state, take(world, [8000, 60]), 2) == 0  # 3 descriptors are left, 4 are needed
    assert int(tx(world)["no_room"]) == 2
    world.check()


@pytest.mark.parametrize("length", [0, 16, 10241, 0xFFFFFFFF])
def test_a_length_that_cannot_be_sent_is_refused_before_the_doorbell(length: int) -> None:
    world = World(ports=1)
    batch = take(world, [60])
    batch[1, 0] = length
    with pytest.raises(ValueError, match="17 to 10240"):
        send_batch(world.pairs[0].state, batch, 1)
    assert tail(world) == 0


@pytest.mark.parametrize("index", [512, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("length", [60, 4096])
def test_an_index_outside_the_pool_is_refused_before_the_doorbell(index: int, length: int) -> None:
    world = World(ports=1)
    batch = take(world, [length])
    batch[0, 0] = index
    with pytest.raises(IndexError, match="outside the pool"):
        send_batch(world.pairs[0].state, batch, 1)
    assert tail(world) == 0


def test_more_than_the_batch_holds_is_refused() -> None:
    world = World(ports=1)
    with pytest.raises(IndexError, match="outside its arrays"):
        send_batch(world.pairs[0].state, take(world, [60]), 2)


def test_a_report_that_never_comes_stops_sending_and_nothing_else() -> None:
    world = World(ports=1)
    world.pairs[0].arm()
    assert send_batch(world.pairs[0].state, take(world, [60] * 63), 63) == 63
    for _ in range(3):
        assert send_batch(world.pairs[0].state, take(world, [60]), 1) == 0
    world.check()
