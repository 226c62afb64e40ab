"""The reflector: its kernel, compiled, on frames of every kind; and its program, on one port."""

from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.compiled import compiled
from ixy_vfio.datapath import reflect
from ixy_vfio.datapath.forwarding import HOME
from ixy_vfio.datapath.queue import counters
from ixy_vfio.drivers.ixgbe.format import FORMAT
from tests.model_nic import World, deliver, transmit

ONE, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
REFLECT: Any = compiled(reflect.reflect, cache=False)


def reflected(frame: bytes) -> tuple[bool, bytes]:
    """What the kernel says, and what it makes of a frame."""
    packet = np.frombuffer(frame, np.uint8).copy()
    sent = bool(REFLECT(packet, np.uint64(packet.size)))
    return sent, packet.tobytes()


def frames(source: bytes, target: bytes, a: bytes, b: bytes, ports: bytes) -> dict[str, bytes]:
    """Of each kind one frame from `source` to `target`, and from the host `a` (its last byte) to `b`."""
    ether = target + source

    def four(protocol: int, fragment: bytes = b"\0\0", words: int = 5) -> bytes:
        start = bytes([0x40 | words, 0, 0, 99, 0, 7]) + fragment + bytes([64, protocol, 0xAB, 0xCD])
        return start + b"\x0a\0\0" + a + b"\x0a\0\0" + b + b"\x94\4\0\0" * (words - 5)

    six = b"\x60" + bytes(5) + b"%c\x40" + b"\xfd" + bytes(14) + a + b"\xfd" + bytes(14) + b
    return {
        "udp": ether + b"\x08\0" + four(17) + ports + b"\0\x0c\xbe\xefdata",
        "tcp, options": ether + b"\x08\0" + four(6, words=7) + ports + bytes(range(16)),
        "sctp": ether + b"\x08\0" + four(132) + ports + bytes(range(8)),
        "vlan": ether + b"\x81\0\0\5\x08\0" + four(17) + ports + bytes(4),
        "two tags": ether + b"\x88\xa8\0\x09\x81\0\0\5\x86\xdd" + six % 6 + ports + bytes(16),
        "udp6": ether + b"\x86\xdd" + six % 17 + ports + b"\0\x0c\xbe\xefdata",
        "ping": ether + b"\x08\0" + four(1) + b"\x08\0\x12\x34abcd",
        "first fragment": ether + b"\x08\0" + four(17, b"\x20\0") + ports + bytes(64),
        "later fragment": ether + b"\x08\0" + four(17, b"\0\xb9") + b"\x12\x34\x56\x78" + bytes(64),
        "neither": ether + b"\x12\x34" + bytes(range(46)),
        "short": ether + b"\x08\0",
        "ports cut off": ether + b"\x08\0" + four(17) + b"\1\2",
    }


THERE = frames(ONE, OTHER, b"\1", b"\2", b"\x03\xe8\x07\xd0")
BACK = frames(OTHER, ONE, b"\2", b"\1", b"\x07\xd0\x03\xe8")


@pytest.mark.parametrize("name", THERE)
def test_addresses_are_exchanged_and_nothing_else(name: str) -> None:
    assert THERE[name] != BACK[name]
    assert reflected(THERE[name]) == (True, BACK[name])


@pytest.mark.parametrize("target", ["ffffffffffff", "01005e000001", "333300000001"])
def test_what_is_sent_to_a_group_is_dropped_as_it_was(target: str) -> None:
    frame = bytes.fromhex(target) + THERE["udp"][6:]
    assert reflected(frame) == (False, frame)


def test_any_bytes_are_taken() -> None:
    """Whatever the headers claim, nothing outside the packet is touched: an index past the end would raise."""
    random = np.random.default_rng(1)
    for _ in range(20_000):
        packet = random.integers(0, 256, random.integers(1, 120), np.uint8)
        packet[:1] &= 0xFE
        if packet.size > 40:
            packet[12:14] = [(8, 0), (0x86, 0xDD), (0x81, 0), (0x88, 0xA8)][random.integers(4)]
        before = packet.copy()
        REFLECT(packet, np.uint64(packet.size))
        assert sorted(packet) == sorted(before)


def test_the_program_sends_back_on_the_port_that_it_received_on() -> None:
    world = World(buffers=512)
    pair = world.pairs[0]
    pair.arm()
    notes: list[str] = []
    program = reflect.program(FORMAT, 32, notes)
    assert (program.ports, program.ways, program.slow, notes) == (1, (HOME,), "", [])
    state, _kept = program.record((pair,), 1)
    sent = 0
    for _ in range(500):
        sent += deliver(world.nics[0], 8, 60 << 32 | 3, 60)
        program.loop(state)
        transmit(world.nics[0], 64)
    counted = counters(pair)
    assert (counted.received, counted.sent, counted.no_room) == (sent, sent, 0)
    assert sent > 3000
    world.pool.check(pair.held())
