"""From causes to messages: masks, automatic clearing and masking, vectors, throttling, MSI-X."""

import os
from collections.abc import Iterator

import pytest

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.config_space import MSIX_CONTROL
from ixy_vfio.sim.msix import PBA_OFFSET
from ixy_vfio.transport import wire
from tests.sim.nic_rig import Rig

MSIX_MODE, OCD, EIAME = 0x10, 0x20, 1 << 30
LSC = 1 << 20


class Messages:
    """Eventfds for the first vectors of a rig."""

    def __init__(self, rig: Rig, count: int) -> None:
        self.rig = rig
        self.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        rig.start()
        rig.nic.msix.assign(0, [os.dup(fd) for fd in self.fds])
        rig.nic.config.enable(wire.MSIX_IRQ, True)

    def take(self) -> list[int]:
        """Messages since the last call, by vector."""
        counts = []
        for fd in self.fds:
            try:
                counts.append(os.eventfd_read(fd))
            except BlockingIOError:
                counts.append(0)
        return counts

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.read(ixgbe.EICR)  # the link came up before the test
    yield rig
    rig.close()


@pytest.fixture
def messages(rig: Rig) -> Iterator[Messages]:
    messages = Messages(rig, 4)
    yield messages
    messages.close()


def queue_mode(rig: Rig, gpie: int = MSIX_MODE) -> None:
    """RX queue 0 on vector 0, TX queue 0 on 1, RX queue 3 on 2, other causes on 3."""
    rig.write(ixgbe.GPIE, gpie)
    rig.write(ixgbe.IVAR, 0x0000_8180, 0)
    rig.write(ixgbe.IVAR, 0x0082_0000, 1)
    rig.write(ixgbe.IVAR_MISC, 0x8300)


def test_eims_sets_and_eimc_clears_bits(rig: Rig) -> None:
    rig.write(ixgbe.EIMS, 0x0010_0003)
    rig.write(ixgbe.EIMS, 0)  # no effect: it only sets
    assert rig.read(ixgbe.EIMS) == 0x0010_0003
    rig.write(ixgbe.EIMC, 0x0010_0001)
    assert rig.read(ixgbe.EIMS) == 2
    assert rig.violations == []


def test_the_low_16_bits_of_eims_and_eims_ex_are_the_same(rig: Rig) -> None:
    rig.write(ixgbe.EIMS_EX, 0x8000_0005, 0)
    rig.write(ixgbe.EIMS_EX, 0x0000_0001, 1)
    assert rig.read(ixgbe.EIMS) == 5
    assert rig.read(ixgbe.EIMS_EX, 0) == 0x8000_0005
    rig.write(ixgbe.EIMC, 1)
    assert (rig.read(ixgbe.EIMS_EX, 0), rig.read(ixgbe.EIMS_EX, 1)) == (0x8000_0004, 1)


def test_causes_by_ivar_in_single_vector_mode(rig: Rig, messages: Messages) -> None:
    rig.write(ixgbe.IVAR, 0x0000_8580, 0)
    rig.write(ixgbe.EIMS, 0x21)
    rig.port.transmit_causes[0] = 1
    rig.nic.tick(rig.now)
    assert rig.port.transmit_causes[0] == 0
    assert messages.take() == [1, 0, 0, 0]
    assert rig.read(ixgbe.EICS) == 0x20  # reading EICS does not clear
    assert rig.read(ixgbe.EICR) == 0x20
    assert rig.read(ixgbe.EICR) == 0


def test_a_masked_cause_is_seen_but_sends_no_message_until_it_is_enabled(rig: Rig, messages: Messages) -> None:
    rig.write(ixgbe.EICS, 0x4)
    assert messages.take() == [0, 0, 0, 0]
    rig.write(ixgbe.EIMS, 0x4)
    assert messages.take() == [1, 0, 0, 0]
    assert rig.read(ixgbe.EICR) == 0x4


def test_every_queue_has_its_vector_in_msix_mode(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIMS_EX, 0xF, 0)
    for causes, queue, expected in (
        (rig.port.receive_causes, 0, [1, 0, 0, 0]),
        (rig.port.transmit_causes, 0, [0, 1, 0, 0]),
        (rig.port.receive_causes, 3, [0, 0, 1, 0]),
        (rig.port.transmit_causes, 3, [0, 0, 0, 0]),  # its IVAR entry is not valid
    ):
        causes[queue] = 1
        rig.nic.tick(rig.now)
        assert messages.take() == expected


def test_eiac_clears_what_a_message_was_sent_for(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIAC, 0x1)
    rig.write(ixgbe.EIMS, 0x3)
    rig.write(ixgbe.EICS, 0x3)
    assert messages.take() == [1, 1, 0, 0]
    assert rig.read(ixgbe.EICR) == 0x2


def test_eiam_masks_when_a_message_is_sent(rig: Rig, messages: Messages) -> None:
    queue_mode(rig, MSIX_MODE | EIAME)
    rig.write(ixgbe.EIAM_EX, 0x1, 0)
    rig.write(ixgbe.EIAC, 0xFFFF)
    rig.write(ixgbe.EIMS, 0x3)
    for _ in range(3):
        rig.write(ixgbe.EICS, 0x3)
    assert messages.take() == [1, 3, 0, 0]
    assert rig.read(ixgbe.EIMS) == 0x2
    rig.write(ixgbe.EIMS_EX, 0x1, 0)  # the cause that came while it was masked
    assert messages.take() == [1, 0, 0, 0]


