"""What a driver and the data path pass each other: rings, doorbells, and what a descriptor says of its packet."""

from dataclasses import dataclass
from typing import NamedTuple

from ixy_vfio.core import memory

CHAIN_LIMIT = 5  # buffers of one packet: 10 KiB, for jumbo frames of 9 KB


@dataclass(frozen=True, slots=True)
class Ring:
    """A descriptor ring, zeroed: where it lies in this process, where the device sees it, and its length.

    Zeroed by the helper when the memory was made, and by `initialise` each time.
    """

    address: int
    iova: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Queue:
    """All that the data path of one queue needs: two rings and two doorbells.

    The mappings belong to the port, are shared by its queues and live until `close`. A doorbell is one 32-bit
    store at the byte offset `rx_tail` (RDT) of `rx_page`, or `tx_tail` (TDT) of `tx_page`. After `initialise`
    head and tail of both rings are 0: the receive ring is empty, no descriptor belongs to the device.
    """

    index: int
    rx: Ring
    tx: Ring
    rx_page: memory.Mapping
    rx_tail: int
    tx_page: memory.Mapping
    tx_tail: int
    buffer_size: int


NOT_CHECKED, GOOD, BAD = 0, 1, 2  # of a checksum
TAGGED = 1 << 3  # in Meta.flags: the packet has a VLAN tag


class Meta(NamedTuple):
    """What the device says of a received packet; a kernel with a third parameter is given it.

    Unsigned 64-bit numbers in compiled code. They come from the device as they are: do not index with them unchecked.
    """

    flags: int  # TAGGED; beside it, for ixgbe, the 20 bits of extended status (7.1.6.2)
    packet_type: int  # ixgbe: 13 bits, IPv4 1, IPv6 4, TCP 0x10, UDP 0x20, ... (7.1.6.2)
    vlan: int  # the tag of a TAGGED packet, where the device took it out (this driver leaves it in)
    rss_type: int  # which fields the hash is of; 0: there is no hash
    rss_hash: int  # with several queues
    ip_checksum: int  # of the IPv4 header: NOT_CHECKED, GOOD, BAD
    l4_checksum: int  # of TCP or UDP
