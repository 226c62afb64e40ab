"""The hostile mode itself: replays from its seed, reaches what is mapped and nothing else, ends when it is told to."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.core.errors import UsageError
from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim.dataplane import DataPlane
from ixy_vfio.sim.hostile import MOVES, Hostile, Spec, new_state
from ixy_vfio.sim.hostile_moves import Move, step
from ixy_vfio.sim.hostile_registers import KINDS, Lies
from ixy_vfio.transport import wire
from tests.sim.nic_rig import Rig

IOVA, PAGE = 0x1000_0000, 4096
CANARY = 0x7E


class Port:
    """A port with one window in the middle of memory, and rings in it."""

    def __init__(self, window: int = 64 * PAGE) -> None:
        self.memory: NDArray[np.uint8] = np.full(window + 2 * PAGE, CANARY, np.uint8)
        self.registers: NDArray[np.uint32] = np.zeros(ixgbe.BAR0_SIZE // 4, np.uint32)
        self.plane = DataPlane()
        self.port = self.plane.add_port(self.registers)
        self.port.dma.map(IOVA, window, self.memory.ctypes.data + PAGE, True, True)
        self.write(ixgbe.RDBAL, IOVA)
        self.write(ixgbe.TDBAL, IOVA + PAGE)
        for row in (ixgbe.RDLEN, ixgbe.TDLEN):
            self.write(row, 64 * 16)
        self.write(ixgbe.SRRCTL, 1 << 25 | 2)
        ring = self.inside.view(np.uint64)[: 2 * 64]
        ring[::2] = IOVA + 2 * PAGE + np.arange(64, dtype=np.uint64) * np.uint64(2048)
        ring[1::2] = 0

    def write(self, row: Register, value: int) -> None:
        self.registers[row.offset(0) // 4] = value

    @property
    def inside(self) -> NDArray[np.uint8]:
        return self.memory[PAGE:-PAGE]

    def moves(self, spec: str, count: int, tape: NDArray[np.uint64] | None = None) -> tuple[int, bytes]:
        """How many were done, and what the memory holds then."""
        state = new_state(Spec.parse(spec), 0, tape)
        for row in (ixgbe.RDT, ixgbe.TDT):
            self.write(row, 63)
        done = int(step(state.ctypes.data, self.port.address, count))
        return done, self.inside.tobytes()


def test_specs() -> None:
    assert Spec.parse("7") == Spec(7, tuple(MOVES.values()), KINDS)
    assert Spec.parse("0,torn,ones,length") == Spec(0, (Move.LENGTH, Move.TORN), ("ones",))


@pytest.mark.parametrize("text", ["", "x", "-1", "7,", "7,honest", "7 ,torn", "7,nothing", "0x7"])
def test_specs_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"give SEED\[,KIND\.\.\.\]"):
        Spec.parse(text)


def test_the_same_seed_does_the_same() -> None:
    assert Port().moves("7", 20_000) == Port().moves("7", 20_000)
    assert Port().moves("7", 20_000) != Port().moves("8", 20_000)


@pytest.mark.parametrize("name", MOVES)
def test_every_kind_does_something(name: str) -> None:
    only_honest = Port().moves("7", 0)[1]
    assert Port().moves(f"7,{name}", 1000)[1] != only_honest


def test_what_is_not_mapped_is_not_reached() -> None:
    """Neither bus master nor an enable bit holds it back; the windows do."""
    one = Port()
    assert one.port.bus_master is False
    one.moves("7", 300_000)
    assert (one.memory[:PAGE] == CANARY).all()
    assert (one.memory[-PAGE:] == CANARY).all()


def test_a_ring_that_is_not_wholly_mapped_is_left_alone() -> None:
    one = Port()
    one.write(ixgbe.RDBAL, IOVA + 64 * PAGE - 512)
    one.write(ixgbe.TDBAL, IOVA + 64 * PAGE - 512)
    before = one.inside.tobytes()
    assert one.moves("7,early,twice,torn,status,rings", 10_000) == (10_000, before)


def test_nothing_happens_without_a_window() -> None:
    one = Port()
    one.port.dma.unmap_all()
    before = one.inside.tobytes()
    assert one.moves("7", 10_000) == (0, before)


def test_a_tape_decides_until_its_end() -> None:
    tape = np.arange(100, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    done, memory = Port().moves("7", 1000, tape)
    assert done == 100
    assert Port().moves("8", 1000, tape) == (100, memory)  # whatever the seed is


def test_a_port_can_be_made_honest_again() -> None:
    one, rig = Port(), Rig()
    hostile = Hostile(Spec.parse("7,status,link,ones"), one.plane, rig.nic)
    hostile.attach()
    for _ in range(200):
        hostile.step()
        rig.wait(0.001)
        rig.nic.region_read(wire.BAR0_REGION, ixgbe.STATUS.offset(), 4)
        rig.nic.region_read(wire.BAR0_REGION, ixgbe.LINKS.offset(), 4)
    told = hostile.status()
    assert told["descriptors"] > 0
    assert {"link", "flaps"} <= set(told["lies"])
    hostile.detach()
    assert (one.plane.hostile, rig.nic.hostile, rig.nic.link.allowed) == ({}, None, True)
    rig.close()


def test_polls_of_one_register_are_one_access() -> None:
    """However often a driver looks meanwhile, it is told the same, and the lies behind it are the same."""

    def told(polls: int) -> list[bytes]:
        rig = Rig()
        lies = Lies(7, ("garbage", "stuck"), rig.nic)
        answers = []
        for offset in range(0, 0x4000, 4):
            for _ in range(polls):
                answer = lies.answer(wire.BAR0_REGION, offset, 4, bytes(4))
            answers.append(answer)
        rig.close()
        return answers

    assert told(1) == told(5)
    assert any(int.from_bytes(answer, "little") for answer in told(1))
