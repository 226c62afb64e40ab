"""Captures made byte by byte, by the text of the formats and not by the code under test."""

import struct
from collections.abc import Sequence


def frame(size: int, fill: int = 0x5A) -> bytes:
    """An Ethernet frame to everybody, of an experimental type."""
    return bytes.fromhex("ffffffffffff 025254000001 88b5") + bytes([fill]) * (size - 14)


def block(order: str, kind: int, body: bytes) -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    total = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + total + body + total


def option(order: str, code: int, value: bytes) -> bytes:
    """An option of a block."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    """A section header block."""
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", link: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    """An interface description block."""
    return block(order, 1, struct.pack(order + "HHI", link, 0, snaplen) + options)


def enhanced(
    data: bytes, order: str = "<", index: int = 0, stamp: int = 0, length: int | None = None, options: bytes = b""
) -> bytes:
    """An enhanced packet block."""
    head = struct.pack(order + "IIIII", index, stamp >> 32, stamp & 0xFFFFFFFF, len(data), length or len(data))
    return block(order, 6, head + data + bytes(-len(data) % 4) + options)


def simple(data: bytes, order: str = "<", length: int | None = None) -> bytes:
    """A simple packet block."""
    return block(order, 3, struct.pack(order + "I", length or len(data)) + data)


def old(data: bytes, order: str = "<", index: int = 0, stamp: int = 0) -> bytes:
    """A packet block, which is obsolete, and written by old programs."""
    head = struct.pack(order + "HHIIII", index, 0, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
    return block(order, 2, head + data)


def pcap(
    frames: Sequence[bytes],
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    network: int = 1,
    version: tuple[int, int] = (2, 4),
) -> bytes:
    """A pcap file; stamps count from (7 s, 9 units)."""
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, 65535, network)
    for number, data in enumerate(frames):
        out += struct.pack(order + "IIII", 7 + number, 9, len(data), len(data)) + data
    return out
