"""Batches as scripts use them, over two model NICs: what comes in, kernels, who owns what."""

import gc
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import ixy_vfio
from ixy_vfio.core.errors import UsageError
from ixy_vfio.drivers.contract import NetDevice
from ixy_vfio.runtime.session import Port
from tests.model_nic import World, deliver, transmit


def opened(**options: Any) -> tuple[World, list[Port]]:
    world = World(**options)
    for pair in world.pairs:
        pair.arm()
    device = cast(NetDevice, SimpleNamespace(config=ixy_vfio.PortConfig()))
    return world, [Port(device, pair) for pair in world.pairs]


def bring(world: World, *lengths: int) -> None:
    for length in lengths:
        while length > 2048:
            deliver(world.nics[0], 1, 2048 << 32 | 1, 64)
            length -= 2048
        deliver(world.nics[0], 1, length << 32 | 3, 64)


def held(*batches: ixy_vfio.Batch) -> list[int]:
    return [
        index
        for batch in batches
        for first, length in zip(batch.indices, batch.lengths, strict=True)
        for index in batch._pool.chain(int(first), int(length))
    ]


@ixy_vfio.kernel
def odd(packet: Any, length: Any) -> Any:
    """Keep what has an odd length, and mark it; 2048 is too much."""
    if length == 2048:
        return packet[2048] == 0
    packet[16] = 99
    return length % 2 == 1


def test_packets_are_views_of_their_bytes() -> None:
    world, (a, b) = opened()
    bring(world, 60, 61, 1514)
    batch = a.rx(8)
    expected = world.template.tobytes()
    assert [len(packet) for packet in batch] == [60, 61, 1514]
    assert [bytes(packet[:64]) for packet in batch] == [expected[:60], expected[:61], expected]
    for packet in batch:
        packet[20] = 7
    assert [int(batch[i][20]) for i in range(3)] == [7, 7, 7]
    assert bytes(batch[-1][:64]) == batch.bytes_of(2)[:64]
    assert b.tx(batch) == 3
    assert len(batch) == 0
    assert list(batch) == []
    world.check()


def test_an_index_outside_is_refused() -> None:
    world, (a, _) = opened()
    bring(world, 60)
    batch = a.rx(8)
    for wrong in (1, 2, -2, 8):
        with pytest.raises(IndexError):
            batch[wrong]
        with pytest.raises(IndexError):
            batch.bytes_of(wrong)


def test_a_long_packet_shows_its_first_buffer_and_all_its_bytes() -> None:
    world, (a, _) = opened()
    bring(world, 2100)
    batch = a.rx(2)
    assert len(batch[0]) == len(next(iter(batch))) == 2048
    assert len(batch.bytes_of(0)) == 2100
    batch.free()
    batch.free()
    world.check()


def test_a_batch_is_used_again_and_again() -> None:
    world, (a, b) = opened(buffers=512)
    batch = a.batch(8)
    for _ in range(50):
        bring(world, *[60] * 8)
        assert a.rx_into(batch) == 8
        assert b.tx(batch) == 8
        assert transmit(world.nics[1], 8) == 8
    assert a.rx_into(batch) == 0
    assert (a.pair.received, b.pair.sent) == (400, 400)
    world.check()


def test_a_batch_with_packets_is_not_received_into() -> None:
    world, (a, _) = opened()
    bring(world, 60, 60)
    batch = a.rx(1)
    with pytest.raises(UsageError, match="has packets"):
        a.rx_into(batch)
    world.check(held(batch))


def test_batches_of_another_session_are_refused() -> None:
    world, (a, _) = opened()
    _, (other, _) = opened()
    bring(world, 60)
    batch = a.rx(1)
    with pytest.raises(UsageError, match="another session"):
        other.tx(batch)
    with pytest.raises(UsageError, match="another session"):
        other.rx_into(a.batch(1))
    with pytest.raises(UsageError, match="a batch of 0"):
        a.batch(0)
    assert len(batch) == 1


def test_a_batch_that_is_dropped_frees_its_packets() -> None:
    world, (a, _) = opened()
    bring(world, 60, 2100)
    batch = a.rx(8)
    assert len(batch) == 2
    del batch
    world.check()


def test_a_view_outlives_its_batch_and_is_not_written_to() -> None:
    world, (a, b) = opened()
    bring(world, 60, 61, 62, 63)
    first = a.rx(2)
    address, lengths = first._words.ctypes.data, first.lengths
    b.tx(first)
    del first
    second = a.rx(2)
    assert (lengths.tolist(), second.lengths.tolist()) == ([60, 61], [62, 63])
    b.tx(second)
    used = second._words.ctypes.data
    del second
    assert a.rx(2)._words.ctypes.data == used != address  # nobody had a view of these arrays
    world.check()


