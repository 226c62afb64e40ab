"""Transmit, descriptor by descriptor, against bytes written by hand."""

import pytest

from tests.sim.dataplane_rig import BUFFERS, DATA, IOVA, Rig, frame, rig

DONE = (0, 1 << 32)


@pytest.fixture
def port() -> Rig:
    return rig()


def test_a_packet_in_one_descriptor_is_sent_and_reported(port: Rig) -> None:
    port.send(frame(60))
    assert port.plane.step() == 1
    assert port.on_wire() == [frame(60)]
    assert port.tx_descriptor(0) == DONE
    assert port.read(0x6010) == 1
    assert port.port.transmit_causes[0] == 1
    assert port.port.statistics.nonzero() == {
        "GPTC": 1, "GOTC": 64, "TPT": 1, "PTC64": 1, "TXDGPC": 1, "TXDGBC": 60, "QPTC0": 1, "QBTC0": 60,
    }  # fmt: skip
    assert port.port.violations == []


def test_a_short_packet_is_padded_with_zeros_to_64_bytes_with_crc(port: Rig) -> None:
    port.send(frame(17))
    port.plane.step()
    assert port.on_wire() == [frame(17) + bytes(43)]


def test_without_txpaden_a_short_packet_stays_short(port: Rig) -> None:
    port.write(0x4240, 0x3)
    port.send(frame(17))
    port.plane.step()
    assert port.on_wire() == [frame(17)]


def test_without_rs_nothing_is_written_back_but_the_head_moves(port: Rig) -> None:
    port.send(frame(60), command=DATA & ~(1 << 27))
    port.plane.step()
    assert port.tx_descriptor(0) == (IOVA + BUFFERS, 0x2330_0000 | 60 | 60 << 46)
    assert port.read(0x6010) == 1
    assert port.port.transmit_causes[0] == 0


def test_a_packet_in_three_descriptors_is_gathered(port: Rig) -> None:
    packet = frame(300)
    port.put(BUFFERS, packet)
    command = DATA & ~(1 << 27 | 1 << 24)
    port.ring_transmit(
        (IOVA + BUFFERS, command | 100 | 300 << 46),
        (IOVA + BUFFERS + 100, command | 14),
    )
    assert port.plane.step() == 0  # the packet has no end yet
    assert port.read(0x6010) == 0
    port.ring_transmit((IOVA + BUFFERS + 114, DATA | 186))
    assert port.plane.step() == 3
    assert port.on_wire() == [packet]
    assert port.tx_descriptor(1) == (IOVA + BUFFERS + 100, command | 14)
    assert port.tx_descriptor(2) == DONE
    assert port.port.statistics["PTC511"] == 1
    assert port.port.violations == []


def test_the_ring_wraps(port: Rig) -> None:
    for i in range(150):
        port.send(frame(60, fill=i & 0xFF))
        port.plane.step()
        assert port.on_wire() == [frame(60, fill=i & 0xFF)]
    assert port.read(0x6010) == 150 % 64
    assert port.port.violations == []


def test_head_write_back_goes_to_memory_instead_of_descriptors(port: Rig) -> None:
    port.write(0x6038, IOVA + 0xFF004 | 1)
    port.send(frame(60))
    port.send(frame(60))
    port.plane.step()
    assert port.get(0xFF000, 12) == bytes(4) + b"\x02\0\0\0" + bytes(4)
    assert port.tx_descriptor(0) == (IOVA + BUFFERS, DATA | 60 | 60 << 46)


def test_multicast_and_broadcast_are_counted(port: Rig) -> None:
    port.send(frame(60, destination=b"\xff" * 6))
    port.send(frame(60, destination=bytes.fromhex("01005e000001")), at=BUFFERS + 64)
    port.plane.step()
    assert (port.port.statistics["BPTC"], port.port.statistics["MPTC"]) == (1, 1)


def test_a_legacy_descriptor_is_accepted(port: Rig) -> None:
    port.put(BUFFERS, frame(64))
    port.ring_transmit((IOVA + BUFFERS, 0x0B00_0000 | 64))  # EOP, IFCS, RS
    port.plane.step()
    assert port.on_wire() == [frame(64)]
    assert port.tx_descriptor(0) == (IOVA + BUFFERS, 0x0B00_0000 | 64 | 1 << 32)
    assert port.port.violations == []


def test_nothing_moves_without_bus_master_link_or_transmit_enable(port: Rig) -> None:
    port.send(frame(60))
    port.port.bus_master = False
    assert port.plane.step() == 0
    port.port.bus_master, port.port.link_up = True, False
    assert port.plane.step() == 0
    port.port.link_up = True
    port.write(0x4A80, 0x8100 << 16)
    assert port.plane.step() == 0
    port.write(0x4A80, 0x8100 << 16 | 1)
    assert port.plane.step() == 1
    assert port.port.dma.misses == 0


def test_a_budget_bounds_the_step(port: Rig) -> None:
    for _ in range(10):
        port.send(frame(60))
    assert port.plane.step(4) == 4
    assert len(port.on_wire()) == 4


