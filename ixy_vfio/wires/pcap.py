"""Reads classic pcap files: stamps in us or ns, either byte order (draft-ietf-opsawg-pcap)."""

import struct
from collections.abc import Iterator

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires.packets import BrokenCapture, Interface, Packet
from ixy_vfio.wires.source import Source

# First four bytes -> byte order, units of a timestamp a second.
MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000), b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000), b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}  # fmt: skip
LARGEST = 1 << 18  # bytes of a packet; libpcap's and Wireshark's limit
_LINK_TYPE, _CRC_KNOWN, _CRC_SHIFT = 0x03FF_FFFF, 0x0400_0000, 28  # the word of the link type; CRC in units of 16 bits


def read(source: Source, magic: bytes) -> Iterator[Packet]:
    """The packets behind `magic`, which has been read. Raises CaptureError."""
    order, units = MAGICS[magic]
    header = source.exactly(20, "the file header")
    major, minor, _, _, snaplen, network = struct.unpack(order + "HHiIII", header)
    if (major, minor) != (2, 4):
        raise CaptureError(f"a pcap file of version {major}.{minor}, not 2.4: convert it (editcap -F pcapng IN OUT)")
    crc = 2 * (network >> _CRC_SHIFT) if network & _CRC_KNOWN else 0
    interface = Interface(network & _LINK_TYPE, snaplen, units, 0, crc)
    record = struct.Struct(order + "IIII")
    to_ns = 1_000_000_000 // units
    number = 0
    while head := source.upto(record.size):
        number += 1
        at = source.position - len(head)
        if len(head) < record.size:
            raise BrokenCapture(f"byte {at}: {len(head)} of {record.size} bytes of a packet's header are there")
        seconds, fraction, captured, length = record.unpack(head)
        if captured > LARGEST:
            raise BrokenCapture(f"byte {at}: a packet of {captured} bytes; {LARGEST} are the most")
        data = source.exactly(captured, f"packet {number}")
        yield Packet(number, interface, seconds * 1_000_000_000 + fraction * to_ns, data, length, crc)