def test_a_kernel_keeps_in_order_and_frees_what_it_refuses() -> None:
    world, (a, b) = opened()
    bring(world, 60, 61, 62, 2101, 64, 65, 2050)
    batch = a.rx(8)
    assert odd(batch) == 3
    assert batch.lengths.tolist() == [61, 2101, 65]
    assert [int(packet[16]) for packet in batch] == [99] * 3
    world.check(held(batch))
    b.tx(batch)
    world.check()
    assert odd(batch) == 0


def test_a_kernel_that_raises_leaves_the_batch_whole() -> None:
    world, (a, _) = opened()
    bring(world, 60, 61, 62, 2048, 65)
    batch = a.rx(8)
    with pytest.raises(IndexError):
        odd(batch)
    assert sorted(batch.lengths.tolist()) == [60, 61, 62, 65, 2048]
    world.check(held(batch))
    batch.free()
    world.check()


def test_what_finds_no_room_is_freed_and_counted() -> None:
    world, (a, b) = opened(buffers=512)
    batch = b.new(100, 60)
    assert len(batch) == 100
    assert b.tx(batch) == 63
    assert b.pair.state["tx"]["no_room"][0] == 37
    world.check()
    assert len(a.new(1000, 60)) == 512 - 63 - 128


def test_forged_indices_are_caught() -> None:
    world, (a, b) = opened()
    bring(world, 60, 60)
    batch = a.rx(2)
    kept = batch.indices.copy()
    batch.indices[1] = 0xFFFF_FFFF
    with pytest.raises(IndexError):
        odd(batch)
    with pytest.raises(IndexError):
        b.tx(batch)
    assert world.nics[1]["errors"][0] == 0
    assert int(np.uint32(kept[0])) < 512


def touch(packet: Any, length: Any) -> bool:
    packet[48] += 1
    return True


def test_a_forwarder_forwards_one_batch_a_call() -> None:
    world, (a, b) = opened()
    forward = a.forwarder(touch, b, batch=4)
    bring(world, *[60] * 10)
    del a
    assert [forward() for _ in range(4)] == [4, 4, 2, 0]
    assert transmit(world.nics[1], 100) == 10
    assert int(world.pool.data(int(world.pairs[1].tx_slots[9, 0]), 60)[48]) == world.template.tobytes()[48] + 1
    world.check()


def test_a_forwarder_takes_a_kernel_for_batches_too() -> None:
    world, (a, b) = opened()
    forward = a.forwarder(odd, b, batch=4)
    bring(world, 60, 61, 62, 63, 65)
    assert [forward() for _ in range(3)] == [4, 1, 0]
    assert transmit(world.nics[1], 100) == 3
    world.check()


def test_bound_to_a_batch_receive_work_and_send_do_what_the_methods_do() -> None:
    world, (a, b) = opened()
    batch = a.batch(4)
    receive, work, send = a.receiver(batch), odd.on(batch), b.sender(batch)
    bring(world, 60, 61, 62, 63, 65)
    counts = []
    for _ in range(3):
        counts.append((receive(), work(), len(batch), send(), len(batch)))
    assert counts == [(4, 2, 2, 2, 0), (1, 1, 1, 1, 0), (0, 0, 0, 0, 0)]
    assert transmit(world.nics[1], 100) == 3
    assert [int(world.pool.data(int(world.pairs[1].tx_slots[i, 0]), 60)[16]) for i in range(3)] == [99, 99, 99]
    world.check()


def test_what_is_bound_keeps_its_batch_and_port() -> None:
    world, (a, b) = opened()
    batch = a.batch(4)
    receive, send = a.receiver(batch), b.sender(batch)
    bring(world, 60, 61)
    del a, b, batch
    gc.collect()
    assert (receive(), send(), receive()) == (2, 2, 0)
    assert transmit(world.nics[1], 100) == 2
    world.check()


def test_what_is_bound_raises_as_the_methods_do() -> None:
    world, (a, b) = opened()
    _, (other, _) = opened()
    bring(world, 60, 61, 62, 2048, 65)
    batch = a.batch(8)
    receive, work, send = a.receiver(batch), odd.on(batch), b.sender(batch)
    assert receive() == 5
    with pytest.raises(UsageError, match="has packets"):
        receive()
    with pytest.raises(IndexError):
        work()
    assert sorted(batch.lengths.tolist()) == [60, 61, 62, 65, 2048]
    with pytest.raises(UsageError, match="another session"):
        other.sender(batch)()
    batch.indices[1] = 0xFFFF_FFFF
    with pytest.raises(IndexError):
        send()
    with pytest.raises(UsageError, match="another session"):
        other.receiver(batch)()


def test_run_ends_with_the_packets_or_the_rounds() -> None:
    world, (a, b) = opened()
    bring(world, *[60] * 10)
    assert a.run(touch, b, rounds=3, batch=2) == 6
    assert a.run(touch, b, packets=3) == 3
    assert a.run(touch, b, rounds=5) == 1


def test_a_kernel_of_a_batch_has_no_metadata() -> None:
    with pytest.raises(UsageError, match="packet and length only"):
        ixy_vfio.kernel(lambda packet, length, meta: True)  # type: ignore[misc,arg-type]
