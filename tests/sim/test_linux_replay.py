"""The beginning of what Linux's ixgbe does with an 82599, replayed: its accesses must work, and break no rule.

`linux_first_accesses.txt` holds reads as `R offset value mask` and writes as `W offset value`. The mask says which
bits of the answer are determined; 0 where it depends on the state of the device (a poll loop, a table command).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ixy_vfio.hw import ixgbe
from tests.sim.nic_rig import Rig

LOG = Path(__file__).with_name("linux_first_accesses.txt")


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(shared_pages=True)
    yield rig
    rig.close()


def test_the_first_accesses_of_linux(rig: Rig) -> None:
    rows = [line.split() for line in LOG.read_text().splitlines() if not line.startswith("#")]
    for number, (operation, *numbers) in enumerate(rows):
        offset, value, *mask = (int(word, 16) for word in numbers)
        if operation == "W":
            rig.nic.bar.write(offset, value)
        else:
            answer = rig.nic.bar.read(offset)
            assert answer & mask[0] == value & mask[0], f"access {number}: {offset:#07x} gave {answer:#010x}"
    assert len(rows) == 400
    assert rig.violations == []


def reset_hw(rig: Rig) -> None:
    """Stop, as Linux does: receiver off, interrupts masked, queues flushed, master disabled; then reset."""
    rig.write(ixgbe.RXCTRL, rig.read(ixgbe.RXCTRL) & ~1)
    rig.write(ixgbe.EIMC, 0xFFFF_0000)
    rig.write(ixgbe.EIMC_EX, 0xFFFF_FFFF, 0)
    rig.write(ixgbe.EIMC_EX, 0xFFFF_FFFF, 1)
    rig.read(ixgbe.EICR)
    for queue in range(128):
        rig.write(ixgbe.TXDCTL, 0x0400_0000, queue)
        rig.write(ixgbe.RXDCTL, rig.read(ixgbe.RXDCTL, queue) & ~0x0200_0000, queue)
    rig.write(ixgbe.CTRL, rig.read(ixgbe.CTRL) | 0x4)
    assert rig.read(ixgbe.STATUS) & 0x0008_0000 == 0
    rig.write(ixgbe.CTRL, rig.read(ixgbe.CTRL) | 0x0400_0008)
    rig.wait(0.050)
    assert rig.read(ixgbe.CTRL) & 0x0400_0008 == 0


def test_start_up_as_linux_does_it_breaks_no_rule(rig: Rig) -> None:
    for _ in range(3):
        reset_hw(rig)
        for queue in range(128):
            rig.write(ixgbe.RTTDQSEL, queue)
            rig.write(ixgbe.RTTBCNRC, 0)
            rig.write(ixgbe.DCA_TXCTRL, rig.read(ixgbe.DCA_TXCTRL, queue) & ~0x0800, queue)
            rig.write(ixgbe.DCA_RXCTRL, rig.read(ixgbe.DCA_RXCTRL, queue) & ~0xA000, queue)
        rig.write(ixgbe.CTRL_EXT, rig.read(ixgbe.CTRL_EXT) | 0x0001_0000)
        rig.write(ixgbe.RDRXCTL, rig.read(ixgbe.RDRXCTL) & ~0x003E_0000 | 0x0600_0002)
        rig.write(ixgbe.FDIRHKEY, 0x3DAD_14E2)
        rig.write(ixgbe.FDIRSKEY, 0x174D_3614)
        rig.write(ixgbe.FDIRCTRL, 0x4A00_0011)
        assert rig.read(ixgbe.FDIRCTRL) & 0x8  # initialised
        rig.write(ixgbe.GPIE, 0xC000_0030)
        rig.write(ixgbe.EIAC, 0x4000_FFFF)
        rig.write(ixgbe.EIAM_EX, 0xFFFF_FFFF, 0)
        rig.write(ixgbe.EIMS, 0xC030_0000 | 0xFFFF)
        for _, low, high in (("", ixgbe.GORCL, ixgbe.GORCH), ("", ixgbe.TORL, ixgbe.TORH)):
            assert (rig.read(low), rig.read(high)) == (0, 0)
    assert rig.violations == []
