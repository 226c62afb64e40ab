"""The contract between a driver and the data path: rings, doorbells, and the format of a descriptor.

The data path (`rings`, `loop`, `batch`) knows no bit of a descriptor. It calls the functions of a `Format`, which a
driver provides, and the compiler puts them inside the loop: nothing is called at run time. FreeBSD's iflib cuts in
the same place (`struct if_txrx` in sys/net/iflib.h).

What all formats have in common:

* A descriptor is 16 bytes: two 64-bit words, little-endian. A ring is an array of 64 to 4096 of them, a power of 2.
* A descriptor of a receive ring has one buffer; so has one of a transmit ring. The device takes them in order.
* A descriptor belongs to the device or to us. One word each passes it on: the doorbell gives it to the device, and a
  word that the device writes last (the *report*) gives it back.

A device whose rings are of another kind needs a data path of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ixy_vfio.core import memory

CHAIN_LIMIT = 5  # buffers of one packet: 10 KiB, for jumbo frames of 9 KB

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


Word = Any  # in compiled code: an unsigned 64-bit integer
Words = Any  # in compiled code: a checked array of unsigned 64-bit integers, of a whole ring or a part of it


class Format(NamedTuple):
    """How a driver's descriptors are written and read. Its functions are compiled into the loop (`compiled.linked`).

    `ring` is an array of words, and `at` the index of the first of a descriptor's two. Functions have no state, and
    raise nothing but IndexError, for an `at` outside `ring`. A `report` is untrusted: any 64 bits. What the data path
    does with what a function reads of it is safe for every value; a function itself only masks and shifts.
    """

    # --- Receive -------------------------------------------------------------------------------------------------

    give: Callable[[Words, Word, Word], None]
    """give(ring, at, address): write a descriptor for the buffer at the IOVA `address`. Both words are written, and
    `done` is false of its report until the device has written it. Plain stores: the doorbell comes after them."""

    report: Callable[[Words, Word], Word]
    """report(ring, at): the word that the device writes last. Loaded once, by one load with acquire order, so that
    all that the device wrote before can be read after it. The functions below are of this word."""

    done: Callable[[Word], Any]
    """done(report): whether the device has written this descriptor back, and its buffer is ours again."""

    whole: Callable[[Word], Any]
    """whole(report): `done`, `last`, and not `wrong`, in one comparison: so are nearly all descriptors."""

    last: Callable[[Word], Any]
    """last(report): whether the packet ends in this buffer. Only of a report that is `done`."""

    wrong: Callable[[Word], Any]
    """wrong(report): whether the device says that the packet is damaged. Only of a report that is `last`."""

    length: Callable[[Word], Word]
    """length(report): how many bytes the device says it wrote to this buffer: at most 16 bits, perhaps more than the
    buffer has. Only of a report that is `done`."""

    block_bytes: Callable[[Words], Word]
    """block_bytes(ring): the sum of `length` over a block (`rings.BLOCK` descriptors, `ring` has no more), by vector
    instructions. All of them are `done`."""

    metadata: Callable[[Words, Word, Word], Meta]
    """metadata(ring, at, report): what the device says of a packet, in the descriptor of its last buffer. A field that
    a kernel does not use is not compiled."""

    bell_given: Callable[[Word, Word, Word], None]
    """bell_given(doorbell, given, size): tell the device that `given` descriptors have been given to a ring of `size`
    since it was made (a multiple of a block, at least one). One store with release order, at the address `doorbell`."""

    # --- Send ----------------------------------------------------------------------------------------------------

    data: Callable[[Words, Word, Word, Word], None]
    """data(ring, at, address, length): write a descriptor for a packet that lies whole in the buffer at the IOVA
    `address`, and ask for a report of it. `length` is `shortest` to `buffer`. Plain stores."""

    piece: Callable[[Words, Word, Word, Word, Word, Any], None]
    """piece(ring, at, address, size, packet, last): the same for `size` bytes of a packet in several buffers. `packet`
    is the length of all of it in its first descriptor, and 0 in the others. A report is asked for of the `last` one."""

    sent: Callable[[Words, Word], Any]
    """sent(ring, at): whether the device has reported the descriptor, which asked for it, and so has read all buffers
    before it and its own. One load with acquire order. False of a descriptor that was just written."""

    room: Callable[[Word, Word], Word]
    """room(size, used): how many more descriptors of a ring of `size` can be filled when `used` are."""

    bell_filled: Callable[[Word, Word], None]
    """bell_filled(doorbell, tail): tell the device that all descriptors before index `tail` are filled. One store with
    release order, at the address `doorbell`."""

    # --- Limits (unsigned 64-bit numbers) ------------------------------------------------------------------------

    shortest: Any
    """Bytes of the shortest packet that may be sent. What is said to be shorter is a damaged packet."""

    buffer: Any
    """Bytes that the device may write to one buffer, as it was told when its queue was set up: `pool.DATA`."""


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
    """All that the data path of one queue needs: two rings, two doorbells, and the format of the descriptors.

    The mappings belong to the port, are shared by its queues and live until `close`. A doorbell is a register at the
    byte offset `rx_tail` of `rx_page`, or `tx_tail` of `tx_page`; `format` says what is stored there. After
    `initialise` both rings are empty: no descriptor belongs to the device.
    """

    index: int
    rx: Ring
    tx: Ring
    rx_page: memory.Mapping
    rx_tail: int
    tx_page: memory.Mapping
    tx_tail: int
    buffer_size: int
    format: Format