BAD = [
    (DATA | 60 | 61 << 46, "TX packet is not as long as its PAYLEN"),
    (DATA | 1 << 16 | 60 | 60 << 46, "TX descriptor has reserved bits set"),
    (DATA | 1 << 26 | 60 | 60 << 46, "TX descriptor has reserved bits set"),
    (DATA | 1 << 32 | 60 | 60 << 46, "TX descriptor has reserved bits set"),
    (DATA ^ 0x0010_0000 ^ 0x0040_0000 | 60 | 60 << 46, "TX descriptor has an unknown DTYP"),
    (DATA, "TX descriptor has a buffer of 0 bytes"),
    (DATA | 16 | 16 << 46, "TX packet is shorter than 17 bytes"),
    (DATA | 15869 | 15869 << 46, "TX packet is longer than 15.5 KiB"),
    (DATA & ~(1 << 25) | 60 | 60 << 46, "TX packet without IFCS (its CRC would be missing)"),
    (DATA | 60 | 60 << 46 | 1 << 40, "TX packet uses a context that was never set"),
]


@pytest.mark.parametrize(("command", "text"), BAD, ids=[text for _, text in BAD])
def test_a_broken_rule_is_a_violation_and_the_packet_is_not_sent(port: Rig, command: int, text: str) -> None:
    port.ring_transmit((IOVA + BUFFERS, command))
    port.send(frame(60))
    port.plane.step()
    assert port.port.violations == [f"queue 0: {text} ({port.port.violations[0].rpartition('(')[2]}"]
    assert port.on_wire() == [frame(60)]
    assert port.read(0x6010) == 2


def test_rs_without_eop_and_differing_flags_are_violations(port: Rig) -> None:
    port.ring_transmit((IOVA + BUFFERS, DATA & ~(1 << 24) | 30 | 60 << 46), (IOVA + BUFFERS, DATA & ~(1 << 25) | 30))
    port.plane.step()
    assert [text.partition(": ")[2].partition(" (")[0] for text in port.port.violations] == [
        "TX descriptor has RS without EOP",
        "TX descriptor differs in IFCS, VLE, TSE or DEXT from the first of its packet",
    ]
    assert port.on_wire() == []


def test_doorbells_outside_the_ring_or_before_enable_are_violations(port: Rig) -> None:
    port.plane.step()
    port.write(0x6018, 64)
    port.write(0x6058, 3)  # TDT of queue 1
    port.write(0x1098, 2)  # RDT of queue 2
    port.plane.step()
    port.plane.step()
    assert port.port.violations == [
        "queue 0: TDT is outside the ring (0x40)",
        "queue 1: TX doorbell while TXDCTL.ENABLE is 0 (0x3)",
        "queue 2: RX doorbell while RXDCTL.ENABLE is 0 (0x2)",
    ]


def test_a_bad_ring_is_a_violation() -> None:
    port = rig()
    port.write(0x6000, IOVA + 0x8040)
    port.write(0x1008, 100)
    port.plane.step()
    assert port.port.violations == [
        f"queue 0: TX ring base is not aligned to 128 bytes ({IOVA + 0x8040:#x})",
        "queue 0: RDLEN is 0, above 512 KiB or no multiple of 128 (0x64)",
    ]


def test_head_base_and_length_belong_to_the_hardware_while_enabled(port: Rig) -> None:
    port.plane.step()
    port.write(0x6010, 7)
    port.write(0x6008, 16 * 32)
    port.send(frame(60))
    port.plane.step()
    assert port.port.violations == [
        "queue 0: TDH was written while the queue was enabled (0x7)",
        f"queue 0: TDBA or TDLEN was changed while the queue was enabled ({IOVA + 0x8000:#x})",
    ]
    assert port.read(0x6010) == 1


def test_a_packet_outside_every_window_is_a_miss_and_not_sent_but_done(port: Rig) -> None:
    port.ring_transmit((0xDEAD_0000, DATA | 60 | 60 << 46))
    port.plane.step()
    assert port.on_wire() == []
    assert port.tx_descriptor(0) == DONE  # as the hardware does after a blocked read
    assert port.port.dma.misses == 1
    assert port.port.dma.last_misses == [(0xDEAD_0000, 60, False)]


def test_a_packet_that_leaves_its_window_is_a_miss_of_the_rest(port: Rig) -> None:
    port.ring_transmit((IOVA + 0x100000 - 20, DATA | 60 | 60 << 46))
    port.plane.step()
    assert port.port.dma.last_misses == [(IOVA + 0x100000, 40, False)]


def test_a_ring_outside_every_window_stops_the_queue(port: Rig) -> None:
    port.plane.step()
    port.port.dma.unmap_all()
    port.send(frame(60))
    port.plane.step()
    port.plane.step()
    assert port.port.dma.last_misses == [(IOVA + 0x8000, 16, False)]


def test_queues_are_counted_where_tqsm_says(port: Rig) -> None:
    port.write(0x8600, 5 << 8)  # queue 1 -> counter 5
    port.start_transmit(queue=1)
    port.put(BUFFERS, frame(60))
    port.ring_transmit((IOVA + BUFFERS, DATA | 60 | 60 << 46), queue=1)
    port.plane.step()
    assert (port.port.statistics["QPTC0"], port.port.statistics["QPTC5"]) == (0, 1)
    assert port.port.transmit_causes.nonzero()[0].tolist() == [1]
