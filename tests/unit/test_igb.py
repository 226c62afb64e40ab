"""The driver for igb on a scripted device: a whole life by every register access, and what differs by model."""

from pathlib import Path

import pytest

from ixy_vfio.core.errors import DeadlineError, DeviceError, DeviceGone, LinkDown, UsageError
from ixy_vfio.drivers import igb
from ixy_vfio.drivers.contract import Drops, Link, PortConfig, open_port
from ixy_vfio.drivers.igb.device import Igb
from ixy_vfio.hw.devices import DRIVERS, NOT_SERVED
from tests.unit import igb_support, ixgbe_support
from tests.unit.igb_support import DEVICE_ID_I210, DEVICE_ID_I211, DEVICE_ID_I350, ENABLE, FakeDevice, make_port
from tests.unit.ixgbe_support import compact

GOLDEN = Path(__file__).parent / "golden" / "igb_init.txt"


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
    assert port.notes == []
    assert device.phy[0] == 0x1340  # powered up, negotiates, anew


def test_dma_is_off_until_the_reset_and_after_the_stop() -> None:
    port, device = make_port()
    device.config[4] = 4  # left on by somebody
    at_reset = []

    def reset(value: int) -> int:
        at_reset.append(device.config[4])
        return value & ~(1 << 26)

    device.bar0.on_write["CTRL"] = reset
    port.initialise()
    assert (at_reset[0] & 4, device.config[4] & 4) == (0, 4)
    port.enable_receive()
    assert port.stop() == []
    assert device.config[4] & 4 == 0
    assert device.bar0["RCTL"] & 2 == device.bar0["TCTL"] & 2 == 0
    port.initialise()  # and again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (PortConfig(queues=17), "17 queues: choose 1 to 16"),
        (PortConfig(mtu=9217), "MTU 9217: choose 68 to 9216"),
        (PortConfig(rx_ring=48), "a receive ring of 48 descriptors"),
        (PortConfig(buffer_size=17 << 10), "buffers of 17408 bytes: choose a multiple of 1024, up to 16384"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: PortConfig, message: str) -> None:
    device = FakeDevice()
    with pytest.raises(UsageError, match=message):
        Igb(device, change, ixgbe_support.ring_memory(1 << 20))
    assert device.bar0.trace == []


@pytest.mark.parametrize(("device_id", "queues"), [(DEVICE_ID_I350, 8), (DEVICE_ID_I210, 4), (DEVICE_ID_I211, 2)])
def test_a_model_has_so_many_queues(device_id: int, queues: int) -> None:
    make_port(PortConfig(queues=queues), device_id)
    with pytest.raises(UsageError, match=f"choose 1 to {queues}$"):
        make_port(PortConfig(queues=queues + 1), device_id)


def test_every_id_of_the_table_has_a_model_and_none_is_refused_as_well() -> None:
    for (vendor, device_id), name in DRIVERS["igb"].items():
        device = FakeDevice(device_id)
        assert isinstance(open_port(device, PortConfig(), ixgbe_support.ring_memory), Igb)
        assert igb.look(device).model == name
        assert (vendor, device_id) not in NOT_SERVED
    with pytest.raises(DeviceError, match="the device id reads 0xffff"):
        make_port(device_id=0xFFFF)


def test_a_look_reads_and_writes_nothing() -> None:
    device = FakeDevice()
    look = igb.look(device)
    assert (look.model, str(look.link), look.mac.hex(":")) == ("82576", "up, 1 Gbit/s", "52:02:03:04:05:06")
    assert {op for _, op, _, _ in device.bar0.trace} == {"read"}


def test_several_queues_share_the_flows_by_rss() -> None:
    port, device = make_port(PortConfig(queues=3, rx_ring=64, tx_ring=128))
    port.initialise()
    bar = device.bar0
    assert bar["MRQC"] == 0x00F3_0002
    assert bar["RXCSUM"] == 0x2300
    assert (bar["RETA[0]"], bar["RETA[31]"]) == (0x00020100, 0x01000201)
    for queue in range(3):
        assert bar[f"RDBAL[{queue}]"] == 0x2340_0000 + queue * 0x2000
        assert bar[f"TDBAL[{queue}]"] == 0x2340_1000 + queue * 0x2000
        assert (bar[f"RDBAH[{queue}]"], bar[f"TDBAH[{queue}]"]) == (1, 1)
        assert (bar[f"RDLEN[{queue}]"], bar[f"TDLEN[{queue}]"]) == (1024, 2048)
        assert bar[f"SRRCTL[{queue}]"] == 0x8200_0402  # drop when this ring is empty, the others go on
        assert bar.written(f"RXDCTL[{queue}]") == [0x0001_0808, 0x0201_0808]
    assert bar.written("RXDCTL[3]") == []


