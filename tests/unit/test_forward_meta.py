"""Metadata for kernels: each field against write-backs put together by hand (datasheet 7.1.6.2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.format import BAD, GOOD, NOT_CHECKED, TAGGED, Meta
from ixy_vfio.datapath.forwarding import loop_state
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.queue import counters
from ixy_vfio.drivers.ixgbe.format import FORMAT
from tests.model_nic import World, deliver

# Writes what it was given into the packet, to be read from there.
TELL = """
def tell(packet, length, meta):
    packet[0] = meta.flags & 255
    packet[1] = meta.flags >> 8 & 255
    packet[2] = meta.flags >> 16
    packet[3] = meta.packet_type & 255
    packet[4] = meta.packet_type >> 8
    packet[6] = meta.vlan & 255
    packet[7] = meta.vlan >> 8
    packet[8] = meta.rss_type
    for i in range(4):
        packet[9 + i] = meta.rss_hash >> (8 * i) & 255
    packet[13] = meta.ip_checksum
    packet[14] = meta.l4_checksum
    return True
"""


def told(packet: NDArray[np.uint8]) -> Meta:
    def number(begin: int, size: int) -> int:
        return int.from_bytes(bytes(packet[begin : begin + size]), "little")

    return Meta(*(number(*place) for place in ((0, 3), (3, 2), (6, 2), (8, 1), (9, 4), (13, 1), (14, 1))))


Loop = Callable[[NDArray[Any]], int]


@pytest.fixture(scope="module")
def tell(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    path = tmp_path_factory.mktemp("kernel") / "tell.py"
    path.write_text(TELL)
    return forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(f"{path}:tell"))


def forwarded(loop: Loop, write_backs: list[tuple[int, int]]) -> tuple[World, list[NDArray[np.uint8]]]:
    """Receive these descriptors, run the kernel; the packets that were sent (their first buffers)."""
    world = World()
    for pair in world.pairs:
        pair.arm()
    ring = np.ndarray((64, 2), np.uint64, world.memory.array, offset=0)
    for k, (first, word) in enumerate(write_backs):
        deliver(world.nics[0], 1, np.uint64(word), 60)
        ring[k, 0] = first
    state, _kept = loop_state(world.pairs[0], world.pairs[1], 32)
    state["rounds"] = 4
    loop(state)
    world.check()
    sent = world.pairs[1].used
    return world, [world.pool.data(int(index)) for index in world.pairs[1].tx_slots[:sent, 0]]


PLAIN = 60 << 32 | 3
ZERO = Meta(3, 0, 0, 0, 0, NOT_CHECKED, NOT_CHECKED)


@pytest.mark.parametrize(
    ("first", "word", "expected"),
    [
        (0, PLAIN, ZERO),
        (0x0000_0000_0001_FFF0, PLAIN, ZERO._replace(packet_type=0x1FFF)),
        (0x0000_0000_0000_0110, PLAIN, ZERO._replace(packet_type=0x11)),  # IPv4, TCP
        (0x0000_0000_FFFE_0000, PLAIN, ZERO),  # RSC count, header length, SPH: nobody asked
        (0xDEAD_BEEF_0000_0001, PLAIN, ZERO._replace(rss_type=1, rss_hash=0xDEADBEEF)),
        (0, PLAIN | 0x8 | 0x2ABC << 48, ZERO._replace(flags=3 | TAGGED, vlan=0x2ABC)),
        (0, PLAIN | 1 << 6, ZERO._replace(flags=0x43, ip_checksum=GOOD)),
        (0, PLAIN | 1 << 6 | 1 << 31, ZERO._replace(flags=0x43, ip_checksum=BAD)),
        (0, PLAIN | 1 << 5, ZERO._replace(flags=0x23, l4_checksum=GOOD)),
        (0, PLAIN | 1 << 5 | 1 << 30, ZERO._replace(flags=0x23, l4_checksum=BAD)),
        (0, PLAIN | 1 << 30 | 1 << 31, ZERO),  # error bits of what was not checked
        (0, PLAIN | 3 << 5 | 1 << 31, ZERO._replace(flags=0x63, ip_checksum=BAD, l4_checksum=GOOD)),
        (0, PLAIN | 0xFFFFC, Meta(0xFFFFF, 0, 0, 0, 0, GOOD, GOOD)),
    ],
    ids=lambda value: hex(value) if isinstance(value, int) else "",
)
def test_each_field(tell: Loop, first: int, word: int, expected: Meta) -> None:
    _, packets = forwarded(tell, [(first, word)])
    assert [told(packet) for packet in packets] == [expected]


def test_a_long_packet_has_the_metadata_of_its_last_buffer(tell: Loop) -> None:
    long = [(0x1111_0000_0001, 2048 << 32 | 1 | 0x8 | 7 << 48), (0x2222_0000_0002, 100 << 32 | 3 | 0x8 | 9 << 48)]
    _, packets = forwarded(tell, [(0, PLAIN), *long, (0x3333_0000_0003, PLAIN)])
    assert [told(packets[k]) for k in (0, 1, 3)] == [
        ZERO,
        ZERO._replace(flags=3 | TAGGED, vlan=9, rss_type=2, rss_hash=0x2222),
        ZERO._replace(rss_type=3, rss_hash=0x3333),
    ]


def test_each_packet_of_a_batch_has_its_own(tell: Loop) -> None:
    world, packets = forwarded(tell, [(k << 32 | 1, PLAIN) for k in range(40)])
    assert [told(packet).rss_hash for packet in packets] == list(range(40))
    assert counters(world.pairs[0]).received == 40
