"""Throws changed captures at the readers: each gives packets, or one error of one line, within bounds.

`python -m tests.wires.fuzz 1000000 [SEED]` does a million, and says how they ended.
"""

import gzip
import io
import random
import resource
import struct
import sys
import time
from collections import Counter

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires.capture import packets
from ixy_vfio.wires.packets import ethernet_frame
from tests.wires.blocks import block, enhanced, frame, interface, old, option, pcap, section, simple

LONGEST_LINE = 200
MEMORY = 512 << 20  # bytes of address space beyond what there is at the start
SECONDS = 5.0  # for one input, on a busy machine
A, B = frame(60), frame(61)
INTERESTING = (0, 1, 3, 4, 7, 8, 11, 12, 16, 20, 28, 32, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 16, 1 << 18, (1 << 18) + 1,
               1 << 24, (1 << 24) + 4, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFC, 0xFFFF_FFFF)  # fmt: skip


def corpus() -> list[bytes]:
    """Good captures of all kinds, which the changed ones are made from."""
    found = []
    for order in ("<", ">"):
        options = option(order, 2, b"eth0") + option(order, 9, b"\x09") + option(order, 13, b"\x04")
        options += option(order, 14, struct.pack(order + "q", -5)) + bytes(4)
        flags = option(order, 2, struct.pack(order + "I", 0x81)) + bytes(4)
        head = section(order) + interface(order, options=options) + interface(order, snaplen=100)
        body = enhanced(A, order, 1, 1 << 40, options=flags) + simple(A, order) + old(B, order, 1)
        found.append(head + body + block(order, 5, bytes(12)) + block(order, 0x0BAD, bytes(40)) + enhanced(A, order))
        found.append(pcap([A, B], order))
        found.append(pcap([A, B], order, 0xA1B23C4D, network=1 | 0x2400_0000))
    found.append(found[0] + found[3])  # two sections, of both byte orders
    return found + [gzip.compress(data) for data in found]


def changed(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One input: a capture with some changes, or (seldom) noise."""
    if chance.random() < 0.01:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(7)
        if kind == 0:
            data[at : at + 1] = chance.randbytes(1)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at : at + chance.choice((1, 4, 40))] = b""
        elif kind == 3:
            at &= ~3
            data[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(INTERESTING))
        elif kind == 4:
            at &= ~1
            data[at : at + 2] = struct.pack(chance.choice("<>") + "H", chance.choice(INTERESTING) & 0xFFFF)
        elif kind == 5:
            other = chance.choice(seeds)
            start = chance.randrange(len(other)) & ~3
            data[at & ~3 : at & ~3] = other[start : start + chance.choice((4, 32, 200))]
        elif len(data) < 1 << 14:
            data += data[at & ~3 :]
    return gzip.compress(bytes(data), 1) if chance.random() < 0.05 else bytes(data)


def outcome(data: bytes) -> str:
    """How reading an input ends; anything but packets and errors of one line is raised."""
    count = 0
    try:
        for packet in packets(io.BytesIO(data)):
            count += 1
            assert len(packet.data) <= len(data) * 1100, "a packet from nowhere"
            assert packet.number == count
            try:
                assert 14 <= len(ethernet_frame(packet)) <= len(packet.data)
            except CaptureError as error:
                one_line(error)
    except CaptureError as error:
        one_line(error)
        return "ends early" if count else "refused"
    return "read whole"


def one_line(error: CaptureError) -> None:
    """An error is a line that can be shown."""
    text = str(error)
    assert 0 < len(text) <= LONGEST_LINE, text
    assert text.isprintable(), text


def run(inputs: int, seed: int) -> Counter[str]:
    """Read `inputs` changed captures; returns how they ended. Raises AssertionError, or whatever a reader raised."""
    chance, seeds, ends = random.Random(seed), corpus(), Counter[str]()
    for number in range(inputs):
        data = changed(chance, seeds)
        start = time.monotonic()
        try:
            ends[outcome(data)] += 1
        except BaseException as error:
            error.add_note(f"input {number} of seed {seed}: {data.hex()}")
            raise
        assert time.monotonic() - start < SECONDS, data.hex()
    return ends


def main() -> None:
    """The command."""
    inputs, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with open("/proc/self/statm") as file:
        there = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + MEMORY, there + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    ends = run(inputs, seed)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ended = ", ".join(f"{name} {count}" for name, count in ends.most_common())
    print(f"{inputs} inputs in {time.monotonic() - start:.0f} s, memory grew by {grown} KiB: {ended}")


if __name__ == "__main__":
    main()