def test_a_queue_holds_rings_and_doorbells_and_nothing_else() -> None:
    port, _ = make_port(PortConfig(queues=2, rx_ring=64, tx_ring=64))
    port.initialise()
    queue = port.queue(1)
    assert (queue.rx_page.size, queue.tx_page.size) == (0x1000, 0x1000)
    assert (queue.rx_tail, queue.tx_tail) == (0x58, 0x58)  # RDT 0xc058 in page 0xc000, TDT 0xe058 in page 0xe000
    port.close()


def test_a_tail_that_the_start_of_its_queue_clears_is_written_again() -> None:
    """8.10.10: a queue may start only with RXEN, after its doorbell was rung."""
    port, device = make_port()
    port.initialise()
    bar = device.bar0
    bar["RDT[0]"] = 511

    def start(value: int) -> int:
        bar["RDT[0]"] = 0
        return value

    bar.on_write["RCTL"] = start
    port.enable_receive()
    assert bar.written("RDT[0]") == [511]


def test_jumbo_frames() -> None:
    for mtu, lpe, longest in ((1500, 0, []), (1501, 1, [1523]), (9000, 1, [9022])):
        port, device = make_port(PortConfig(mtu=mtu))
        port.initialise()
        assert device.bar0["RCTL"] >> 5 & 1 == lpe
        assert device.bar0.written("RLPML") == longest


def test_what_is_received() -> None:
    """The port's own and what is for all; everybody's when asked. No VLAN filter, no tag taken out, no CRC."""
    port, device = make_port()
    port.initialise()
    bar = device.bar0
    assert bar["RCTL"] == 1 << 15 | 1 << 26
    assert bar["CTRL"] >> 30 & 1 == 0
    assert bar["RAH[1]"] == bar["MTA[127]"] == 0
    port.promiscuous = True
    assert bar["RCTL"] == 1 << 15 | 1 << 26 | 3 << 3
    port.promiscuous = False
    assert bar["RCTL"] == 1 << 15 | 1 << 26
    port.mac = bytes.fromhex("021122334455")
    assert (bar["RAL[0]"], bar["RAH[0]"]) == (0x33221102, 0x80005544)
    with pytest.raises(UsageError, match="not a group address"):
        port.mac = b"\xff" * 6


@pytest.mark.parametrize(
    ("device_id", "queues", "routes"),
    [
        (0x10C9, 1, {0: 0x80}),
        (0x10C9, 10, {0: 0x0088_0080, 1: 0x0089_0081, 2: 0x82, 7: 0x87}),
        (DEVICE_ID_I350, 3, {0: 0x0081_0080, 1: 0x82, 3: 0}),
        (DEVICE_ID_I211, 2, {0: 0x0081_0080}),
    ],
)
def test_interrupts(device_id: int, queues: int, routes: dict[int, int]) -> None:
    port, device = make_port(PortConfig(queues=queues), device_id)
    port.initialise()
    bar = device.bar0
    bar.trace.clear()
    port.enable_interrupts(range(10, 11 + queues), 50e-6)
    assert device.events[-1] == ("interrupts", tuple(range(10, 11 + queues)))
    assert {n: bar[f"IVAR[{n}]"] for n in routes} == routes
    assert (bar["EITR[0]"], bar[f"EITR[{queues}]"]) == (50 << 2, 0)
    assert bar["EIAC"] == (2 << queues) - 1
    assert bar["IVAR_MISC"] == (0x80 | queues) << 8
    assert (bar.written("ICR"), bar.written("IMS")) == ([4], [4])
    assert bar.written("EIMS") == [1 << vector for vector in range(queues + 1)]
    assert {"EICR", "EIAM"}.isdisjoint(bar.read_names())
    port.mask_interrupt(0)
    port.unmask_interrupt(0)
    assert [access[1:] for access in bar.trace[-2:]] == [("write", "EIMC", 1), ("write", "EIMS", 1)]
    with pytest.raises(UsageError, match=r"0 to 0\.008191 s are possible"):
        port.enable_interrupts(range(queues), 0.01)


