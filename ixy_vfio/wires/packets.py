"""A packet of a capture, and the Ethernet frame that it stands for."""

from typing import NamedTuple

from ixy_vfio.core.errors import CaptureError

ETHERNET = 1  # LINKTYPE_ETHERNET
HEADER = 14  # bytes of an Ethernet header
CRC = 4  # bytes of Ethernet's frame check sequence
INBOUND, OUTBOUND = 1, 2  # bits 0 and 1 of epb_flags

# www.tcpdump.org/linktypes.html: those that people meet. Any other is named by its number.
LINK_TYPES = {
    0: "BSD loopback", 6: "token ring", 9: "PPP", 10: "FDDI", 12: "raw IP", 14: "raw IP", 50: "PPP", 51: "PPPoE",
    101: "raw IP", 104: "Cisco HDLC", 105: "802.11", 107: "frame relay", 108: "OpenBSD loopback",
    113: "Linux cooked", 119: "802.11 with a Prism header", 127: "802.11 with radiotap", 187: "Bluetooth",
    189: "USB", 195: "802.15.4", 201: "Bluetooth", 220: "USB", 227: "CAN", 228: "IPv4", 229: "IPv6",
    239: "netfilter log", 249: "USB", 253: "netlink", 274: "preamble and Ethernet", 276: "Linux cooked, version 2",
}  # fmt: skip


class BrokenCapture(CaptureError):
    """The capture ends early: it is cut, or what follows cannot be made out. The packets before are good."""


class Interface(NamedTuple):
    """Where packets were captured."""

    link_type: int
    snaplen: int = 0  # bytes; 0: no limit
    units: int = 1_000_000  # of a timestamp, a second
    offset: int = 0  # seconds that are added to every timestamp
    crc: int = 0  # bytes of a frame check sequence behind each packet
    name: str = ""


class Packet(NamedTuple):
    """One packet as it was captured."""

    number: int  # from 1, as Wireshark counts
    interface: Interface
    time: int  # ns since 1970; 0 where the capture does not say
    data: bytes
    length: int  # bytes on the wire
    crc: int  # bytes of a frame check sequence at the end of `length`
    flags: int = 0  # epb_flags


def ethernet_frame(packet: Packet) -> bytes:
    """The frame of a packet, without its check sequence. Raises CaptureError when it is not all there."""
    number, interface, _, data, length, crc, _ = packet
    if interface.link_type != ETHERNET:
        name = LINK_TYPES.get(interface.link_type)
        known = f" ({name})" if name else ""
        raise CaptureError(f"packet {number}: link type {interface.link_type}{known} is not Ethernet")
    if crc not in (0, CRC):
        raise CaptureError(f"packet {number}: a check sequence of {crc} bytes is not Ethernet's, which has {CRC}")
    whole = max(length, len(data)) - crc
    if len(data) < whole:
        raise CaptureError(
            f"packet {number}: {len(data)} of its {length} bytes were captured: capture whole packets (tcpdump -s 0), "
            "or pad them (tcprewrite --fixlen=pad)"
        )
    if whole < HEADER:
        raise CaptureError(f"packet {number}: {max(whole, 0)} bytes are no Ethernet frame: its header has {HEADER}")
    return data[:whole] if whole < len(data) else data
