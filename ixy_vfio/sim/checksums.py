"""Internet checksums (RFC 1071) and the Ethernet CRC over frames in byte arrays, compiled.

Sums are taken over little-endian words and stored little-endian: the ones' complement sum does not mind the order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import address_of, borrowed, bytes_at, load16, load32, words64_at
from ixy_vfio.sim.state import Int


def _crc_table(polynomial: int) -> NDArray[np.uint32]:
    """By the reflected polynomial of a CRC."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(polynomial), table >> 1).astype(np.uint32)
    return table


_CRC_TABLE = _crc_table(0xEDB88320)
_CRC32C_TABLE = _crc_table(0x82F63B78)  # Castagnoli's
SCTP_HEADER, SCTP_CHECKSUM = 12, 8  # bytes of the common header; where its checksum stands (RFC 9260)


@inlined
def be16(data: Any, at: Int) -> Any:
    """The 16-bit word in network order at data[at:]."""
    word = np.uint32(load16(data, at))
    return (word & np.uint32(0xFF)) << np.uint32(8) | word >> np.uint32(8)


@inlined
def be32(data: Any, at: Int) -> Any:
    """The 32-bit word in network order at data[at:]."""
    return be16(data, at) << np.uint32(16) | be16(data, at + 2)


@inlined
def put_be16(data: Any, at: Int, value: Int) -> None:
    """Store 16 bits in network order."""
    data[at] = np.uint8(np.uint32(value) >> np.uint32(8))
    data[at + 1] = np.uint8(np.uint32(value) & np.uint32(0xFF))


@inlined
def put_be32(data: Any, at: Int, value: Int) -> None:
    """Store 32 bits in network order."""
    put_be16(data, at, np.uint32(value) >> np.uint32(16))
    put_be16(data, at + 2, np.uint32(value) & np.uint32(0xFFFF))


@compiled
def sum_at(address: Int, length: Int, total: Int) -> Int:
    """What `add_bytes` says, for `length` bytes at an address that it has checked."""
    words = words64_at(address, length >> 3)  # of any alignment, which x86-64 does not mind
    for i in range(words.size):
        total += halves(words[i])
    data, at = bytes_at(address, length), 8 * words.size
    if length & 4:
        total += np.uint64(load32(data, at))
        at += 4
    if length & 2:
        total += np.uint64(load16(data, at))
        at += 2
    return total + np.uint64(data[at]) if length & 1 else total


@inlined
def add_bytes(data: Any, at: Int, length: Int, total: Int) -> Any:
    """`total` plus the 16-bit words of data[at:at+length], not folded; an odd last byte counts as a word with 0."""
    return sum_at(address_of(data, at, length), np.intp(length), np.uint64(total))


@inlined
def halves(word: Int) -> Any:
    """What 8 bytes add to a sum."""
    return (word & np.uint64(0xFFFFFFFF)) + (word >> np.uint64(32))


@inlined
def fold(total: Int) -> Any:
    """A sum folded to 16 bits: adding a number to itself, turned by half its width, leaves the sum in its high half."""
    half = np.uint32((total + (total << np.uint64(32) | total >> np.uint64(32))) >> np.uint64(32))
    turned = np.uint32(half << np.uint32(16) | half >> np.uint32(16))
    return np.uint32(half + turned) >> np.uint32(16)


@inlined
def swapped(value: Int) -> Any:
    """A 16-bit number in network order, as it counts in a sum."""
    return np.uint64((value & 0xFF) << 8 | value >> 8 & 0xFF)


@inlined
def put_checksum(data: Any, at: Int, total: Int) -> None:
    """Store the checksum that goes with a sum."""
    value = fold(total) ^ np.uint32(0xFFFF)
    data[at] = np.uint8(value & np.uint32(0xFF))
    data[at + 1] = np.uint8(value >> np.uint32(8))


@compiled
def ethernet_crc(data: Any, at: Int, length: Int) -> Int:
    """The frame check sequence of data[at:at+length] (IEEE 802.3), to be sent low byte first."""
    data, crc = borrowed(data), np.uint32(0xFFFFFFFF)
    for i in range(at, at + length):
        crc = _CRC_TABLE[np.intp((crc ^ np.uint32(data[i])) & np.uint32(0xFF))] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


@compiled
def sctp_checksum(data: Any, at: Int, length: Int) -> Int:
    """CRC32c of the SCTP packet data[at:at+length] as if its checksum field were 0; sent low byte first (RFC 9260)."""
    data, crc = borrowed(data), np.uint32(0xFFFFFFFF)
    for i in range(at, at + length):
        field = at + SCTP_CHECKSUM <= i < at + SCTP_HEADER
        byte = np.uint32(0) if field else np.uint32(data[i])
        crc = _CRC32C_TABLE[np.intp((crc ^ byte) & np.uint32(0xFF))] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)