def test_the_link() -> None:
    port, device = make_port()
    for status, link in (
        (0x80, Link(False, 0)),
        (0x42, Link(True, 100)),
        (0x02, Link(True, 10)),
        (0xC2, Link(True, 1000)),
    ):
        device.bar0["STATUS"] = status
        assert port.link() == link
    device.bar0["STATUS"] = 0
    with pytest.raises(LinkDown, match=r"no link after 0.01 s \(STATUS 0x00000000\)"):
        port.wait_link(0.01)


def test_a_phy_that_does_not_answer_is_named() -> None:
    port, device = make_port()
    device.bar0.on_write["MDIC"] = lambda value: value | 5 << 28
    with pytest.raises(DeviceError, match=r"the PHY does not answer .*: is this a copper port\?"):
        port.initialise()
    assert device.config[4] & 4 == 0
    assert device.bar0["SW_FW_SYNC"] == device.bar0["SWSM"] == 0  # given back
    device.bar0.on_write["MDIC"] = lambda value: value
    with pytest.raises(DeadlineError, match="MDIC: ready is not 1"):
        port.initialise()


def test_the_phy_of_each_port_has_a_semaphore_of_its_own() -> None:
    for lan_id, taken in ((0, 2), (1, 4), (2, 0x20), (3, 0x40)):
        port, device = make_port(device_id=DEVICE_ID_I350)
        device.bar0["STATUS"] = lan_id << 2
        port.initialise()
        assert max(device.bar0.written("SW_FW_SYNC")) == taken
        assert device.bar0["DVMOLR[0]"] == 1 << 31


def test_a_board_without_eeprom_is_noted() -> None:
    port, device = make_port()
    device.bar0["EECD"] = 0
    device.bar0["RAL[0]"] = device.bar0["RAH[0]"] = 0
    port.initialise()
    assert [note.split(";")[0] for note in port.notes] == [
        "the EEPROM was not read to its end",
        "the EEPROM's address 00:00:00:00:00:00 is not one",
    ]


def test_what_does_not_become_idle_is_named() -> None:
    port, device = make_port()
    port.initialise()
    port.enable_receive()
    bar = device.bar0
    for stuck in ("RXDCTL[0]", "TXDCTL[0]"):
        bar.on_read[stuck] = lambda: ENABLE
    bar["TDT[0]"] = 7
    bar["STATUS"] |= 1 << 19
    notes = [note.split(" (")[0] for note in port.stop()]
    assert notes == [
        "receive queue 0 is still enabled",
        "transmit queue 0 was not sent to its end",
        "transmit queue 0 is still enabled",
        "PCIe requests are still under way",
    ]
    assert device.config[4] & 4 == 0


def test_counters() -> None:
    port, device = make_port(PortConfig(queues=2))
    port.initialise()
    bar = device.bar0
    for name, value in {"GPRC": 5, "GORCL": 500, "GORCH": 1, "GPTC": 7, "GOTCL": 700, "MPC": 2, "CRCERRS": 9, "RJC": 3,
                        "ROC": 4, "RUC": 1, "RFC": 1, "RLEC": 6, "RXERRC": 2, "RQDPC[1]": 8}.items():  # fmt: skip
        bar[name] = value
    counted = port.counters()
    assert (counted.rx_packets, counted.rx_bytes, counted.tx_packets, counted.tx_bytes) == (5, 1 << 32 | 500, 7, 700)
    assert counted.drops == Drops(
        missed=2, no_descriptor=8, too_long=7, too_short=2, crc_errors=6, illegal=2, bad_length=6
    )
    assert counted.rx_errors == 7 + 2 + 6 + 2 + 6
    assert [one.rx_dropped for one in counted.queues] == [0, 8]
    assert port.counters().rx_packets == 10  # the script does not clear what is read
    assert bar.written("RQDPC[1]") == []


def test_a_model_that_keeps_what_was_read_is_cleared_by_hand() -> None:
    port, device = make_port(device_id=DEVICE_ID_I210)
    port.initialise()
    device.bar0["RQDPC[0]"] = 8
    assert port.counters().drops.no_descriptor == 8
    assert port.counters().drops.no_descriptor == 8


def test_a_device_that_is_gone() -> None:
    port, device = make_port()
    port.initialise()
    device.bar0.gone = True
    for act in (port.enable_receive, port.link, port.counters):
        with pytest.raises(DeviceGone, match="reads all ones"):
            act()
    with pytest.raises(DeviceGone):
        port.stop()
    assert port.stop() == ()
    assert igb_support.FakeDevice().bar0.trace == []
