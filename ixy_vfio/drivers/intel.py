"""Descriptor formats of the 82599 (datasheet revision 3.4): 16 bytes, two little-endian 64-bit words each.

The driver uses the advanced receive descriptor (one buffer, no header split) and the advanced transmit data
descriptor. All values are unsigned 64-bit constants, ready for compiled code.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.datapath.format import Meta

U = np.uint64
WORDS = np.uint64(2)  # 64-bit words in a descriptor; the first is always the address of the buffer

# 7.1.6.1 Advanced receive descriptor, read format: word 0 packet buffer address, word 1 header buffer address. Bit 0 of
# word 1 is where DD will be written, so word 1 is 0.

# 7.1.6.2 Advanced receive descriptor, write-back format, word 1: extended status 19:0, extended error 31:20,
# PKT_LEN 47:32, VLAN tag 63:48.
RX_DD = np.uint64(1 << 0)  # descriptor done
RX_EOP = np.uint64(1 << 1)  # end of packet: the last buffer of this packet
RX_ERRORS = np.uint64(1 << 29 | 3 << 27)  # RXE (the MAC saw an error) and SECERR; valid with EOP only
RX_STATUS_MASK = np.uint64(0xFFFFF)  # with VP, the packet had an 802.1Q tag, in bit 3
RX_L4_CHECKED_SHIFT = np.uint64(5)  # L4I: TCP or UDP checksum was checked
RX_IP_CHECKED_SHIFT = np.uint64(6)  # IPCS: IPv4 header checksum was checked
RX_L4_ERROR_SHIFT = np.uint64(30)  # L4E
RX_IP_ERROR_SHIFT = np.uint64(31)  # IPE
RX_VLAN_SHIFT = np.uint64(48)
RX_LENGTH_SHIFT = np.uint64(32)
RX_LENGTH_MASK = np.uint64(0xFFFF)  # bytes in this buffer, after the shift

# The same, word 0: RSS type 3:0, packet type 16:4, RSS hash 63:32 (or fragment checksum and IP identification).
RX_RSS_TYPE_MASK = np.uint64(0xF)
RX_PACKET_TYPE_SHIFT = np.uint64(4)
RX_PACKET_TYPE_MASK = np.uint64(0x1FFF)
RX_RSS_HASH_SHIFT = np.uint64(32)

# 7.2.3.2.4 Advanced transmit data descriptor, read format, word 1: DTALEN 15:0, DTYP 23:20, DCMD 31:24, STA 35:32,
# PAYLEN 63:46.
TX_DTYP_DATA = 3 << 20
TX_LAST = np.uint64(1 << 24 | 1 << 27)  # EOP, last descriptor of the packet, and RS, write DD when it is done
TX_DATA = np.uint64(TX_DTYP_DATA | 1 << 25 | 1 << 29)  # what every one has: DTYP, IFCS (append the CRC), DEXT
TX_PAYLEN_SHIFT = np.uint64(46)  # length of the whole packet; in its first descriptor

# 7.2.3.2.4 Advanced transmit data descriptor, write-back format, word 1.
TX_DD = np.uint64(1 << 32)  # descriptor done: the device has read this buffer and all before it

MIN_PACKET = np.uint64(17)  # 7.2.3.2.4: the shortest packet that may be sent; nothing shorter is on a wire


@inlined
def _checksum(word: Any, checked: Any, wrong: Any) -> Any:
    """0 NOT_CHECKED, 1 GOOD or 2 BAD, without a branch; the error bit says nothing where nothing was checked."""
    return (word >> checked & U(1)) << (word >> wrong & U(1))


@inlined
def meta_of(first: Any, word: Any) -> Any:
    """The metadata in both words of a write-back, that of the packet's last buffer. VP is where TAGGED is."""
    return Meta(
        word & RX_STATUS_MASK,
        first >> RX_PACKET_TYPE_SHIFT & RX_PACKET_TYPE_MASK,
        word >> RX_VLAN_SHIFT,
        first & RX_RSS_TYPE_MASK,
        first >> RX_RSS_HASH_SHIFT,
        _checksum(word, RX_IP_CHECKED_SHIFT, RX_IP_ERROR_SHIFT),
        _checksum(word, RX_L4_CHECKED_SHIFT, RX_L4_ERROR_SHIFT),
    )
