"""Initialisation: every register access, in order, under the datasheet section that asks for it."""

from pathlib import Path

import pytest

from ixy_vfio.core.errors import DeadlineError, DeviceError, DeviceGone
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import init
from tests.unit.ixgbe_support import DEVICE_ID_KX4, DEVICE_ID_X540, compact, make_port

GOLDEN = Path(__file__).parent / "golden" / "ixgbe_init.txt"


def test_golden_trace_of_a_whole_life() -> None:
    """To renew it after a wanted change: write `text` to GOLDEN, and read every line of the difference."""
    port, device = make_port()
    parts = []
    for title, step in (("initialise", port.initialise), ("enable_receive", port.enable_receive), ("stop", port.stop)):
        device.bar0.trace.clear()
        step()
        parts += [f"# {title}", *compact(device.bar0.trace)]
    text = "\n".join(parts) + "\n"
    assert text == GOLDEN.read_text()


def test_sections_stand_in_the_order_of_the_book() -> None:
    port, device = make_port()
    port.initialise()
    sections = list(dict.fromkeys(section for section, *_ in device.bar0.trace))
    assert sections == [
        "4.6.3.1",
        "5.2.5.3.2",
        "4.6.3.2",
        "4.6.3",
        "4.6.4",
        "10.5.4",
        "4.6.5",
        "4.6.7",
        "4.6.8",
        "4.6.11.3.4",
    ]


def test_several_queues_share_the_flows_by_rss() -> None:
    port, device = make_port(PortConfig(queues=3, rx_ring=64, tx_ring=128))
    port.initialise()
    bar = device.bar0
    assert bar["MRQC"] == 0x00F3_0001
    assert bar["RXCSUM"] == 1 << 13
    assert bar["RETA[0]"] == 0x00020100
    assert bar["RETA[31]"] == 0x01000201
    for queue in range(3):
        assert bar[f"RDBAL[{queue}]"] == 0x2340_0000 + queue * 0x2000
        assert bar[f"TDBAL[{queue}]"] == 0x2340_1000 + queue * 0x2000
        assert (bar[f"RDBAH[{queue}]"], bar[f"TDBAH[{queue}]"]) == (1, 1)
        assert (bar[f"RDLEN[{queue}]"], bar[f"TDLEN[{queue}]"]) == (1024, 2048)
        assert bar[f"SRRCTL[{queue}]"] == 0x1200_0402  # drop when this ring is empty, the others go on
        assert bar[f"RXDCTL[{queue}]"] == 1 << 25
    assert bar["RXDCTL[3]"] == 0


def test_jumbo_frames() -> None:
    port, device = make_port(PortConfig(mtu=9000))
    port.initialise()
    assert device.bar0["MAXFRS"] == 9018 << 16
    assert device.bar0["HLREG0"] & 1 << 2


def test_backplane_keeps_the_mode_of_the_eeprom() -> None:
    port, device = make_port(device_id=DEVICE_ID_KX4)
    device.bar0["AUTOC"] = 0xC09C_8004
    port.initialise()
    assert device.bar0.written("AUTOC") == [0xC09C_9004]  # Restart_AN, nothing else
    assert device.bar0.written("ESDP") == []


def test_copper_link_is_left_to_its_phy_and_the_buffer_is_smaller() -> None:
    port, device = make_port(device_id=DEVICE_ID_X540)
    port.initialise()
    assert device.bar0.written("AUTOC") == []
    assert device.bar0.written("RXPBSIZE[0]") == [384 << 10]


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        ("EEC", 0x100, "EEC: ard is not 1"),
        ("RDRXCTL", 0, "RDRXCTL: dmaidone is not 1"),
    ],
)
def test_hardware_that_never_comes_up_ends_in_a_deadline(
    register: str, value: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, device = make_port()
    device.bar0[register] = value
    monkeypatch.setattr("ixy_vfio.core.mmio.time.sleep", lambda seconds: None)
    with pytest.raises(DeadlineError, match=message):
        port.initialise()


def test_a_reset_that_never_ends_is_a_deadline() -> None:
    port, device = make_port()
    device.bar0.on_write["CTRL"] = lambda value: value
    with pytest.raises(
        DeadlineError, match=r"CTRL: rst is not 0, lrst is not 0 after 0.1 s \(datasheet section 4.6.3.2\)"
    ):
        port.initialise()


@pytest.mark.parametrize("register", ["RXDCTL[0]", "TXDCTL[0]"])
def test_a_queue_that_does_not_come_up_is_a_deadline(register: str) -> None:
    port, device = make_port()
    device.bar0.on_write[register] = lambda value: value & ~(1 << 25)
    with pytest.raises(DeadlineError, match=r"enable is not 1 after 0.1 s"):
        port.initialise()
    assert device.config[4] == 0x2  # and no DMA


def test_a_busy_pcie_master_costs_a_second_reset() -> None:
    port, device = make_port()
    device.bar0["STATUS"] = 1 << 19
    port.initialise()
    assert [value for value in device.bar0.written("CTRL") if value & 1 << 26] == [0x0400_000C, 0x0400_0008]


def test_silent_manageability_is_noted_and_lived_with() -> None:
    port, device = make_port()
    device.bar0["EEMNGCTL"] = 0
    port.initialise()
    assert len(port.notes) == 1
    assert "EEMNGCTL: cfg_done0 is not 1" in port.notes[0]


def test_a_board_without_eeprom_is_refused() -> None:
    port, device = make_port()
    device.bar0["EEC"] = 0x200
    with pytest.raises(DeviceError, match="no EEPROM"):
        port.initialise()


def test_a_removed_device_is_noticed_at_the_first_read() -> None:
    port, device = make_port()
    device.bar0.gone = True
    with pytest.raises(DeviceGone, match="CTRL reads all ones"):
        port.initialise()


def test_a_semaphore_that_a_dead_driver_holds_is_broken() -> None:
    port, device = make_port()
    device.bar0["SWSM"] = 1
    port.initialise()
    assert device.bar0.written("SWSM")[0] == 0


def test_thresholds_have_seven_bits() -> None:
    from ixy_vfio.drivers.ixgbe.regs.packet import TXDCTL

    port, device = make_port()
    device.bar0["TXDCTL[0]"] = 0x007F_7F7F
    port.initialise()
    value = TXDCTL.of(device.bar0["TXDCTL[0]"])
    assert (value.pthresh, value.hthresh, value.wthresh) == (init.PREFETCH, init.HOST, init.WRITE_BACK)
