"""The rings of one queue pair, compiled: who owns which descriptor and which buffer, and when that changes.

All about a queue stands in one record, QUEUE. Compiled functions make arrays from the addresses in it
(`unsafe.words64_at`). These have no reference count to keep, and are checked at every index. In these functions `Any`
is an unsigned 64-bit integer, a record, or an array: Numba's types are not Python's.

The invariants of a ring, by name:

**Block.** 32 descriptors from a multiple of 32 on. A ring is whole blocks (64 to 4096 descriptors, a power of 2), so no
block wraps. Receive buffers are given, and sent buffers freed, a block at a time, by plain loops that LLVM vectorises.

**Counts.** Descriptors are counted from the start, and a count never goes down. Descriptor number n lies at place
n modulo the ring's size. What waits between two places, and how many packets there were, are differences of counts.

    receive     taken <= armed <= taken + size              armed is a multiple of 32
    transmit    freed <= full <= filled <= freed + room     freed and full are multiples of 32

* *armed*: given to the device, with a buffer each.
* *taken*: seen to be done, and the buffer has left its slot. taken = pause - run (see `run`).
* *filled*: given to the device, with a buffer to send each. *full*: those of them in blocks that are full.
* *freed*: reported as sent, and the buffers are back in the pool.

**One owner.** Each buffer index is in exactly one place. Nothing else that looks like an index means anything.

    pool            the first `free` of its stack
    receive slots   from taken to armed: the device may write to the buffer
    chain           `chain_first` and what it links to: a packet of which buffers are still to come
    application     a packet in a kernel's or a script's hands
    transmit slots  from freed to filled: the device may read the buffer

    pool -> receive slot (`refill`) -> chain, application -> transmit slot (`advance`) -> pool (`reclaim`)
    what is dropped goes to the pool at once (`give_packet`)

**One word.** One word each passes a descriptor on: the doorbell, stored after the descriptors (release), and the
report, loaded before all else that the device wrote (acquire). A report is loaded once for each descriptor that is
taken, and nothing but that value counts. Descriptors that we own are plain memory in between.

**No trust.** What the device writes never becomes an index or the end of a loop unchecked. What cannot be is a counted
drop. The bytes received are what the device says: one that changes a descriptor afterwards falsifies this number, and
nothing else.

Bytes are counted a block at a time, when its descriptors are given again or its buffers freed. `bytes_of` adds those of
the blocks in between. Every packet asks for a report, though one in a block is looked at: docs/datapath.md says why.
"""

# mypy: disable-error-code="type-arg"

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.unsafe import split_pairs, words32_at, words64_at
from ixy_vfio.datapath.format import CHAIN_LIMIT, Format
from ixy_vfio.datapath.pool import DATA, HEADROOM, STRIDE, give, give_packet, pool_at, segments_of

U = np.uint64
BLOCK = 32  # descriptors renewed, reported and freed together (DPDK's default for tx_rs_thresh and tx_free_thresh)

RX = np.dtype(
    [
        ("ring", "<u8"),  # address of the descriptors
        ("slots", "<u8"),  # address of uint32[size]: the buffer of each descriptor
        ("doorbell", "<u8"),  # address of its register
        ("size", "<u8"),  # descriptors
        ("next", "<u8"),  # place of the next one to be taken
        ("run", "<u8"),  # counts down what the forwarding loop may take before it refills and reclaims the rings
        ("pause", "<u8"),  # how many will have been taken when `run` is 0
        ("armed", "<u8"),  # count
        ("home", "<u8"),  # address of the TX of the same port
        ("batch", "<u8"),  # packets that the forwarding loop may take in one step
        ("partial", "<u8"),  # how many of those taken completed no good packet
        ("chain_first", "<u8"),  # a packet of which not all buffers have been received:
        ("chain_last", "<u8"),
        ("chain_length", "<u8"),
        ("chain_count", "<u8"),
        ("skipping", "<u8"),  # 1 while the rest of a dropped chain is being thrown away
        ("bytes", "<u8"),  # in all descriptors that were renewed, less those of packets dropped for errors: `bytes_of`
        ("errors", "<u8"),  # packets dropped: the device reported an error, or a length that cannot be
        ("oversize", "<u8"),  # packets dropped: more than CHAIN_LIMIT buffers
        ("refused", "<u8"),  # packets dropped: the application's kernel said so
        ("returned", "<u8"),  # packets that went back to this port: the application's kernel said so
        ("no_buffer", "<u8"),  # times that the pool had no block of buffers for the ring
    ]
)
TX = np.dtype(
    [
        ("ring", "<u8"),
        ("slots", "<u8"),  # address of uint32[size, 2]: the buffer of each descriptor, and how much of it is sent
        ("reports", "<u8"),  # address of uint32[size / BLOCK]: which descriptor reports that a block is done
        ("doorbell", "<u8"),  # address of its register
        ("size", "<u8"),
        ("tail", "<u8"),  # place of the next one to fill; the forwarding loop may leave it at the end of the ring
        ("filled", "<u8"),  # counts
        ("full", "<u8"),
        ("freed", "<u8"),
        ("partial", "<u8"),  # how many of those filled were not the first of their packet
        ("bytes", "<u8"),  # of the packets in the blocks that were freed: `bytes_of`
        ("feeder", "<u8"),  # address of the RX that the forwarding loop fills it from; 0: of none
        ("widest", "<u8"),  # descriptors that the longest packet takes; the forwarding loop keeps so many free
        ("no_room", "<u8"),  # packets dropped: the ring was full
    ]
)
QUEUE = np.dtype([("pool", "<u8"), ("rx", RX), ("tx", TX)])
RX_AT, TX_AT = 8, 8 + RX.itemsize  # where they lie in a QUEUE


