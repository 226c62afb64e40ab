"""The program of a reflector: each packet goes back to the port that it came from, with its addresses exchanged."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.datapath import compile
from ixy_vfio.datapath.format import Format
from ixy_vfio.datapath.forwarding import HOME
from ixy_vfio.datapath.kernels import Kernel
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.program import Program

U = np.uint64
ETHERNET = 14  # bytes of its header
TAGS = 2  # VLAN tags at most (802.1Q, 802.1ad)


@inlined
def _swap(packet: Any, first: Any, second: Any, size: Any) -> None:
    """Exchange `size` bytes at two places; nothing when the packet ends before."""
    if second + size <= U(packet.size):
        for i in range(size):
            packet[first + i], packet[second + i] = packet[second + i], packet[first + i]


@inlined
def _word(packet: Any, at: Any) -> Any:
    """16 bits in network order; 0 behind the end."""
    return U(packet[at]) << U(8) | U(packet[at + U(1)]) if at + U(2) <= U(packet.size) else U(0)


def reflect(packet: Any, length: Any) -> bool:
    """Exchange the addresses: Ethernet's, those of IPv4 or IPv6, and the ports of TCP, UDP and SCTP.

    No checksum changes by it. Dropped: what is sent to a group address, which nothing can be sent from.
    """
    if length < U(ETHERNET) or packet[0] & 1:
        return False
    _swap(packet, U(0), U(6), U(6))
    at = U(12)
    for _ in range(TAGS):
        if _word(packet, at) == U(0x8100) or _word(packet, at) == U(0x88A8):
            at += U(4)
    kind = _word(packet, at)
    at += U(2)
    protocol = U(0)
    ports = at
    if kind == U(0x0800) and at + U(20) <= U(packet.size):  # RFC 791
        _swap(packet, at + U(12), at + U(16), U(4))
        ports = at + U(4) * (U(packet[at]) & U(15))
        if _word(packet, at + U(6)) & U(0x1FFF) == U(0):  # the first fragment has the ports
            protocol = U(packet[at + U(9)])
    elif kind == U(0x86DD) and at + U(40) <= U(packet.size):  # RFC 8200
        _swap(packet, at + U(8), at + U(24), U(16))
        ports = at + U(40)
        protocol = U(packet[at + U(6)])
    if protocol == U(6) or protocol == U(17) or protocol == U(132):
        _swap(packet, ports, ports + U(2), U(2))
    return True


def program(format: Format, batch: int, notes: list[str]) -> Program:
    """The compiled program, for a port of this format."""
    kernel = Kernel("reflect", reflect, "reflect", shipped=True)
    return compile.moving(Formats(format, format), kernel, (HOME,), batch, notes)
