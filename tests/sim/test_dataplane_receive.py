"""Receive, from the wire to descriptors and buffers, against bytes written by hand."""

import binascii
import struct

import pytest

from tests.sim.dataplane_rig import BUFFERS, IOVA, MAC, OTHER, Rig, back_to_back, frame, rig

DD_EOP = 3
BUFFER = [BUFFERS + 2048 * i for i in range(64)]


@pytest.fixture
def port() -> Rig:
    one = rig()
    one.plane.step()
    one.give(*BUFFER[:32])
    return one


def test_a_frame_lands_in_the_first_buffer(port: Rig) -> None:
    port.from_wire(frame(60))
    assert port.plane.step() == 1
    assert port.get(BUFFERS, 64) == frame(60) + bytes(4)
    assert port.rx_descriptor(0) == (0, 60 << 32 | DD_EOP)
    assert port.rx_descriptor(1) == (IOVA + BUFFER[1], 0)
    assert port.read(0x1010) == 1
    assert port.port.receive_causes[0] == 1
    assert port.port.statistics.nonzero() == {
        "TPR": 1, "TOR": 64, "GPRC": 1, "GORC": 64, "PRC64": 1, "RXDGPC": 1, "RXDGBC": 60, "QPRC0": 1, "QBRC0": 60,
    }  # fmt: skip
    assert port.port.violations == []


def test_without_crc_strip_the_crc_is_delivered(port: Rig) -> None:
    port.write(0x4240, 1 << 10 | 1)
    port.write(0x2F00, 0)
    port.from_wire(frame(60))
    port.plane.step()
    assert port.get(BUFFERS, 64) == frame(60) + struct.pack("<I", binascii.crc32(frame(60)))
    assert port.rx_descriptor(0) == (0, 64 << 32 | DD_EOP)
    assert port.port.statistics["QBRC0"] == 64


def test_a_long_frame_takes_several_buffers(port: Rig) -> None:
    port.write(0x4240, 1 << 10 | 1 << 2 | 2)  # JUMBOEN
    port.write(0x4268, 9728 << 16)
    packet = frame(5000)
    port.from_wire(packet)
    port.plane.step()
    assert port.get(BUFFERS, 6144) == packet + bytes(1144)
    assert [port.rx_descriptor(i) for i in range(3)] == [(0, 2048 << 32 | 1), (0, 2048 << 32 | 1), (0, 904 << 32 | 3)]
    assert port.read(0x1010) == 3


LENGTHS = [
    (59, {"RUC": 1}),
    (60, {"PRC64": 1}),
    (61, {"PRC127": 1}),
    (123, {"PRC127": 1}),
    (124, {"PRC255": 1}),
    (252, {"PRC511": 1}),
    (508, {"PRC1023": 1}),
    (1020, {"PRC1522": 1}),
    (1514, {"PRC1522": 1}),
    (1515, {"ROC": 1}),
]


@pytest.mark.parametrize(("size", "counted"), LENGTHS)
def test_lengths_are_checked_and_counted_with_crc(port: Rig, size: int, counted: dict[str, int]) -> None:
    port.from_wire(frame(size))
    port.plane.step()
    names = ("RUC", "ROC", "PRC64", "PRC127", "PRC255", "PRC511", "PRC1023", "PRC1522")
    assert {name: port.port.statistics[name] for name in names if port.port.statistics[name]} == counted
    assert port.port.statistics["TOR"] == size + 4
    assert port.read(0x1010) == (0 if {"RUC", "ROC"} & set(counted) else 1)


def test_with_jumboen_maxfrs_is_the_limit(port: Rig) -> None:
    port.write(0x4240, 1 << 10 | 1 << 2 | 2)
    port.write(0x4268, 2000 << 16)
    port.from_wire(frame(1996))
    port.from_wire(frame(1997))
    port.plane.step()
    assert (port.port.statistics["GPRC"], port.port.statistics["ROC"]) == (1, 1)


