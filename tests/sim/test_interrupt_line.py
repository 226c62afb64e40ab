"""INTx and MSI: configuration space, the line with its masks, the one message."""

import os
from collections.abc import Iterator

import pytest

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.signals import Intx, Msi
from ixy_vfio.transport import wire
from tests.sim.nic_rig import Rig

LSC = 1 << 20
COMMAND, STATUS, MSI = 0x04, 0x06, 0x50
ON, NO_LINE = 0x0006, 0x0406  # command register: memory and bus master; the same with INTx disabled


class Wire:
    """The eventfd of one kind of interrupt of a rig."""

    def __init__(self, rig: Rig, kind: Intx | Msi) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        rig.start()
        kind.assign(0, [os.dup(self.fd)])

    def take(self) -> int:
        """Signals since the last call."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.read(ixgbe.EICR)  # the link came up before the test
    yield rig
    assert rig.violations == []
    rig.close()


@pytest.fixture
def line(rig: Rig) -> Iterator[Wire]:
    line = Wire(rig, rig.nic.signals.intx)
    yield line
    os.close(line.fd)


@pytest.fixture
def msi(rig: Rig) -> Iterator[Wire]:
    msi = Wire(rig, rig.nic.signals.msi)
    rig.config_write(MSI + 2, 2, 1)
    yield msi
    os.close(msi.fd)


def config(rig: Rig, offset: int, size: int) -> int:
    return int.from_bytes(rig.nic.config.read(offset, size), "little")


def shown(rig: Rig) -> bool:
    """The interrupt bit of the status register."""
    return bool(config(rig, STATUS, 2) & 8)


def test_the_pin_and_the_list_of_capabilities(rig: Rig) -> None:
    assert config(rig, 0x3D, 1) == 1
    found, at = [], config(rig, 0x34, 1)
    while at:
        found.append((at, config(rig, at, 1)))
        at = config(rig, at + 1, 1)
    assert found == [(0x40, 0x01), (0x50, 0x05), (0x70, 0x11), (0xA0, 0x10), (0xE0, 0x03)]


def test_what_can_be_written_of_the_msi_capability(rig: Rig) -> None:
    assert rig.nic.config.read(MSI, 24) == bytes.fromhex("05708001") + bytes(20)
    rig.nic.config.write(MSI, b"\xff" * 24)
    assert rig.nic.config.read(MSI, 24) == bytes.fromhex("05708101 fcffffff ffffffff ffff0000 01000000 00000000")


def test_the_line_is_told_once_and_again_when_it_is_unmasked(rig: Rig, line: Wire) -> None:
    rig.write(ixgbe.EIMS, 0x5)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICS, 0x4)
    rig.config_write(0x3C, 1, 11)
    assert (line.take(), shown(rig)) == (1, True)
    rig.nic.signals.intx.mask(False)  # it is still up
    assert line.take() == 1
    assert rig.read(ixgbe.EICR) == 0x5
    assert not shown(rig)
    rig.write(ixgbe.EICS, 0x4)  # masked since it was told
    assert (line.take(), shown(rig)) == (0, True)
    rig.read(ixgbe.EICR)
    rig.nic.signals.intx.mask(False)
    assert line.take() == 0
    rig.write(ixgbe.EICS, 0x4)
    assert line.take() == 1
    assert rig.nic.signals.intx.sent == 3


def test_a_masked_line_is_told_when_it_is_unmasked(rig: Rig, line: Wire) -> None:
    rig.nic.signals.intx.mask(True)
    rig.write(ixgbe.EIMS, LSC)
    rig.write(ixgbe.EICS, LSC)
    assert (line.take(), shown(rig)) == (0, True)
    rig.nic.signals.intx.mask(False)
    assert line.take() == 1


@pytest.mark.parametrize("how", ["EICR written", "EIMC", "EICR read with EIAM", "reset"])
def test_what_takes_the_line_down(rig: Rig, line: Wire, how: str) -> None:
    rig.write(ixgbe.GPIE, 0x20)  # OCD: reading clears no queue bit
    rig.write(ixgbe.EIAM, 0x2)
    rig.write(ixgbe.EIMS, 0x2)
    rig.write(ixgbe.EICS, 0x2)
    assert (line.take(), shown(rig)) == (1, True)
    if how == "EICR written":
        rig.write(ixgbe.EICR, 0x2)
    elif how == "EIMC":
        rig.write(ixgbe.EIMC, 0x2)
    elif how == "reset":
        rig.write(ixgbe.CTRL, 0x0400_0000)
    else:
        assert rig.read(ixgbe.EICR) == 0x2
    assert not shown(rig)
    rig.nic.signals.intx.mask(False)
    assert line.take() == 0


def test_queues_by_ivar_raise_the_line(rig: Rig, line: Wire) -> None:
    rig.write(ixgbe.IVAR, 0x0000_8180, 0)
    rig.write(ixgbe.EIMS, 0x1)
    rig.port.transmit_causes[0] = 1  # bit 1: masked
    rig.nic.tick(rig.now)
    assert line.take() == 0
    rig.port.receive_causes[0] = 1
    rig.nic.tick(rig.now)
    assert line.take() == 1
    assert rig.read(ixgbe.EICR) == 0x3


def test_eitr_holds_the_line_back(rig: Rig, line: Wire) -> None:
    rig.write(ixgbe.EITR, 0x8000_0000 | 250 << 3, 0)  # 512 us
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    rig.read(ixgbe.EICR)
    rig.nic.signals.intx.mask(False)
    rig.write(ixgbe.EICS, 0x1)
    assert (line.take(), shown(rig)) == (1, False)
    rig.wait(0.0007)
    assert (line.take(), shown(rig)) == (1, True)


def test_the_command_register_holds_the_line_down(rig: Rig, line: Wire) -> None:
    rig.config_write(COMMAND, 2, NO_LINE)
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert (line.take(), shown(rig)) == (0, True)
    rig.config_write(COMMAND, 2, ON)
    assert line.take() == 1


def test_a_message_for_each_cause(rig: Rig, msi: Wire) -> None:
    rig.write(ixgbe.EIMS, 0x3)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICS, 0x2)
    rig.write(ixgbe.EICS, 0x4)  # masked
    assert msi.take() == 2
    assert not shown(rig)
    assert rig.nic.signals.msi.sent == 2


@pytest.mark.parametrize(("offset", "hold", "let"), [(MSI + 0x10, 1, 0), (COMMAND, 0x0002, ON), (MSI + 2, 0, 1)])
def test_a_message_that_may_not_be_sent_is_pending(rig: Rig, msi: Wire, offset: int, hold: int, let: int) -> None:
    rig.write(ixgbe.EIMS, 0x1)
    rig.config_write(offset, 2, hold)
    rig.write(ixgbe.EICS, 0x1)
    disabled = offset == MSI + 2  # then it is the line's, and no message
    assert (msi.take(), config(rig, MSI + 0x14, 4), shown(rig)) == (0, int(not disabled), disabled)
    rig.config_write(offset, 2, let)
    assert (msi.take(), config(rig, MSI + 0x14, 4), shown(rig)) == (int(not disabled), 0, False)


def test_one_kind_at_a_time(rig: Rig, line: Wire, msi: Wire) -> None:
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert (line.take(), msi.take()) == (0, 1)
    rig.nic.config.enable(wire.MSIX_IRQ, True)
    rig.write(ixgbe.EICS, 0x1)
    assert (line.take(), msi.take()) == (0, 0)
    assert rig.nic.msix.read(0x2000, 8) == b"\1" + bytes(7)
    rig.nic.config.enable(wire.MSIX_IRQ, False)
    rig.nic.config.enable(wire.MSI_IRQ, False)  # what was up all the time is now the line's
    assert (line.take(), msi.take()) == (1, 0)


def test_in_d3_the_line_is_down(rig: Rig, line: Wire) -> None:
    rig.config_write(0x44, 2, 3)
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert (line.take(), shown(rig)) == (0, False)


def test_eventfds_are_closed_with_the_port(rig: Rig, line: Wire, msi: Wire) -> None:
    count = len(os.listdir("/proc/self/fd"))
    rig.nic.signals.release()
    assert len(os.listdir("/proc/self/fd")) == count - 2
