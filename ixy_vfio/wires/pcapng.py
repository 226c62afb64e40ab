"""Reads pcapng files (draft-ietf-opsawg-pcapng): sections of either byte order, several interfaces, all packet blocks.

Blocks that hold no packet (names, statistics, secrets, custom ones) are left out. A block is never believed: its
length is bounded, and everything in it lies within it.
"""

import struct
from collections.abc import Iterator

from ixy_vfio.wires.packets import BrokenCapture, Interface, Packet
from ixy_vfio.wires.source import Source

MAGIC = b"\x0a\x0d\x0d\x0a"  # the type of a section header block: a palindrome, so that it has no byte order
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_LARGEST = 1 << 24  # bytes of a block that is read; Wireshark's limit
_MOST_INTERFACES = 1 << 16  # of a section
_IF_NAME, _IF_TSRESOL, _IF_FCSLEN, _IF_TSOFFSET = 2, 9, 13, 14
_PACKET_FLAGS = 2  # epb_flags, and the same in the old packet block
_FLAGS_CRC_SHIFT, _FLAGS_CRC = 5, 0xF
# The least length of a block of each type that is read: what is fixed of it, with type and both lengths.
_LEAST = {_SECTION: 28, _INTERFACE: 20, _OLD_PACKET: 32, _SIMPLE: 16, _ENHANCED: 32}
_NAMES = {_SECTION: "section header", _INTERFACE: "interface", _OLD_PACKET: "packet", _SIMPLE: "packet",
          _ENHANCED: "packet"}  # fmt: skip


class _Section:
    """What the section header and the interface blocks of a section say."""

    def __init__(self, order: str) -> None:
        self.head = struct.Struct(order + "II")
        self.word = struct.Struct(order + "I")
        self.enhanced = struct.Struct(order + "IIIII")  # interface, stamp (high, low), captured, length
        self.old = struct.Struct(order + "HHIIII")  # interface, drops, stamp (high, low), captured, length
        self.link = struct.Struct(order + "HHI")  # link type, reserved, snaplen
        self.option = struct.Struct(order + "HH")
        self.signed64 = struct.Struct(order + "q")
        self.interfaces: list[Interface] = []


def read(source: Source, magic: bytes) -> Iterator[Packet]:
    """The packets of a file whose first four bytes, `magic`, have been read. Raises BrokenCapture."""
    section = _section(source, 0)
    number = 0
    while head := source.upto(8):
        at = source.position - len(head)
        if len(head) < 8:
            raise BrokenCapture(f"byte {at}: {len(head)} of 8 bytes of a block's header are there")
        if head.startswith(MAGIC):
            section = _section(source, at, head[4:])
            continue
        kind, total = section.head.unpack(head)
        if kind not in _LEAST:
            _leave_out(source, section, at, kind, total)
            continue
        body = _body(source, section, at, kind, total)
        if kind == _INTERFACE:
            if len(section.interfaces) == _MOST_INTERFACES:
                raise BrokenCapture(f"byte {at}: more than {_MOST_INTERFACES} interfaces")
            section.interfaces.append(_interface(section, body, at))
        else:
            number += 1
            yield _packet(section, kind, body, at, number)


def _section(source: Source, at: int, length: bytes = b"") -> _Section:
    """Read a section header block, whose type (and length) has been read: its byte order stands behind the length."""
    length = length or source.exactly(4, "a section header")
    order = _ORDERS.get(source.exactly(4, "a section header"))
    if order is None:
        raise BrokenCapture(f"byte {at}: a section without a byte order")
    section = _Section(order)
    (total,) = section.word.unpack(length)
    _check_length(at, _SECTION, total)
    major, minor = section.option.unpack(source.exactly(4, "a section header"))
    if major != 1:
        raise BrokenCapture(f"byte {at}: a section of version {major}.{minor}, not 1")
    source.skip(total - 20, "a section header")
    _check_end(source, section, at, total)
    return section