PIF = 1 << 7
MULTICAST = bytes.fromhex("01005e0a0b0c")  # bits 47:36 of it: 0x0C0
FILTERS = [
    ("own address", MAC, {}, 0),
    ("foreign address", OTHER, {}, None),
    ("foreign address, UPE", OTHER, {0x5080: 1 << 9}, PIF),
    ("foreign address, MPE", OTHER, {0x5080: 1 << 8}, None),
    ("second address", OTHER, {0xA208: 0x0000_0002, 0xA20C: 1 << 31 | 0xEE00}, 0),
    ("second address, not valid", OTHER, {0xA208: 0x0000_0002, 0xA20C: 0xEE00}, None),
    ("broadcast", b"\xff" * 6, {}, None),
    ("broadcast, BAM", b"\xff" * 6, {0x5080: 1 << 10}, 0),
    ("multicast", MULTICAST, {}, None),
    ("multicast, MPE", MULTICAST, {0x5080: 1 << 8}, PIF),
    ("multicast, in MTA", MULTICAST, {0x5090: 4, 0x5200 + 4 * 6: 1}, PIF),
    ("multicast, in MTA by bits 46:35", MULTICAST, {0x5090: 5, 0x5200 + 4 * 12: 1 << 1}, PIF),
    ("multicast, in MTA by bits 45:34", MULTICAST, {0x5090: 6, 0x5200 + 4 * 24: 1 << 2}, PIF),
    ("multicast, in MTA by bits 43:32", MULTICAST, {0x5090: 7, 0x5200 + 4 * 96: 1 << 11}, PIF),
    ("multicast, in MTA, but no MFE", MULTICAST, {0x5090: 0, 0x5200 + 4 * 6: 1}, None),
]


@pytest.mark.parametrize(("destination", "writes", "status"), [f[1:] for f in FILTERS], ids=[f[0] for f in FILTERS])
def test_address_filters(port: Rig, destination: bytes, writes: dict[int, int], status: int | None) -> None:
    for offset, value in writes.items():
        port.write(offset, value)
    port.from_wire(frame(60, destination=destination))
    port.plane.step()
    if status is None:
        assert port.read(0x1010) == 0
        assert (port.port.statistics["TPR"], port.port.statistics["GPRC"]) == (1, 0)
    else:
        assert port.rx_descriptor(0) == (0, 60 << 32 | DD_EOP | status)
        assert port.port.statistics["GPRC"] == 1


def test_broadcast_and_multicast_are_counted(port: Rig) -> None:
    port.write(0x5080, 1 << 10 | 1 << 8)
    port.from_wire(frame(60, destination=b"\xff" * 6))
    port.from_wire(frame(60, destination=MULTICAST))
    port.plane.step()
    assert (port.port.statistics["BPRC"], port.port.statistics["MPRC"]) == (1, 1)


def tagged(size: int, tag: int) -> bytes:
    plain = frame(size - 4)
    return plain[:12] + struct.pack(">HH", 0x8100, tag) + plain[12:]


def test_a_tag_is_stripped_where_the_queue_says_so(port: Rig) -> None:
    port.write(0x1028, 1 << 25 | 1 << 30)  # VME
    port.from_wire(tagged(64, 0xA123))
    port.plane.step()
    assert port.get(BUFFERS, 64) == frame(60) + bytes(4)
    assert port.rx_descriptor(0) == (0, 0xA123 << 48 | 60 << 32 | DD_EOP | 1 << 3)


def test_a_tag_stays_without_vme(port: Rig) -> None:
    port.from_wire(tagged(64, 0xA123))
    port.plane.step()
    assert port.get(BUFFERS, 64) == tagged(64, 0xA123)
    assert port.rx_descriptor(0)[1] & 0xFFFF_FFFF_FFFF == 64 << 32 | DD_EOP | 1 << 3


def test_the_vlan_filter_passes_the_ids_in_vfta(port: Rig) -> None:
    port.write(0x5088, 0x8100 | 1 << 30)  # VFE
    port.write(0xA000 + 4 * (0x123 >> 5), 1 << (0x123 & 31))
    for frame_ in (tagged(64, 0x122), tagged(64, 0xA123), frame(60)):
        port.from_wire(frame_)
    port.plane.step()
    assert port.read(0x1010) == 2
    assert port.get(BUFFERS, 64) == tagged(64, 0xA123)


def test_a_tagged_frame_may_be_4_bytes_longer(port: Rig) -> None:
    port.from_wire(tagged(1518, 1))
    port.from_wire(tagged(1519, 1))
    port.plane.step()
    assert (port.port.statistics["GPRC"], port.port.statistics["ROC"]) == (1, 1)


def test_an_empty_ring_keeps_frames_in_the_packet_buffer_until_it_is_full() -> None:
    port = rig()
    port.write(0x3C00, 1 << 10)  # 1 KiB: 16 frames of 64 bytes
    for i in range(20):
        port.from_wire(frame(60, fill=i))
    port.plane.step()
    assert port.port.statistics["RXMPC0"] == 4
    port.give(*BUFFER[:32])
    assert port.plane.step() == 16
    assert [port.get(at, 60) for at in BUFFER[:16]] == [frame(60, fill=i) for i in range(16)]
    assert port.port.statistics["QPRDC0"] == 0


