"""What the receive path finds out about a packet: packet type, checksums, RSS hash and queue. 7.1.2, 7.1.11."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, load32, load64
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import SCTP_CHECKSUM, SCTP_HEADER, add_bytes, be16, fold, halves, sctp_checksum, swapped
from ixy_vfio.sim.frames import HEADER
from ixy_vfio.sim.state import Int

# Extended status and errors, as in the second word of the write-back (7.1.6.2): status 19:0, errors 31:20.
DD, EOP, VP, UDPCS, L4CS, IPCS, PIF = (np.uint32(1 << bit) for bit in (0, 1, 3, 4, 5, 6, 7))
TCPE, IPE = np.uint32(1 << 30), np.uint32(1 << 31)
# First word: RSS type 3:0, packet type 16:4, hash 63:32.
IPV4, IPV4E, IPV6, IPV6E, TYPE_TCP, TYPE_UDP, TYPE_SCTP = (np.uint32(1 << bit) for bit in (4, 5, 6, 7, 8, 9, 10))
RSS_TCP_IPV4, RSS_IPV4, RSS_TCP_IPV6, RSS_IPV6, RSS_UDP_IPV4, RSS_UDP_IPV6 = (np.uint32(n) for n in (1, 2, 3, 5, 7, 8))

_MRQC, _RETA, _RSSRK = ixgbe.MRQC.offset() // 4, ixgbe.RETA.offset() // 4, ixgbe.RSSRK.offset() // 4
_RXCSUM, _VLNCTRL = ixgbe.RXCSUM.offset() // 4, ixgbe.VLNCTRL.offset() // 4
_PCSD = np.uint32(1 << 13)  # RXCSUM.PCSD: the hash stands in the descriptor
_TCP, _UDP, _SCTP = 6, 17, 132
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
HASH_BYTES = 36  # two IPv6 addresses and two ports


@compiled
def learn_key(port: Any, registers: Any) -> None:
    """Tabulate the Toeplitz hash of each byte value at each position, if RSSRK has changed."""
    registers = borrowed(registers)
    changed = not port.hash_ready
    for i in range(10):
        changed |= port.hash_key[i] != registers[_RSSRK + i]
    if not changed:
        return
    for i in range(10):
        port.hash_key[i] = registers[_RSSRK + i]
    port.hash_ready = np.uint8(1)
    for position in range(HASH_BYTES):
        for value in range(256):
            total = np.uint32(0)
            for bit in range(8):
                if value & (128 >> bit):
                    total ^= key_window(port.hash_key, 8 * position + bit)
            port.hash_table[256 * position + value] = total


@inlined
def key_window(key: Any, bit: Int) -> Any:
    """32 bits of the key from `bit` on; byte 0 of RSSRK comes first, its most significant bit first."""
    window = np.uint32(0)
    for i in range(bit, bit + 32):
        byte = key[i >> 5] >> np.uint32(8 * ((i >> 3) & 3)) & np.uint32(0xFF)
        window = window << np.uint32(1) | (byte >> np.uint32(7 - (i & 7)) & np.uint32(1))
    return window


@inlined
def toeplitz(port: Any, data: Any, at: Int, size: Int, position: Int) -> Any:
    """The part of the hash that data[at:at+size] adds when it stands at `position` of the input."""
    total = np.uint32(0)
    for i in range(size):
        total ^= port.hash_table[256 * (position + i) + np.intp(data[at + i])]
    return total


@inlined
def rss_type(control: Int, kinds: Int) -> Any:
    """Which of the fields that MRQC enables a packet of these packet types is hashed over (7.1.2.8.1); 0 for none."""
    if kinds & IPV4:
        if kinds & TYPE_TCP and control >> np.uint32(16) & np.uint32(1):
            return RSS_TCP_IPV4
        if kinds & TYPE_UDP and control >> np.uint32(22) & np.uint32(1):
            return RSS_UDP_IPV4
        return RSS_IPV4 if control >> np.uint32(17) & np.uint32(1) else np.uint32(0)
    if kinds & IPV6:
        if kinds & TYPE_TCP and control >> np.uint32(21) & np.uint32(1):
            return RSS_TCP_IPV6
        if kinds & TYPE_UDP and control >> np.uint32(23) & np.uint32(1):
            return RSS_UDP_IPV6
        return RSS_IPV6 if control >> np.uint32(20) & np.uint32(1) else np.uint32(0)
    return np.uint32(0)


@inlined
def rss_hash(port: Any, data: Any, ip: Int, l4: Int, kind: Int) -> Int:
    """The hash over addresses, and ports unless `kind` is of addresses alone."""
    four = kind in (RSS_IPV4, RSS_TCP_IPV4, RSS_UDP_IPV4)
    size = 8 if four else 32
    total = toeplitz(port, data, ip + (12 if four else 8), size, 0)
    if kind not in (RSS_IPV4, RSS_IPV6):
        total ^= toeplitz(port, data, l4, 4, size)
    return total


@inlined
def check_l4(data: Any, ip: Int, l4: Int, size: Int, protocol: Int, addresses: Int) -> tuple[Int, Int]:
    """(packet type, status) of the L4 header; `addresses` bytes of addresses stand at data[ip:]."""
    if protocol == _SCTP and size >= SCTP_HEADER:
        good = np.uint32(sctp_checksum(data, l4, size)) == np.uint32(load32(data, l4 + SCTP_CHECKSUM))
        return TYPE_SCTP, L4CS if good else L4CS | TCPE
    if (protocol != _TCP or size < 20) and (protocol != _UDP or size < 8):
        return np.uint32(0), np.uint32(0)
    kind, status = (TYPE_TCP, L4CS) if protocol == _TCP else (TYPE_UDP, L4CS | UDPCS)
    if protocol == _UDP and be16(data, l4 + 6) == 0:
        return kind, np.uint32(0)  # sent without a checksum
    total = swapped(protocol) + swapped(size)
    for i in range(0, addresses, 8):
        total += halves(load64(data, ip + i))
    if fold(add_bytes(data, l4, size, total)) != np.uint32(0xFFFF):
        status |= TCPE
    return kind, status


@inlined
def look_at_ipv4(data: Any, ip: Int, end: Int) -> tuple[Int, Int, Int]:
    """(packet type, status, position of the L4 header) of an IPv4 packet at data[ip:end]."""
    header = np.intp(data[ip] & np.uint8(15)) * 4
    size = np.intp(be16(data, ip + 2))
    kind = IPV4 if header == 20 else IPV4 | IPV4E
    if data[ip] >> np.uint8(4) != 4 or header < 20 or size < header or ip + size > end:
        return np.uint32(0), np.uint32(0), ip
    status = IPCS
    total = halves(load64(data, ip)) + halves(load64(data, ip + 8)) + np.uint64(load32(data, ip + 16))
    if header > 20:
        total = add_bytes(data, ip + 20, header - 20, total)
    if fold(total) != np.uint32(0xFFFF):
        status |= IPE
    if be16(data, ip + 6) & np.uint32(0x3FFF) == 0:  # not a fragment
        more, l4_status = check_l4(data, ip + 12, ip + header, size - header, np.intp(data[ip + 9]), 8)
        return kind | more, status | l4_status, ip + header
    return kind, status, ip + header


@inlined
def look_at_ipv6(data: Any, ip: Int, end: Int) -> tuple[Int, Int, Int]:
    """(packet type, status, position of the L4 header) of an IPv6 packet at data[ip:end]."""
    last = ip + 40 + np.intp(be16(data, ip + 4))
    if data[ip] >> np.uint8(4) != 6 or last > end:
        return np.uint32(0), np.uint32(0), ip
    kind, following, l4 = IPV6, np.intp(data[ip + 6]), ip + 40
    while following in (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT) and l4 + 8 <= last:
        kind |= IPV6E
        if following == _FRAGMENT:
            return kind, np.uint32(0), l4
        following, l4 = np.intp(data[l4]), l4 + 8 + 8 * np.intp(data[l4 + 1])
    if l4 > last:
        return kind, np.uint32(0), ip
    more, status = check_l4(data, ip + 8, l4, last - l4, following, 32)
    return kind | more, status, l4


@inlined
def classify(port: Any, registers: Any, data: Any, position: Int, length: Int) -> tuple[Int, Int, Int]:
    """(extended status, first word of the write-back, queue) for the frame at `position`."""
    at, status = position + HEADER, np.uint32(0)
    ip, end = at + 14, at + length
    protocol = be16(data, at + 12)
    if protocol == registers[_VLNCTRL] & np.uint32(0xFFFF) and length >= 18:
        status |= VP
        protocol, ip = be16(data, at + 16), at + 18
    kinds, more, l4 = np.uint32(0), np.uint32(0), ip
    if protocol == 0x0800 and ip + 20 <= end:
        kinds, more, l4 = look_at_ipv4(data, ip, end)
    elif protocol == 0x86DD and ip + 40 <= end:
        kinds, more, l4 = look_at_ipv6(data, ip, end)
    status |= more
    control = registers[_MRQC]
    if control & np.uint32(15) != 1:  # MRQE: RSS alone; the modes with DCB and VMDq are not modelled
        return status, np.uint64(kinds), np.intp(0)
    kind = rss_type(control, kinds)
    if kind == 0:
        return status, np.uint64(kinds), np.intp(0)
    value = rss_hash(port, data, ip, l4, kind)
    entry = np.intp(value & np.uint32(127))
    queue = np.intp(registers[_RETA + (entry >> 2)] >> np.uint32(8 * (entry & 3)) & np.uint32(15))
    info = np.uint64(kinds | kind)
    if registers[_RXCSUM] & _PCSD:
        info |= np.uint64(value) << np.uint64(32)
    return status, info, queue
