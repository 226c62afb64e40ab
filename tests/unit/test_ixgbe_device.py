"""The life of a port: configuration, queues, link, counters, interrupts, stop."""

import dataclasses

import pytest

from ixy_vfio.core.errors import DeviceGone, LinkDown, UsageError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.datapath.format import Ring
from ixy_vfio.drivers import port as ports
from ixy_vfio.drivers.contract import Link, PortConfig, open_port
from ixy_vfio.drivers.ixgbe import link
from ixy_vfio.drivers.ixgbe.device import Ixgbe, ring_memory
from tests.unit import ixgbe_support
from tests.unit.ixgbe_support import FakeDevice, make_port


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queues": 0}, "0 queues"),
        ({"rx_ring": 100}, "a receive ring of 100 descriptors"),
        ({"tx_ring": 32}, "a transmit ring of 32 descriptors"),
        ({"tx_ring": 8192}, "a transmit ring of 8192 descriptors"),
        ({"mtu": 67}, "MTU 67: choose 68 to 9710"),
        ({"mtu": 9711}, "MTU 9711: choose 68 to 9710"),
        ({"buffer_size": 2112}, "buffers of 2112 bytes"),
        ({"buffer_size": 17408}, "buffers of 17408 bytes"),
        ({"mtu": 5099, "buffer_size": 1024}, "5 buffers of 1024 bytes hold 5098"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_without_a_register_access(
    change: dict[str, int], message: str
) -> None:
    config = dataclasses.replace(PortConfig(), **change)  # type: ignore[arg-type]
    device = FakeDevice()
    with pytest.raises(UsageError, match=message):
        Ixgbe(device, config, ixgbe_support.ring_memory(1 << 20))
    assert device.bar0.trace == []


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (PortConfig(), 2 * 8192),
        (PortConfig(rx_ring=64, tx_ring=64), 2 * 4096),
        (PortConfig(queues=16, rx_ring=4096, tx_ring=512), 16 * (65536 + 8192)),
    ],
)
def test_ring_memory(config: PortConfig, size: int) -> None:
    assert ring_memory(config) == size


def test_too_little_or_unaligned_ring_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="16384 bytes at a page boundary"):
        Ixgbe(FakeDevice(), PortConfig(), ixgbe_support.ring_memory(8192))
    good = ixgbe_support.ring_memory(16384)
    with pytest.raises(UsageError, match="page boundary"):
        Ixgbe(FakeDevice(), PortConfig(), DmaMemory(good.mapping, good.iova + 64, good.size, good.page_size))


def test_open_port_finds_the_driver_and_asks_for_its_ring_memory() -> None:
    asked = []

    def rings(size: int) -> DmaMemory:
        asked.append(size)
        return ixgbe_support.ring_memory(size)

    device = FakeDevice()
    assert isinstance(open_port(device, PortConfig(), rings), Ixgbe)
    assert asked == [16384]
    assert device.bar0.trace == []


def test_a_device_without_a_driver_is_refused() -> None:
    device = FakeDevice()
    device.config[2] = 0x1572
    with pytest.raises(UsageError, match=r"no driver for 8086:1572; it is not an ixgbe or igb device$"):
        open_port(device, PortConfig(), ixgbe_support.ring_memory)
    device.config[2] = 0x1522
    with pytest.raises(UsageError, match=r"no driver for 8086:1522; no driver here serves the I350 fiber$"):
        open_port(device, PortConfig(), ixgbe_support.ring_memory)
    device.config[0] = 0xFFFF
    with pytest.raises(DeviceGone, match="does not answer"):
        open_port(device, PortConfig(), ixgbe_support.ring_memory)


def test_a_queue_holds_rings_and_doorbells_and_nothing_else() -> None:
    port, _ = make_port(PortConfig(queues=2, rx_ring=64, tx_ring=128))
    with pytest.raises(UsageError, match="the port is not initialised"):
        port.queue(0)
    port.initialise()
    queue = port.queue(1)
    base = port.queue(0).rx.address
    assert queue.rx == Ring(base + 0x2000, 0x1_2340_2000, 64)
    assert queue.tx == Ring(base + 0x3000, 0x1_2340_3000, 128)
    assert (queue.rx_page.size, queue.tx_page.size) == (0x1000, 0x2000)
    assert (queue.rx_tail, queue.tx_tail) == (0x58, 0x58)  # RDT 0x1058 in page 0x1000, TDT 0x6058 in page 0x6000
    assert queue.rx_page is port.queue(0).rx_page
    with pytest.raises(UsageError, match="queue 2: the port has 2"):
        port.queue(2)
    page = queue.rx_page
    port.close()
    port.close()
    assert page.address == 0


def test_rings_are_zeroed_each_time() -> None:
    config = PortConfig(rx_ring=64, tx_ring=64)
    memory = ixgbe_support.ring_memory(ring_memory(config))
    port = Ixgbe(FakeDevice(), config, memory)
    port.initialise()
    assert bytes(memory.view) == bytes(8192)