@inlined
def taken_of(rx: Any) -> Any:
    """The count of receive descriptors taken."""
    return rx.pause - rx.run


@inlined
def refill(format: Format, rx: Any, pool: Any) -> None:
    """Give the device buffers for all descriptors that were taken, as far as whole blocks go."""
    end = taken_of(rx) + rx.size  # before it, descriptors have no buffer
    if end - rx.armed < U(BLOCK):
        return
    base = pool.iova + U(HEADROOM)
    capacity = pool.capacity
    armed = rx.armed
    free = pool.free
    while end - armed >= U(BLOCK):
        start = armed & (rx.size - U(1))
        if free < U(BLOCK) or free > capacity or start + U(BLOCK) > rx.size:
            rx.no_buffer += U(1)
            break
        free -= U(BLOCK)
        taken = words32_at(pool.stack + U(4) * free, BLOCK)
        slots = words32_at(rx.slots + U(4) * start, BLOCK)
        ring = words64_at(rx.ring + U(16) * start, 2 * BLOCK)
        outside: Any = False
        if armed >= rx.size:  # not in the first round: the device has written these
            rx.bytes += format.block_bytes(ring)
        for i in range(U(BLOCK)):
            index = U(taken[i])
            outside |= index >= capacity
            slots[i] = np.uint32(index)
            format.give(ring, U(2) * i, base + index * U(STRIDE))
        if outside:
            raise IndexError("buffer index outside the pool")
        armed += U(BLOCK)
    if armed != rx.armed:
        rx.armed = armed
        pool.free = free
        format.bell_given(rx.doorbell, armed, rx.size)


@inlined
def end_chain(rx: Any) -> None:
    """The packet that was being put together belongs to the caller now."""
    rx.chain_count = U(0)
    rx.chain_length = U(0)


@inlined
def drop_chain(rx: Any, pool: Any) -> None:
    """Free what there is of a packet that is not complete."""
    rx.bytes -= rx.chain_length
    if rx.chain_count != U(0):
        give_packet(pool, rx.chain_first, rx.chain_length)
    end_chain(rx)


@inlined
def segment(format: Format, rx: Any, pool: Any, index: Any, word: Any) -> Any:
    """Take the buffer of one report that is not a plain whole packet. True when it completes one: see `completed`."""
    last = format.last(word)
    length = format.length(word)
    if rx.skipping != U(0):
        rx.bytes -= length
        give(pool, index)
        rx.skipping = U(0 if last else 1)
        return False
    wrong = length == U(0) or length > format.buffer or (not last and length != format.buffer)
    if last:
        wrong |= format.wrong(word) or rx.chain_length + length < format.shortest
    too_long = not last and rx.chain_count + U(1) >= U(CHAIN_LIMIT)
    if wrong or too_long:
        rx.errors += U(wrong)
        rx.oversize += U(not wrong)
        rx.bytes -= length
        drop_chain(rx, pool)
        give(pool, index)
        rx.skipping = U(0 if last else 1)
        return False
    if rx.chain_count != U(0):
        words32_at(pool.links, pool.capacity)[rx.chain_last] = np.uint32(index)
    if last:
        return True
    if rx.chain_count == U(0):
        rx.chain_first = U(index)
    rx.chain_last = U(index)
    rx.chain_count += U(1)
    rx.chain_length += length
    return False


@inlined
def completed(format: Format, rx: Any, index: Any, word: Any) -> Any:
    """First buffer, and length, of the packet that this buffer completes. Call `end_chain` when it is yours."""
    first = U(index) if rx.chain_count == U(0) else rx.chain_first
    return first, rx.chain_length + format.length(word)


