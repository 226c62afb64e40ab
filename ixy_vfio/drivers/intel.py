"""Advanced descriptors, which Intel's families share: one format, with the few bits that differ.

A descriptor is 16 bytes, two little-endian 64-bit words. The driver uses the advanced receive descriptor with one
buffer (no header split), and the advanced transmit data descriptor. Sections are those of the 82599's datasheet,
revision 3.4. All values are unsigned 64-bit constants, ready for compiled code.
"""

from typing import Any, NamedTuple

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.unsafe import field_sum, load_acquire, store_release, words32_at
from ixy_vfio.datapath.format import Format, Meta

U = np.uint64

# 7.1.6.1 Advanced receive descriptor, read format: word 0 packet buffer address, word 1 header buffer address. Bit 0 of
# word 1 is where DD will be written, so word 1 is 0.

# 7.1.6.2 Advanced receive descriptor, write-back format, word 1: extended status 19:0, extended error 31:20,
# PKT_LEN 47:32, VLAN tag 63:48.
RX_DD = U(1 << 0)  # descriptor done
RX_EOP = U(1 << 1)  # end of packet: the last buffer of this packet
RX_STATUS_MASK = U(0xFFFFF)  # with VP, the packet had an 802.1Q tag, in bit 3: where Meta's TAGGED is
RX_L4_CHECKED_SHIFT = U(5)  # L4I: TCP or UDP checksum was checked
RX_IP_CHECKED_SHIFT = U(6)  # IPCS: IPv4 header checksum was checked
RX_VLAN_SHIFT = U(48)
RX_LENGTH_SHIFT = U(32)
RX_LENGTH_MASK = U(0xFFFF)  # bytes in this buffer, after the shift

# The same, word 0: RSS type 3:0, packet type 16:4, RSS hash 63:32 (or fragment checksum and IP identification).
RX_RSS_TYPE_MASK = U(0xF)
RX_PACKET_TYPE_SHIFT = U(4)
RX_PACKET_TYPE_MASK = U(0x1FFF)
RX_RSS_HASH_SHIFT = U(32)

# 7.2.3.2.4 Advanced transmit data descriptor, read format, word 1: DTALEN 15:0, DTYP 23:20, DCMD 31:24, STA 35:32,
# PAYLEN 63:46.
TX_DTYP_DATA = 3 << 20
TX_LAST = U(1 << 24 | 1 << 27)  # EOP, last descriptor of the packet, and RS, write DD when it is done
TX_DATA = U(TX_DTYP_DATA | 1 << 25 | 1 << 29)  # what every one has: DTYP, IFCS (append the CRC), DEXT
TX_PAYLEN_SHIFT = U(46)  # length of the whole packet; in its first descriptor

# 7.2.3.2.4 Advanced transmit data descriptor, write-back format, word 1.
TX_DD = U(1 << 32)  # descriptor done: the device has read this buffer and all before it


@inlined
def give(ring: Any, at: Any, address: Any) -> None:
    """7.1.6.1."""
    ring[at] = address
    ring[at + U(1)] = U(0)


@inlined
def report(ring: Any, at: Any) -> Any:
    """7.1.6.2: word 1, with DD."""
    return load_acquire(ring, at + U(1))


@inlined
def done(report: Any) -> Any:
    """DD."""
    return report & RX_DD != U(0)


@inlined
def last(report: Any) -> Any:
    """EOP."""
    return report & RX_EOP != U(0)


@inlined
def length(report: Any) -> Any:
    """PKT_LEN."""
    return report >> RX_LENGTH_SHIFT & RX_LENGTH_MASK


@inlined
def block_bytes(ring: Any) -> Any:
    """The sum of PKT_LEN."""
    return field_sum(ring, RX_LENGTH_MASK << RX_LENGTH_SHIFT, RX_LENGTH_SHIFT)


@inlined
def bell_given(doorbell: Any, given: Any, size: Any) -> None:
    """7.1.9: RDT is the last descriptor given, so that it never comes to be RDH with the whole ring given."""
    store_release(words32_at(doorbell, 1), 0, np.uint32((given - U(1)) & (size - U(1))))


@inlined
def data(ring: Any, at: Any, address: Any, length: Any) -> None:
    """7.2.3.2.4."""
    ring[at] = address
    ring[at + U(1)] = TX_DATA | TX_LAST | length | length << TX_PAYLEN_SHIFT


@inlined
def piece(ring: Any, at: Any, address: Any, size: Any, packet: Any, last: Any) -> None:
    """7.2.3.2.4."""
    ring[at] = address
    word = TX_DATA | size | packet << TX_PAYLEN_SHIFT
    if last:
        word |= TX_LAST
    ring[at + U(1)] = word


@inlined
def sent(ring: Any, at: Any) -> Any:
    """DD."""
    return load_acquire(ring, at + U(1)) & TX_DD != U(0)


@inlined
def room(size: Any, used: Any) -> Any:
    """7.2.3.4: one descriptor stays empty. A ring whose tail is its head is an empty ring."""
    return size - U(1) - used


@inlined
def bell_filled(doorbell: Any, tail: Any) -> None:
    """TDT is the first descriptor that is not filled."""
    store_release(words32_at(doorbell, 1), 0, np.uint32(tail))


@inlined
def _checksum(report: Any, checked: Any, wrong: Any) -> Any:
    """0 NOT_CHECKED, 1 GOOD or 2 BAD, without a branch; the error bit says nothing where nothing was checked."""
    return (report >> checked & U(1)) << (report >> wrong & U(1))


class Bits(NamedTuple):
    """What differs between the families. Bits of word 1 of a receive descriptor that was written back."""

    errors: int  # mask of what makes a packet a damaged one; valid with EOP only
    l4_error: int  # number of the bit that says that a TCP or UDP checksum is wrong
    ip_error: int  # number of the bit that says that the checksum of an IPv4 header is wrong
    shortest: int  # bytes of the shortest packet that may be sent
    buffer: int = 2048  # bytes of a receive buffer


def advanced(bits: Bits) -> Format:
    """The format of a family."""
    errors, l4_error, ip_error = U(bits.errors), U(bits.l4_error), U(bits.ip_error)

    @inlined
    def whole(report: Any) -> Any:
        return report & (RX_DD | RX_EOP | errors) == RX_DD | RX_EOP

    @inlined
    def wrong(report: Any) -> Any:
        return report & errors != U(0)

    @inlined
    def metadata(ring: Any, at: Any, report: Any) -> Any:
        first = ring[at]
        return Meta(
            report & RX_STATUS_MASK,
            first >> RX_PACKET_TYPE_SHIFT & RX_PACKET_TYPE_MASK,
            report >> RX_VLAN_SHIFT,
            first & RX_RSS_TYPE_MASK,
            first >> RX_RSS_HASH_SHIFT,
            _checksum(report, RX_IP_CHECKED_SHIFT, ip_error),
            _checksum(report, RX_L4_CHECKED_SHIFT, l4_error),
        )

    return Format(
        give=give,
        report=report,
        done=done,
        whole=whole,
        last=last,
        wrong=wrong,
        length=length,
        block_bytes=block_bytes,
        metadata=metadata,
        bell_given=bell_given,
        data=data,
        piece=piece,
        sent=sent,
        room=room,
        bell_filled=bell_filled,
        shortest=U(bits.shortest),
        buffer=U(bits.buffer),
    )