def _check_length(at: int, kind: int, total: int) -> None:
    least = _LEAST.get(kind, 12)
    name = _NAMES.get(kind, f"type {kind:#x}")
    if total % 4 or total < least:
        raise BrokenCapture(f"byte {at}: a block ({name}) of {total} bytes: {least} at least, and a multiple of 4")
    if total > _LARGEST and kind in _LEAST:
        raise BrokenCapture(f"byte {at}: a block ({name}) of {total} bytes; {_LARGEST} are the most")


def _check_end(source: Source, section: _Section, at: int, total: int) -> None:
    (again,) = section.word.unpack(source.exactly(4, "a block"))
    if again != total:
        raise BrokenCapture(f"byte {at}: a block of {total} bytes that ends as one of {again}")


def _leave_out(source: Source, section: _Section, at: int, kind: int, total: int) -> None:
    _check_length(at, kind, total)
    source.skip(total - 12, "a block")
    _check_end(source, section, at, total)


def _body(source: Source, section: _Section, at: int, kind: int, total: int) -> bytes:
    _check_length(at, kind, total)
    body = source.exactly(total - 12, f"a block ({_NAMES[kind]})")
    _check_end(source, section, at, total)
    return body


def _options(section: _Section, body: bytes, start: int, at: int) -> dict[int, bytes]:
    """The options from `start` on; of several with one code the first."""
    options: dict[int, bytes] = {}
    while start + 4 <= len(body):
        code, length = section.option.unpack_from(body, start)
        if code == 0:
            break
        start += 4
        if start + length > len(body):
            raise BrokenCapture(f"byte {at}: an option of {length} bytes that does not fit into its block")
        options.setdefault(code, body[start : start + length])
        start += length + -length % 4
    return options


def _interface(section: _Section, body: bytes, at: int) -> Interface:
    link_type, _, snaplen = section.link.unpack_from(body)
    options = _options(section, body, section.link.size, at)
    units, offset = 1_000_000, 0
    if resolution := options.get(_IF_TSRESOL, b"")[:1]:
        units = (2 if resolution[0] & 0x80 else 10) ** (resolution[0] & 0x7F)
    if len(value := options.get(_IF_TSOFFSET, b"")) == 8:
        (offset,) = section.signed64.unpack(value)
    # The specification counts bits, and gives 4 as its example: writers do both.
    bits = (options.get(_IF_FCSLEN, b"") or b"\0")[0]
    crc = bits if bits <= 4 else -(-bits // 8)
    return Interface(link_type, snaplen, units, offset, crc, options.get(_IF_NAME, b"").decode(errors="replace"))


def _packet(section: _Section, kind: int, body: bytes, at: int, number: int) -> Packet:
    if kind == _SIMPLE:
        (length,) = section.word.unpack_from(body)
        interface = _which(section, 0, at)
        captured = min(length, interface.snaplen) if interface.snaplen else length
        if 4 + captured > len(body):
            raise BrokenCapture(f"byte {at}: a packet of {captured} bytes that does not fit into its block")
        return Packet(number, interface, 0, body[4 : 4 + captured], length, interface.crc)
    if kind == _ENHANCED:
        index, high, low, captured, length = section.enhanced.unpack_from(body)
    else:
        index, _, high, low, captured, length = section.old.unpack_from(body)
    interface = _which(section, index, at)
    end = 20 + captured
    if end > len(body):
        raise BrokenCapture(f"byte {at}: a packet of {captured} bytes that does not fit into its block")
    flags, crc, options = 0, interface.crc, end + -captured % 4
    if options < len(body) and len(value := _options(section, body, options, at).get(_PACKET_FLAGS, b"")) == 4:
        (flags,) = section.word.unpack(value)
        crc = flags >> _FLAGS_CRC_SHIFT & _FLAGS_CRC or crc
    time = (high << 32 | low) * 1_000_000_000 // interface.units + interface.offset * 1_000_000_000
    return Packet(number, interface, time, body[20:end], length, crc, flags)


def _which(section: _Section, index: int, at: int) -> Interface:
    if index >= len(section.interfaces):
        raise BrokenCapture(
            f"byte {at}: a packet of interface {index}; the section has {len(section.interfaces)} interfaces"
        )
    return section.interfaces[index]