def test_dma_is_off_until_the_device_was_reset() -> None:
    port, device = make_port()
    device.config[4] = 0x4  # left on by somebody
    commands = set()

    def reset(value: int) -> int:
        commands.add(device.config[4])
        return 0

    device.bar0.on_write["CTRL"] = reset
    port.initialise()
    assert commands == {0x2}
    assert device.config[4] == 0x6


def test_receive_is_enabled_by_its_own_step_only() -> None:
    port, device = make_port()
    port.initialise()
    assert device.bar0["RXCTRL"] == 0
    port.enable_receive()
    assert (device.bar0["RXCTRL"], device.bar0["SECRXCTRL"]) == (1, 0)
    with pytest.raises(UsageError, match="the port is receiving"):
        port.initialise()


def test_stop_ends_dma_and_flushes_with_a_read_outside_the_queue_pages() -> None:
    port, device = make_port()
    assert port.stop() == ()
    port.initialise()
    port.enable_receive()
    assert port.stop() == []
    bar = device.bar0
    assert (bar["RXCTRL"], bar["RXDCTL[0]"], bar["TXDCTL[0]"] >> 25, bar["DMATXCTL"] & 1) == (0, 0, 0, 0)
    assert bar.trace[-1][1:3] == ("read", "STATUS")
    assert device.events[-1] == ("config", 0x2)
    assert port.stop() == ()
    port.initialise()  # and from the start


def test_stop_reports_what_did_not_become_idle_and_still_turns_dma_off() -> None:
    port, device = make_port()
    port.initialise()
    device.bar0["TDT[0]"] = 5
    device.bar0.on_write["RXDCTL[0]"] = lambda value: value | 1 << 25
    device.bar0["SECRXSTAT"] = 0
    notes = port.stop()
    assert [note.split(" (")[0] for note in notes] == [
        "the receive path did not become empty",
        "receive queue 0 is still enabled",
        "transmit queue 0 was not sent to its end",
    ]
    assert "TDH[0]: head is not 5 after 0.1 s" in notes[2]
    assert device.config[4] == 0x2


def test_stop_of_a_removed_device_still_turns_dma_off() -> None:
    port, device = make_port()
    port.initialise()
    device.bar0.gone = True
    with pytest.raises(DeviceGone):
        port.stop()
    assert device.config[4] == 0x2


@pytest.mark.parametrize(
    ("links", "expected", "shown"),
    [
        (0x7000_0000, Link(True, 10_000), "up, 10 Gbit/s"),
        (0x6000_0000, Link(True, 1_000), "up, 1 Gbit/s"),
        (0x5000_0000, Link(True, 100), "up, 100 Mbit/s"),
        (0x7800_0000, Link(True, 2_500), "up, 2500 Mbit/s"),
        (0x5800_0000, Link(True, 5_000), "up, 5 Gbit/s"),
        (0x3000_0000, Link(False, 0), "down"),
    ],
)
def test_link(links: int, expected: Link, shown: str) -> None:
    port, device = make_port()
    device.bar0["LINKS"] = links
    assert port.link() == expected
    assert str(expected) == shown


def test_wait_link_retries_at_10_then_at_1_gbit_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ATTEMPT", 0.002)
    port, device = make_port()
    port.initialise()
    bar = device.bar0
    bar["LINKS"] = 0
    bar.trace.clear()

    def comes_up_at_1g(value: int) -> int:
        bar["LINKS"] = 0x6000_0000 if value >> 13 & 7 == 2 else 0
        return value & ~(1 << 12)

    bar.on_write["AUTOC"] = comes_up_at_1g
    assert port.wait_link(10.0) == Link(True, 1_000)
    assert [value >> 13 & 7 for value in bar.written("AUTOC")] == [3, 2]
    assert [value >> 5 & 1 for value in bar.written("ESDP")] == [1, 0]  # the module's rate select follows


def test_wait_link_gives_up() -> None:
    port, device = make_port()
    device.bar0["LINKS"] = 0
    with pytest.raises(LinkDown, match=r"no link after 0\.01 s \(LINKS 0x00000000\)"):
        port.wait_link(0.01)


def test_mac_is_that_of_the_eeprom_until_it_is_set() -> None:
    port, device = make_port()
    assert port.mac.hex(":") == "52:02:03:04:05:06"
    port.initialise()
    device.bar0.gone = True  # a report at the end needs no device
    assert port.mac.hex(":") == "52:02:03:04:05:06"


def test_mac_that_was_set_outlives_the_reset() -> None:
    port, device = make_port()
    port.mac = bytes.fromhex("020000000001")
    port.initialise()
    assert (device.bar0["RAL[0]"], device.bar0["RAH[0]"]) == (0x0000_0002, 0x8000_0100)
    port.mac = bytes.fromhex("0200000000ff")
    assert device.bar0["RAH[0]"] == 0x8000_FF00
    assert port.mac.hex() == "0200000000ff"


