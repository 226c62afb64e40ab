"""Receive and transmit: the compiled data path of one queue pair (datasheet 7.1.6-7.1.9, 7.2.3).

Everything about a queue stands in one record. Compiled functions make arrays from the addresses in it
(`unsafe.words64_at`), which have no reference count to keep and are checked at every index.

Rings are handled in blocks of 32 descriptors: receive buffers are renewed, and sent buffers freed, a block at a
time, by plain loops that LLVM vectorises; a ring has whole blocks (64..4096, a power of two), so no block wraps.

Descriptors are counted from the start on, and never uncounted: what waits between two places of a ring, and how many
packets there were, are differences of such counts. So a run of the forwarding loop has few counters to change. Bytes
are counted a block at a time, by vector instructions, when its descriptors are renewed or its buffers freed; who wants
to know them adds those of the other blocks (`bytes_of`).

Every packet that is sent asks for a report (RS), though one in a block is looked at: a cache line that the device has
written is had back sooner than one that it has only read. With the model on another core it takes nearly half off the
time, with both on one core nothing (measured; not on a NIC, where `init` has a line of reports written at a time,
TXDCTL.WTHRESH; ixy and Linux ask for each, too).

In these functions `Any` is an unsigned 64-bit integer, a record, or an array: Numba's types are not Python's.

Ordering. A descriptor belongs to the device or to us. What passes it on is one word each: the tail register
(we store it with release, after the descriptors) and the write-back word (the device stores it last; we load it
with acquire, once, and use nothing but that value). Descriptors we own are plain memory in between.

Nothing that the device writes is trusted: what cannot be is a counted drop; no buffer index comes from the device. The
bytes received are what it says: one that changes a descriptor afterwards falsifies their number, and nothing else.
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
        ("doorbell", "<u8"),  # address of RDT
        ("size", "<u8"),  # descriptors
        ("next", "<u8"),  # the next one the device will write back
        ("run", "<u8"),  # for the forwarding loop alone: packets that may come before it looks after the rings
        ("pause", "<u8"),  # how many descriptors have been taken when `run` is 0; so far pause - run
        ("armed", "<u8"),  # how many have been given a buffer, a multiple of BLOCK
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
        ("no_buffer", "<u8"),  # times that the pool had no block of buffers for the ring
    ]
)
TX = np.dtype(
    [
        ("ring", "<u8"),
        ("slots", "<u8"),  # address of uint32[size, 2]: the buffer of each descriptor, and how much of it is sent
        ("reports", "<u8"),  # address of uint32[size / BLOCK]: which descriptor reports that a block is done
        ("doorbell", "<u8"),  # address of TDT
        ("size", "<u8"),
        ("tail", "<u8"),  # the next one to fill; within the forwarding loop it can be at the end, and is wrapped later
        ("filled", "<u8"),  # how many have been filled
        ("full", "<u8"),  # how many of those are in full blocks
        ("freed", "<u8"),  # how many of those were done, and their buffers freed; a multiple of BLOCK
        ("partial", "<u8"),  # how many of those filled were not the first of their packet
        ("bytes", "<u8"),  # of the packets in the blocks that were freed: `bytes_of`
        ("no_room", "<u8"),  # packets dropped: the ring was full
    ]
)
QUEUE = np.dtype([("pool", "<u8"), ("rx", RX), ("tx", TX)])


@inlined
def taken_of(rx: Any) -> Any:
    """How many receive descriptors have been taken."""
    return rx.pause - rx.run


@inlined
def refill(format: Format, rx: Any, pool: Any) -> None:
    """Give the device a block of buffers at a time for the descriptors that it has written back."""
    end = taken_of(rx) + rx.size  # as far as descriptors have no buffer
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
        highest = np.uint32(0)
        if armed >= rx.size:  # a device has written these
            rx.bytes += format.block_bytes(ring)
        for i in range(U(BLOCK)):
            highest = max(highest, taken[i])
            slots[i] = taken[i]
            format.give(ring, U(2) * i, base + U(taken[i]) * U(STRIDE))
        if U(highest) >= capacity:
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
    """Take one received buffer that is not a plain whole packet. True when it completes one: see `completed`."""
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
    """First buffer, and length, of the packet that this buffer completes. Who takes it calls `end_chain`."""
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
    """The block that descriptor `last` is in is full; when the EOP at `report` is done, all of it is."""
    words32_at(tx.reports, tx.size // U(BLOCK))[last // U(BLOCK)] = np.uint32(report)
    tx.full += U(BLOCK)


@inlined
def advance(tx: Any, count: Any, report: Any) -> None:
    """`count` descriptors were filled. Where they complete a block, the EOP at `report` tells when it was sent."""
    tail = tx.tail
    end = tail + count
    if end // U(BLOCK) != tail // U(BLOCK):
        end_block(tx, tail, report)
    tx.tail = end & (tx.size - U(1))
    tx.filled += count


def fill_receive_ring(format: Format, queue: Any) -> None:
    """Give the device buffers from the pool, as far as whole blocks go. `queue` is an array of one QUEUE."""
    refill(format, queue[0].rx, pool_at(queue[0].pool))


def bytes_of(format: Format, queue: Any) -> Any:
    """Bytes of the good packets given to the application, and of those given to the device."""
    rx, tx = queue[0].rx, queue[0].tx
    received, sent = rx.bytes - rx.chain_length, tx.bytes
    words = words64_at(rx.ring, U(2) * rx.size)
    for i in range(max(rx.armed, rx.size) - rx.size, taken_of(rx)):
        received += format.length(format.report(words, U(2) * (i & (rx.size - U(1)))))
    slots = words32_at(tx.slots, U(2) * tx.size)
    for i in range(tx.freed, tx.filled):
        sent += slots[U(2) * (i & (tx.size - U(1))) + U(1)]
    return received, sent
