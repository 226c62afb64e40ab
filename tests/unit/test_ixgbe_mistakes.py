"""Mistakes that earlier drivers of this NIC handed on to each other; here each has a test that it is not made."""

import numpy as np
import pytest

from ixy_vfio.core.errors import DeadlineError, UsageError
from ixy_vfio.core.registers import AccessError
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import irq
from ixy_vfio.drivers.ixgbe.regs.general import EIMC, EIMS, IVAR
from ixy_vfio.drivers.ixgbe.regs.packet import DTXMXSZRQ, RDBAL, TXDCTL
from tests.unit.ixgbe_support import FakeBar, make_port


def test_dtxmxszrq_is_a_12_bit_field() -> None:
    port, device = make_port()
    port.initialise()
    assert device.bar0.written("DTXMXSZRQ") == [0xFFF]
    with pytest.raises(ValueError, match="max_bytes_num_req has 12 bits"):
        DTXMXSZRQ(max_bytes_num_req=0xFFFF)


def test_interrupts_are_disabled_by_eimc_and_never_by_writing_0_to_eims() -> None:
    port, device = make_port()
    port.initialise()
    port.enable_interrupts([10, 11])
    port.disable_interrupts()
    port.stop()
    bar = device.bar0
    assert [op[2] for op in bar.trace[:3]] == ["EIMC", "EIMC_EX[0]", "EIMC_EX[1]"]
    assert 0 not in bar.written("EIMS") + bar.written("EIMS_EX[0]") + bar.written("EIMS_EX[1]")
    with pytest.raises(AccessError, match="W1S"):
        EIMS.modify(bar, lsc=0)
    with pytest.raises(AccessError, match="write-only"):
        EIMC.read(bar)


def test_all_eventfds_are_set_in_one_call_so_that_none_replaces_another() -> None:
    port, device = make_port(PortConfig(queues=3))
    port.initialise()
    port.enable_interrupts([10, 11, 12, 13])
    assert [event for event in device.events if event[0] == "interrupts"] == [("interrupts", (10, 11, 12, 13))]


def test_vectors_above_31_have_a_register_of_their_own() -> None:
    bar = FakeBar()
    irq.unmask(bar, 40)
    irq.mask(bar, 63)
    irq.unmask(bar, 31)
    assert [access[1:] for access in bar.trace] == [
        ("write", "EIMS_EX[1]", 1 << 8),
        ("write", "EIMC_EX[1]", 1 << 31),
        ("write", "EIMS_EX[0]", 1 << 31),
    ]
    with pytest.raises(ValueError, match="rx_even has 6 bits"):
        IVAR(rx_even=64)


def test_dead_hardware_does_not_hang_the_process() -> None:
    port, device = make_port()
    device.bar0.on_write["CTRL"] = lambda value: value  # the reset never ends
    with pytest.raises(DeadlineError):
        port.initialise()


def test_txdctl_thresholds_have_seven_bits() -> None:
    assert [TXDCTL.fields[name].width for name in ("pthresh", "hthresh", "wthresh")] == [7, 7, 7]
    port, device = make_port()
    device.bar0["TXDCTL[0]"] = 0x007F_7F7F  # whatever was there: nothing of it stays
    port.initialise()
    assert device.bar0["TXDCTL[0]"] == 0x0204_0120


def test_eicr_is_never_read() -> None:
    """EIAC clears the queue causes; a read of EICR would take away more."""
    port, device = make_port()
    port.initialise()
    port.enable_interrupts([10, 11])
    port.acknowledge_link()
    port.stop()
    assert "EICR" not in device.bar0.read_names()
    assert device.bar0.written("EICR") == [1 << 20, 1 << 20]


def test_rings_are_given_to_the_device_by_iova_never_by_address() -> None:
    port, device = make_port()
    port.initialise()
    queue = port.queue(0)
    assert queue.rx.iova == 0x1_2340_0000 != queue.rx.address
    assert (device.bar0["RDBAH[0]"] << 32) | device.bar0["RDBAL[0]"] == queue.rx.iova
    assert (device.bar0["TDBAH[0]"] << 32) | device.bar0["TDBAL[0]"] == queue.tx.iova


def test_promiscuous_only_on_request() -> None:
    port, device = make_port()
    port.initialise()
    assert device.bar0["FCTRL"] == 1 << 10
    port.promiscuous = True
    assert device.bar0["FCTRL"] == 7 << 8
    port.promiscuous = False
    assert device.bar0["FCTRL"] == 1 << 10


def test_no_tail_is_written_by_control() -> None:
    port, device = make_port(PortConfig(queues=2))
    port.initialise()
    port.enable_receive()
    port.stop()
    assert not [name for _, op, name, _ in device.bar0.trace if op == "write" and name[:3] in ("RDT", "TDT")]


def test_a_numpy_integer_is_refused_where_a_shift_would_make_it_0() -> None:
    with pytest.raises(TypeError, match="takes a Python int, not uint32"):
        RDBAL(base=np.uint32(1))


def test_the_link_is_sfi_and_the_laser_is_on() -> None:
    port, device = make_port()
    device.bar0["AUTOC"] = 0x0000_2004  # what another driver may have left: 10G parallel
    device.bar0["ESDP"] = 1 << 3 | 1 << 11  # laser off
    port.initialise()
    assert device.bar0.written("AUTOC") == [3 << 13 | 1 << 12 | 4]
    assert device.bar0["AUTOC2"] == 2 << 16
    assert device.bar0["ESDP"] == 1 << 5 | 1 << 11 | 1 << 13


def test_more_queues_than_rss_reaches_are_refused() -> None:
    with pytest.raises(UsageError, match="17 queues: choose 1 to 16"):
        make_port(PortConfig(queues=17))
