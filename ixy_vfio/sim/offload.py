"""What the hardware does to a packet on its way out: checksums, VLAN tag, TCP and UDP segmentation. 7.2.4, 7.2.5.

A context is the two words of a context descriptor (7.2.3.2.3): IPLEN 8:0, MACLEN 15:9, VLAN 31:16 of the first;
IPV4 10, L4T 12:11, L4LEN 47:40, MSS 63:48 of the second.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, copy_bytes
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import (
    SCTP_CHECKSUM,
    SCTP_HEADER,
    add_bytes,
    be16,
    be32,
    fold,
    put_be16,
    put_be32,
    put_checksum,
    sctp_checksum,
    swapped,
)
from ixy_vfio.sim.frames import HEADER, push, reserve
from ixy_vfio.sim.state import Int

IXSM, TXSM = np.uint64(1 << 40), np.uint64(1 << 41)  # POPTS of a data descriptor
UDP, TCP, SCTP = 0, 1, 2  # L4T
_DTXTCPFLGL, _DTXTCPFLGH = ixgbe.DTXTCPFLGL.offset() // 4, ixgbe.DTXTCPFLGH.offset() // 4
_DMATXCTL = ixgbe.DMATXCTL.offset() // 4


@inlined
def mac_length(first: Int) -> Any:
    """MACLEN of a context."""
    return np.intp(first >> np.uint64(9) & np.uint64(0x7F))


@inlined
def ip_length(first: Int) -> Any:
    """IPLEN of a context."""
    return np.intp(first & np.uint64(0x1FF))


@inlined
def l4_type(second: Int) -> Any:
    """L4T of a context."""
    return np.intp(second >> np.uint64(11) & np.uint64(3))


@inlined
def l4_length(second: Int) -> Any:
    """L4LEN of a context."""
    return np.intp(second >> np.uint64(40) & np.uint64(0xFF))


@inlined
def segment_size(second: Int) -> Any:
    """MSS of a context."""
    return np.intp(second >> np.uint64(48))


@inlined
def is_ipv4(second: Int) -> Any:
    """IPV4 of a context's TUCMD."""
    return second & np.uint64(1 << 10) != 0


@compiled
def fits(first: Int, second: Int, options: Int, length: Int) -> bool:
    """Whether the headers that a context describes lie inside a packet of `length` bytes, and can be worked on."""
    mac, ip = mac_length(first), ip_length(first)
    if options & IXSM and (mac < 14 or ip < 20 or mac + ip > length):
        return False
    if options & TXSM:
        kind = l4_type(second)
        header = 20 if kind == TCP else (SCTP_HEADER if kind == SCTP else 8)
        return bool(mac >= 14 and ip >= 20 and kind <= SCTP and mac + ip + header <= length)
    return True


@compiled
def insert_checksums(data: Any, at: Int, length: Int, first: Int, second: Int, options: Int, l4_size: Int) -> None:
    """Put IPv4 and TCP, UDP or SCTP checksums into the packet at data[at:at+length].

    The checksum field of TCP and UDP holds the sum of the pseudo header already: with the length (`l4_size` 0), or
    without it.
    """
    data = borrowed(data)
    ip = at + mac_length(first)
    l4 = ip + ip_length(first)
    if options & IXSM:
        put_be16(data, ip + 10, 0)
        put_checksum(data, ip + 10, add_bytes(data, ip, ip_length(first), np.uint64(0)))
    if options & TXSM and l4_type(second) == SCTP:
        crc = np.uint32(sctp_checksum(data, l4, at + length - l4))
        for i in range(4):
            data[l4 + SCTP_CHECKSUM + i] = np.uint8(crc >> np.uint32(8 * i) & np.uint32(0xFF))
    elif options & TXSM:
        field = l4 + (16 if l4_type(second) == TCP else 6)
        total = add_bytes(data, l4, at + length - l4, swapped(l4_size))
        if l4_type(second) == UDP and fold(total) == np.uint32(0xFFFF):
            put_be16(data, field, 0xFFFF)  # 0 would say that there is none
        else:
            put_checksum(data, field, total)


@inlined
def insert_tag(data: Any, at: Int, registers: Any, tag: Int) -> None:
    """Turn the packet at data[at + 4:] into a tagged one at data[at:]; DMATXCTL.VT is the type."""
    for i in range(12):
        data[at + i] = data[at + 4 + i]
    put_be16(data, at + 12, registers[_DMATXCTL] >> np.uint32(16))
    put_be16(data, at + 14, np.uint32(tag))


@compiled
def finish_segment(
    data: Any, at: Int, first: Int, second: Int, options: Int, payload: Int, index: Int, offset: Int, mask: Int
) -> None:
    """Turn the copied headers at data[at:] into those of segment `index`, whose payload follows them."""
    data = borrowed(data)
    ip = at + mac_length(first)
    l4 = ip + ip_length(first)
    l4_size = l4_length(second) + payload
    if is_ipv4(second):
        put_be16(data, ip + 2, ip_length(first) + l4_size)
        put_be16(data, ip + 4, be16(data, ip + 4) + np.uint32(index))
    else:
        put_be16(data, ip + 4, ip_length(first) - 40 + l4_size)
    if l4_type(second) == TCP:
        put_be32(data, l4 + 4, be32(data, l4 + 4) + np.uint32(offset))
        word = be16(data, l4 + 12)
        put_be16(data, l4 + 12, word & (np.uint32(0xF000) | mask))
    else:
        put_be16(data, l4 + 4, l4_size)
    size = mac_length(first) + ip_length(first) + l4_size
    insert_checksums(data, at, size, first, second, options, l4_size)


@compiled
def send_segments(
    fifo: Any, data: Any, registers: Any, packet: Any, length: Int, first: Int, second: Int, options: Int, tagged: Int
) -> Int:
    """Cut a packet of headers and payload into segments of MSS bytes (7.2.4); returns how many frames were pushed."""
    data, registers, packet = borrowed(data), borrowed(registers), borrowed(packet)
    headers = mac_length(first) + ip_length(first) + l4_length(second)
    size, tag = segment_size(second), 4 if tagged else 0
    low, high = registers[_DTXTCPFLGL], registers[_DTXTCPFLGH]
    offset, index = np.intp(0), np.intp(0)
    while offset < length - headers:
        payload = min(size, length - headers - offset)
        last = offset + payload == length - headers
        mask = np.uint32(0xFFF) & (high if last else (low >> np.uint32(16) if index else low))
        frame = max(headers + payload + tag, 60)
        position = reserve(fifo, data, frame)
        if position < 0:
            break
        at = position + HEADER
        copy_bytes(data, at + tag, packet, 0, headers)
        copy_bytes(data, at + tag + headers, packet, headers + offset, payload)
        finish_segment(data, at + tag, first, second, options, payload, index, offset, mask)
        if tagged:
            insert_tag(data, at, registers, np.uint32(first >> np.uint64(16) & np.uint64(0xFFFF)))
        for i in range(headers + payload + tag, frame):
            data[at + i] = np.uint8(0)
        push(fifo, data, position, frame)
        offset += payload
        index += 1
    return index