def test_an_eeprom_without_an_address_is_noted() -> None:
    port, device = make_port()
    device.bar0["RAL[0]"], device.bar0["RAH[0]"] = 0, 0x8000_0000
    port.initialise()
    assert port.notes == ["the EEPROM's address 00:00:00:00:00:00 is not one; set another"]


@pytest.mark.parametrize("address", ["", "0100000000ff", "000000000000", "02000000000000"])
def test_mac_that_no_port_can_have(address: str) -> None:
    port, _ = make_port()
    with pytest.raises(UsageError, match="address has 6 bytes"):
        port.mac = bytes.fromhex(address)


def test_counters_add_up_what_reads_clear() -> None:
    port, device = make_port(PortConfig(queues=2))
    port.initialise()
    bar = device.bar0
    bar["GPTC"], bar["GOTCL"], bar["GOTCH"] = 0xFFFF_FFFF, 0xFFFF_FFFF, 0xF
    bar["QPRC[0]"], bar["QPRC[1]"], bar["QPRDC[1]"], bar["RXMPC[0]"], bar["CRCERRS"] = 3, 4, 5, 6, 7
    bar["QPTC_82599[1]"], bar["QBRC_L[1]"], bar["QBRC_H[1]"], bar["QBTC_L[0]"] = 8, 9, 1, 10
    port.counters()
    totals = port.counters()  # the fake does not clear: every count twice
    assert totals.tx_packets == 2 * 0xFFFF_FFFF
    assert totals.tx_bytes == 2 * 0xF_FFFF_FFFF
    assert (totals.rx_packets, totals.rx_missed, totals.rx_errors) == (14, 12, 14)
    assert dataclasses.astuple(totals.queues[0]) == (6, 0, 0, 0, 20)
    assert dataclasses.astuple(totals.queues[1]) == (8, 2 * (1 << 32 | 9), 10, 16, 0)
    assert totals.registers["QPRC[1]"] == 8


def test_counters_of_a_removed_device_are_not_all_ones() -> None:
    port, device = make_port()
    port.initialise()
    before = port.counters()
    device.bar0.gone = True
    with pytest.raises(DeviceGone):
        port.counters()
    device.bar0.gone = False
    assert port.counters() == before


def test_interrupts_queue_i_has_vector_i_and_the_link_the_next() -> None:
    port, device = make_port(PortConfig(queues=3))
    port.initialise()
    bar = device.bar0
    bar.trace.clear()
    port.enable_interrupts([10, 11, 12, 13], interval=20e-6)
    assert bar.trace == [
        ("4.6.6", "write", "GPIE", 0x8000_0030),
        ("4.6.6", "write", "EIAC", 0xFFFF),
        ("4.6.6", "write", "EIAM", 0),
        ("4.6.6", "write", "IVAR[0]", 0x0081_0080),
        ("4.6.6", "write", "IVAR[1]", 0x0000_0082),
        ("4.6.6", "write", "EITR[0]", 0x8000_0050),
        ("4.6.6", "write", "EITR[1]", 0x8000_0050),
        ("4.6.6", "write", "EITR[2]", 0x8000_0050),
        ("4.6.6", "write", "EIMS_EX[0]", 1),
        ("4.6.6", "write", "EIMS_EX[0]", 2),
        ("4.6.6", "write", "EIMS_EX[0]", 4),
        ("4.6.6", "write", "IVAR_MISC", 0x8300),
        ("4.6.6", "write", "EITR[3]", 0x8000_0000),
        ("4.6.6", "write", "EICR", 1 << 20),
        ("4.6.6", "write", "EIMS", 1 << 20),
    ]
    port.mask_interrupt(2)
    port.unmask_interrupt(2)
    assert [access[1:] for access in bar.trace[-2:]] == [("write", "EIMC_EX[0]", 4), ("write", "EIMS_EX[0]", 4)]
    port.disable_interrupts()
    assert device.events[-1] == ("interrupts", ())


def test_interrupts_without_the_link() -> None:
    port, device = make_port(PortConfig(queues=2))
    port.initialise()
    bar = device.bar0
    bar.trace.clear()
    port.enable_interrupts([10, 11])
    assert {name for _, _, name, _ in bar.trace}.isdisjoint({"IVAR_MISC", "EITR[2]", "EICR", "EIMS"})
    assert (bar["EIMS_EX[0]"], device.events[-1]) == (2, ("interrupts", (10, 11)))


def test_interrupts_that_cannot_be() -> None:
    port, _ = make_port(PortConfig(queues=2))
    port.initialise()
    with pytest.raises(UsageError, match="4 eventfds for 2 queues: one each is needed, or one more"):
        port.enable_interrupts([10, 11, 12, 13])
    with pytest.raises(UsageError, match=r"0 to 0\.001022 s are possible"):
        port.enable_interrupts([10, 11, 12], interval=0.002)
    with pytest.raises(UsageError, match="queue 2"):
        port.mask_interrupt(2)


def test_ring_lengths() -> None:
    assert ports.RING_LENGTHS == (64, 128, 256, 512, 1024, 2048, 4096)