def test_eiam_masks_on_reading_eicr_without_eiame(rig: Rig) -> None:
    rig.write(ixgbe.EIAM, 0x1)
    rig.write(ixgbe.EIMS, 0x3)
    rig.write(ixgbe.EICS, 0x3)
    assert rig.read(ixgbe.EICR) == 0x3
    assert rig.read(ixgbe.EIMS) == 0x2


def test_with_ocd_reading_eicr_clears_bits_16_to_29_only(rig: Rig) -> None:
    rig.write(ixgbe.GPIE, OCD)
    rig.write(ixgbe.EICS, LSC | 0x5)
    assert rig.read(ixgbe.EICR) == LSC | 0x5
    assert rig.read(ixgbe.EICR) == 0x5
    rig.write(ixgbe.EICR, 0x1)
    assert rig.read(ixgbe.EICR) == 0x4


def test_link_status_change_has_the_vector_of_ivar_misc(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIMS, LSC)
    rig.nic.link.allowed = False
    rig.wait(0.002)
    assert messages.take() == [0, 0, 0, 1]
    assert rig.read(ixgbe.EICR) == LSC | 1 << 31
    rig.nic.link.allowed = True
    rig.wait(0.020)
    assert messages.take() == [0, 0, 0, 1]


def test_eitr_holds_messages_back(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIAC, 0xFFFF)
    rig.write(ixgbe.EITR, 0x8000_0000 | 250 << 3, 0)  # 512 us
    rig.write(ixgbe.EIMS, 0x1)
    for _ in range(3):
        rig.write(ixgbe.EICS, 0x1)
    assert messages.take() == [1, 0, 0, 0]
    rig.wait(0.0004)
    assert messages.take() == [0, 0, 0, 0]
    rig.wait(0.0003)
    assert messages.take() == [1, 0, 0, 0]
    rig.wait(0.0010)
    assert messages.take() == [0, 0, 0, 0]


def test_tick_says_when_a_held_message_is_due(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EITR, 0x8000_0000 | 500 << 3, 0)
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert rig.nic.interrupts.tick(rig.now) == pytest.approx(rig.now + 500 * 2.048e-6)


def test_a_held_message_is_dropped_when_its_cause_is_cleared(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EITR, 0x8000_0000 | 250 << 3, 0)
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICR, 0x1)
    rig.wait(0.002)
    assert messages.take() == [1, 0, 0, 0]


def test_writing_the_counter_of_eitr_lets_the_next_message_out(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EITR, 0x8000_0000 | 500 << 3, 0)
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert rig.read(ixgbe.EITR) >> 21 & 0x7F == 500 >> 2
    rig.write(ixgbe.EITR, 500 << 3, 0)
    assert messages.take() == [2, 0, 0, 0]


def test_a_masked_vector_is_pending_until_unmasked(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.nic.msix.write(0xC, b"\1\0\0\0")
    rig.write(ixgbe.EIMS, 0x1)
    rig.write(ixgbe.EICS, 0x1)
    assert messages.take() == [0, 0, 0, 0]
    assert rig.nic.msix.read(PBA_OFFSET, 8) == b"\1" + bytes(7)
    rig.nic.msix.write(0xC, bytes(4))
    assert messages.take() == [1, 0, 0, 0]
    assert rig.nic.msix.read(PBA_OFFSET, 8) == bytes(8)


@pytest.mark.parametrize("masked", ["function mask", "bus master"])
def test_nothing_is_sent_while_the_function_may_not(rig: Rig, messages: Messages, masked: str) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIMS, 0x1)
    off, on = (
        ((MSIX_CONTROL, 2, 0xC000), (MSIX_CONTROL, 2, 0x8000))
        if masked == "function mask"
        else ((4, 2, 0x0002), (4, 2, 0x0006))
    )
    rig.config_write(*off)
    rig.write(ixgbe.EICS, 0x1)
    assert messages.take() == [0, 0, 0, 0]
    rig.config_write(*on)
    assert messages.take() == [1, 0, 0, 0]


def test_a_reset_masks_and_clears_everything(rig: Rig, messages: Messages) -> None:
    queue_mode(rig)
    rig.write(ixgbe.EIMS, 0xF)
    rig.write(ixgbe.EICS, 0xF)
    messages.take()
    rig.write(ixgbe.CTRL, 0x0400_0000)
    assert (rig.read(ixgbe.EIMS), rig.read(ixgbe.EICR)) == (0, 0)
    assert rig.read(ixgbe.IVAR) == 0
    rig.write(ixgbe.EICS, 0x1)
    assert messages.take() == [0, 0, 0, 0]


def test_eventfds_are_closed_with_the_port(rig: Rig) -> None:
    messages = Messages(rig, 4)
    count = len(os.listdir("/proc/self/fd"))
    rig.nic.msix.release()
    assert len(os.listdir("/proc/self/fd")) == count - 4
    messages.close()