def test_drop_en_drops_at_an_empty_ring_and_counts() -> None:
    port = rig()
    port.start_receive(srrctl=1 << 28 | 1 << 25 | 2)
    port.plane.step()
    port.give(*BUFFER[:2])
    for i in range(5):
        port.from_wire(frame(60, fill=i))
    port.plane.step()
    assert port.read(0x1010) == 2
    assert (port.port.statistics["QPRDC0"], port.port.statistics["RXMPC0"], port.port.statistics["GPRC"]) == (3, 0, 5)


def test_nothing_is_received_without_rxen_or_link(port: Rig) -> None:
    port.write(0x3000, 0)
    port.from_wire(frame(60))
    assert port.plane.step() == 0
    port.write(0x3000, 1)
    port.port.link_up = False
    port.from_wire(frame(60))
    assert port.plane.step() == 0
    assert port.port.statistics.nonzero() == {}


def test_a_descriptor_that_was_not_renewed_is_a_violation(port: Rig) -> None:
    port.put(0, struct.pack("<QQ", IOVA + BUFFERS, 60 << 32 | 3))
    port.from_wire(frame(60))
    port.plane.step()
    assert port.port.violations == ["queue 0: RX descriptor still holds a write-back (DD is set) (0x3c00000003)"]


def test_a_tail_outside_the_ring_is_a_violation(port: Rig) -> None:
    port.write(0x1018, 64)
    port.plane.step()
    assert port.port.violations == ["queue 0: RDT is outside the ring (0x40)"]


def test_header_split_is_not_modelled_and_says_so(port: Rig) -> None:
    port.write(0x1014, 5 << 25 | 2)
    port.from_wire(frame(60))
    port.plane.step()
    port.plane.step()
    assert port.port.violations == [
        "queue 0: SRRCTL.DESCTYPE is not supported (legacy and advanced one buffer are) (0xa000002)"
    ]


def test_the_legacy_format(port: Rig) -> None:
    port.write(0x1014, 2)
    port.from_wire(frame(60))
    port.plane.step()
    assert port.rx_descriptor(0) == (IOVA + BUFFERS, DD_EOP << 32 | 60)


def test_crc_strip_bits_that_differ_are_one_violation(port: Rig) -> None:
    port.write(0x2F00, 0)
    for _ in range(3):
        port.from_wire(frame(60))
        port.plane.step()
    assert port.port.violations == ["queue 0: HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP differ (0x0)"]


def test_a_blocked_write_is_a_miss_and_still_reported_done(port: Rig) -> None:
    port.put(0, struct.pack("<QQ", 0xDEAD_0000, 0))
    port.from_wire(frame(60))
    port.plane.step()
    assert port.port.dma.last_misses == [(0xDEAD_0000, 60, True)]
    assert port.rx_descriptor(0) == (0, 60 << 32 | DD_EOP)


def test_a_read_only_window_is_not_written(port: Rig) -> None:
    page = bytearray(4096)
    import numpy as np

    array = np.frombuffer(page, np.uint8)
    port.port.dma.map(0x5000_0000, 4096, array.ctypes.data, True, False)
    port.put(0, struct.pack("<QQ", 0x5000_0000, 0))
    port.from_wire(frame(60))
    port.plane.step()
    assert port.port.dma.last_misses == [(0x5000_0000, 60, True)]
    assert page == bytes(4096)


def test_queues_are_counted_where_rqsmr_says(port: Rig) -> None:
    port.write(0x2300, 7)
    port.from_wire(frame(60))
    port.plane.step()
    assert (port.port.statistics["QPRC0"], port.port.statistics["QPRC7"]) == (0, 1)


def test_reset_forgets_queues_and_frames(port: Rig) -> None:
    port.from_wire(frame(60))
    port.port.reset()
    for block in range(0x1000, 0x1040, 4):
        port.write(block, 0)
    assert port.plane.step() == 0
    assert port.port.violations == []
    assert port.port.receive_causes[0] == 0


def test_a_port_sends_straight_into_the_other(port: Rig) -> None:
    one, other = back_to_back()
    one.plane.step()
    other.give(*BUFFER[:4])
    one.send(frame(60, destination=OTHER))
    one.send(frame(100, destination=MAC), at=BUFFERS + 256)
    one.send(frame(1514, destination=OTHER), at=BUFFERS + 4096)
    assert one.plane.step() == 5
    assert other.get(BUFFER[0], 60) == frame(60, destination=OTHER)
    assert other.get(BUFFER[1], 1514) == frame(1514, destination=OTHER)
    assert [other.rx_descriptor(i)[1] for i in range(2)] == [60 << 32 | 3, 1514 << 32 | 3]
    assert other.port.statistics["TPR"] == 3