@inlined
def reclaim(format: Format, tx: Any, pool: Any) -> None:
    """Free the buffers of every block that the device has reported as sent.

    Up to BLOCK - 1 buffers of sent packets stay in the ring until more is sent.
    """
    while tx.full - tx.freed >= U(BLOCK):
        start = tx.freed & (tx.size - U(1))
        report = U(words32_at(tx.reports, tx.size // U(BLOCK))[start // U(BLOCK)])
        if not format.sent(words64_at(tx.ring, U(2) * tx.size), U(2) * report):
            break
        if pool.free + U(BLOCK) > pool.capacity or start + U(BLOCK) > tx.size:
            raise IndexError("a buffer was freed twice")
        slots = words64_at(tx.slots + U(8) * start, BLOCK)
        tx.bytes += split_pairs(words32_at(pool.stack + U(4) * pool.free, BLOCK), slots)
        pool.free += U(BLOCK)
        tx.freed += U(BLOCK)


@inlined
def room_of(format: Format, tx: Any) -> Any:
    """How many descriptors can be filled."""
    return format.room(tx.size, tx.filled - tx.freed)


@inlined
def fill_chain(format: Format, tx: Any, pool: Any, first: Any, length: Any, room: Any) -> Any:
    """Fill the descriptors of one packet, however long. Returns how many; 0 when there is no room."""
    if length < format.shortest or length > U(CHAIN_LIMIT * DATA):
        raise ValueError("packet length: 17 to 10240 bytes can be sent")
    count = segments_of(length)
    if count > room:
        return U(0)
    mask = tx.size - U(1)
    slots = words32_at(tx.slots, U(2) * tx.size)
    ring = words64_at(tx.ring, U(2) * tx.size)
    links = words32_at(pool.links, pool.capacity)
    index = U(first)
    left = U(length)
    for i in range(count):
        if index >= pool.capacity:
            raise IndexError("buffer index outside the pool")
        position = (tx.tail + i) & mask
        size = min(left, U(DATA))
        left -= size
        slots[U(2) * position] = np.uint32(index)
        slots[U(2) * position + U(1)] = np.uint32(size)
        address = pool.iova + U(HEADROOM) + index * U(STRIDE)
        format.piece(ring, U(2) * position, address, size, U(length) if i == U(0) else U(0), left == U(0))
        index = U(links[index])
    return count


@inlined
def end_block(tx: Any, last: Any, report: Any) -> None:
    """The block that descriptor `last` is in is full. All of it is sent when the descriptor at `report` is."""
    words32_at(tx.reports, tx.size // U(BLOCK))[last // U(BLOCK)] = np.uint32(report)
    tx.full += U(BLOCK)


@inlined
def advance(tx: Any, count: Any, report: Any) -> None:
    """`count` descriptors were filled. If they complete a block, the one at `report` tells when it was sent."""
    tail = tx.tail
    end = tail + count
    if end // U(BLOCK) != tail // U(BLOCK):
        end_block(tx, tail, report)
    tx.tail = end & (tx.size - U(1))
    tx.filled += count


def fill_receive_ring(format: Format, queue: Any) -> None:
    """Give the device buffers from the pool, as far as whole blocks go. `queue` is an array of one QUEUE."""
    refill(format, queue[0].rx, pool_at(queue[0].pool))


@inlined
def bytes_of(format: Format, queue: Any) -> Any:
    """Bytes of the good packets given to the application, and of those given to the device to send."""
    rx, tx = queue[0].rx, queue[0].tx
    received, sent = rx.bytes - rx.chain_length, tx.bytes
    words = words64_at(rx.ring, U(2) * rx.size)
    for i in range(max(rx.armed, rx.size) - rx.size, taken_of(rx)):
        received += format.length(format.report(words, U(2) * (i & (rx.size - U(1)))))
    slots = words32_at(tx.slots, U(2) * tx.size)
    for i in range(tx.freed, tx.filled):
        sent += slots[U(2) * (i & (tx.size - U(1))) + U(1)]
    return received, sent


def count(format: Format, queue: Any, counters: Any) -> None:
    """Write what was counted, in the order of `queue.PortCounters`. `queue` is an array of one QUEUE."""
    rx, tx = queue[0].rx, queue[0].tx
    counters[0] = taken_of(rx) - rx.partial
    counters[1], counters[7] = bytes_of(format, queue)
    counters[2] = rx.errors
    counters[3] = rx.oversize
    counters[4] = rx.refused
    counters[5] = rx.no_buffer
    counters[6] = tx.filled - tx.partial
    counters[8] = tx.no_room
    counters[9] = rx.returned
