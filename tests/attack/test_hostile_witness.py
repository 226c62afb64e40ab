"""The witness of the hostile NIC's tests sees what it is there for: each rule is broken once, by hand."""

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ixy_vfio.sim.hostile import Spec
from tests.attack.fences import PAGE, Fence
from tests.attack.hostile_world import PACKETS_IOVA, RULES, Broken, World

DATA_WORD = 0x2330_0000  # data, EOP, IFCS, DEXT
BUFFER = 3  # one of the buffers that the first port has been given
FIRST = PACKETS_IOVA + BUFFER * 2112 + 64


def idle(state: Any) -> int:
    """In the place of the driver's loop."""
    return 0


@pytest.fixture
def world() -> World:
    one = World(idle)
    one.start(Spec.parse("1,length"))
    one.claims[0][BUFFER] = 2048
    one.packets.array.reshape(-1, 2112)[BUFFER, 64:] = 100  # the kernel's seal: that is how long it was
    return one


def send(world: World, *descriptors: tuple[int, int]) -> None:
    """What the driver would do to the transmit ring and its doorbell."""
    ring = world.rings[0].array.view(np.uint64)
    for at, words in enumerate(descriptors):
        ring[2 * (world.ring + at) : 2 * (world.ring + at) + 2] = words
    world.bells[0][1][0] = len(descriptors)
    world.look()


def one(length: int, paylen: int | None = None) -> int:
    return DATA_WORD | length | (length if paylen is None else paylen) << 46


def test_what_is_right(world: World) -> None:
    send(world, (FIRST, one(100)))
    assert int(world.witnesses["frames"][0]) == 1


@pytest.mark.parametrize(
    ("rule", "descriptors"),
    [
        (2, [(FIRST - 64, one(100))]),
        (2, [(PACKETS_IOVA + 2112 * 10_000 + 64, one(100))]),
        (3, [(FIRST, one(100) & ~(1 << 25))]),
        (3, [(FIRST, one(100) | 1 << 26)]),
        (4, [(FIRST, one(0))]),
        (4, [(FIRST, one(2049))]),
        (4, [(FIRST + 2112, one(100))]),
        (5, [(FIRST, one(100)), (FIRST, one(100))]),
        (6, [(FIRST, one(100, 101))]),
        (7, [(FIRST, one(100) & ~(1 << 24))]),
        (9, [(FIRST, one(99))]),
    ],
)
def test_what_is_wrong(world: World, rule: int, descriptors: list[tuple[int, int]]) -> None:
    with pytest.raises(Broken, match=f"port 0: {RULES[rule]}"):
        send(world, *descriptors)


def test_stale_bytes(world: World) -> None:
    world.packets.array.reshape(-1, 2112)[BUFFER, 64 + 99] = 0xC5
    with pytest.raises(Broken, match=RULES[8]):
        send(world, (FIRST, one(100)))


@pytest.mark.parametrize("words", [(FIRST, 1), (FIRST + 8, 0), (0, 0)])
def test_what_the_device_is_given(world: World, words: tuple[int, int]) -> None:
    world.rings[0].array.view(np.uint64)[0:2] = words
    world.bells[0][0][0] = 0
    with pytest.raises(Broken, match=RULES[1]):
        world.look()


def test_a_doorbell_outside_the_ring(world: World) -> None:
    world.bells[0][1][0] = world.ring
    with pytest.raises(Broken, match=RULES[10]):
        world.look()


def test_a_lost_buffer_and_one_with_two_owners(world: World) -> None:
    world.check()
    world.pool.state["free"] -= 1
    with pytest.raises(AssertionError, match="owners"):
        world.check()
    world.pool.state["free"] += 1
    world.pool.stack[0] = world.pool.stack[1]
    with pytest.raises(AssertionError, match="owners"):
        world.check()


def test_bytes_between_buffers(world: World) -> None:
    world.packets.array[2112 + 63] ^= 1
    with pytest.raises(AssertionError, match="between the buffers"):
        world.check()


def test_bytes_before_the_driver_s_arrays(world: World) -> None:
    for fence in world.fences.all:
        before = np.frombuffer(fence._map, np.uint8)[PAGE : PAGE + 1]
        if fence.size % PAGE:
            before ^= 1
            with pytest.raises(AssertionError, match="around the driver's memory"):
                world.fences.check()
            before ^= 1
    world.check()


def in_a_child(body: Callable[[], None]) -> int:
    """The status that a child ends with which runs `body`."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        body()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("beyond", [0, -1])
def test_a_page_that_must_not_be_touched(beyond: int) -> None:
    """Also a read kills. (`beyond` counts from the end of the memory, or of the page before it.)"""
    fence = Fence(PAGE)
    whole = np.frombuffer(fence._map, np.uint8)
    at = PAGE + fence.size if beyond == 0 else PAGE - 1
    assert in_a_child(lambda: print(whole[at])) == -signal.SIGSEGV
    assert in_a_child(lambda: print(fence.array[-1])) == 0
