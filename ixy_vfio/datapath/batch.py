"""Receive and send a batch at a time: for programs that look at packets between two calls.

A batch is a record, and two arrays of uint32: the index of each packet's first buffer, and its length. The forwarding
loop (`loop`) needs no batches.
"""

# mypy: disable-error-code="type-arg"

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ixy_vfio.core.bound import Entry, bindable
from ixy_vfio.core.compiled import entry_point, inlined, linked
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import bytes_at, record_at, words32_at, words64_at
from ixy_vfio.datapath.format import Format
from ixy_vfio.datapath.pool import CLOSED, DATA, HEADROOM, STRIDE, give_packet, pool_at
from ixy_vfio.datapath.rings import (
    BLOCK,
    QUEUE,
    advance,
    completed,
    end_chain,
    fill_chain,
    reclaim,
    refill,
    room_of,
    segment,
    taken_of,
)

U = np.uint64

BATCH = np.dtype(
    [
        ("pool", "<u8"),  # address of the pool that its packets are from
        ("words", "<u8"),  # address of uint32[2, room]: indices, then lengths
        ("room", "<u8"),
        ("count", "<u8"),  # packets
    ]
)
PAIR = np.dtype([("queue", "<u8"), ("batch", "<u8")])  # addresses of what a bound function works on


@inlined
def poll(format: Format, rx: Any, pool: Any, indices: Any, lengths: Any, wanted: Any) -> Any:
    """Receive up to `wanted` packets: index of the first buffer, and length, of each. Returns how many.

    `indices` and `lengths` are addresses of uint32[wanted].
    """
    position = rx.next
    armed = rx.armed - taken_of(rx)  # descriptors with a buffer: all that the device can have written back
    left = armed
    count = U(0)
    plain = rx.chain_count + rx.skipping == U(0)
    while count < wanted and left != U(0):
        block = min(min(wanted - count, U(BLOCK)), min(left, rx.size - position))
        ring = words64_at(rx.ring + U(16) * position, 2 * BLOCK)
        slots = words32_at(rx.slots + U(4) * position, BLOCK)
        index_out = words32_at(indices + U(4) * count, BLOCK)
        length_out = words32_at(lengths + U(4) * count, BLOCK)
        word = U(0)
        done = U(0)
        for i in range(min(block, U(BLOCK))):
            word = format.report(ring, U(2) * i)
            length = format.length(word)
            fits = length - format.shortest <= format.buffer - format.shortest
            if not (format.whole(word) and plain and fits):
                break
            index_out[i] = slots[i]
            length_out[i] = np.uint32(length)
            done += U(1)
        count += done
        if done < block and format.done(word):  # not plain: the report that was loaded above decides
            index = words32_at(rx.slots, rx.size)[position + done]
            if segment(format, rx, pool, index, word):
                first, length = completed(format, rx, index, word)
                words32_at(indices, wanted)[count] = np.uint32(first)
                words32_at(lengths, wanted)[count] = np.uint32(length)
                count += U(1)
                end_chain(rx)
            plain = rx.chain_count + rx.skipping == U(0)
            done += U(1)
            block = done
        position = (position + done) & (rx.size - U(1))
        left -= done
        if done < block:
            break
    if left != armed:
        rx.next = position
        rx.pause += armed - left
        rx.partial += armed - left - count
    refill(format, rx, pool)
    return count


@inlined
def _fill(format: Format, tx: Any, pool: Any, indices: Any, lengths: Any, count: Any) -> Any:
    """Fill `count` (up to BLOCK) descriptors, with no wrap, with one packet each.

    False when one of them does not fit one buffer: then nothing has happened.
    """
    tail = tx.tail
    index_in = words32_at(indices, BLOCK)
    length_in = words32_at(lengths, BLOCK)
    slots = words32_at(tx.slots + U(8) * tail, 2 * BLOCK)
    ring = words64_at(tx.ring + U(16) * tail, 2 * BLOCK)
    base = pool.iova + U(HEADROOM)
    capacity = pool.capacity
    outside: Any = False
    odd: Any = False
    for i in range(min(count, U(BLOCK))):
        index = U(index_in[i])
        length = U(length_in[i])
        outside |= index >= capacity
        odd |= length - format.shortest > format.buffer - format.shortest
        slots[U(2) * i] = np.uint32(index)
        slots[U(2) * i + U(1)] = np.uint32(length)
        format.data(ring, U(2) * i, base + index * U(STRIDE), length)
    if outside:
        raise IndexError("buffer index outside the pool")
    return not odd


@inlined
def send(format: Format, tx: Any, pool: Any, indices: Any, lengths: Any, wanted: Any) -> Any:
    """Send the first of `wanted` packets, as many as there is room for, and return how many; the rest stays yours.

    `indices` and `lengths` are addresses of uint32[wanted]. Call `reclaim` before.
    """
    done = U(0)
    while done < wanted:
        room = room_of(format, tx)
        count = min(min(wanted - done, U(BLOCK)), min(room, tx.size - tx.tail))
        if count == U(0):
            break
        if _fill(format, tx, pool, indices + U(4) * done, lengths + U(4) * done, count):
            advance(tx, count, ((tx.tail + count) // U(BLOCK)) * U(BLOCK) - U(1))
            done += count
        else:
            first, length = words32_at(indices, wanted)[done], U(words32_at(lengths, wanted)[done])
            count = fill_chain(format, tx, pool, first, length, room)
            if count == U(0):
                break
            advance(tx, count, (tx.tail + count - U(1)) & (tx.size - U(1)))
            tx.partial += count - U(1)
            done += U(1)
    if done != U(0):
        format.bell_filled(tx.doorbell, tx.tail)
    return done


@inlined
def _give_back(pool: Any, words: Any, room: Any, begin: Any, end: Any) -> None:
    indices, lengths = words32_at(words, room), words32_at(words + U(4) * room, room)
    for i in range(begin, end):
        give_packet(pool, indices[i], lengths[i])


@inlined
def _receive(format: Format, queue: Any, batch: Any) -> Any:
    if batch.pool != queue.pool:
        if queue.pool == U(0):
            raise UsageError(CLOSED)
        raise UsageError("this batch is of another session: open both ports with one open_ports")
    if batch.count != U(0):
        raise UsageError("this batch has packets: send or free them")
    batch.count = poll(format, queue.rx, pool_at(queue.pool), batch.words, batch.words + U(4) * batch.room, batch.room)
    return batch.count


@inlined
def _send(format: Format, queue: Any, batch: Any) -> Any:
    count = batch.count
    if count > batch.room:
        raise IndexError("batch outside its arrays")
    if batch.pool != queue.pool:
        if queue.pool == U(0):
            raise UsageError(CLOSED)
        raise UsageError("these packets are of another session: open both ports with one open_ports")
    pool, tx = pool_at(queue.pool), queue.tx
    reclaim(format, tx, pool)
    batch.count = U(0)
    sent = send(format, tx, pool, batch.words, batch.words + U(4) * batch.room, count)
    if sent != count:
        _give_back(pool, batch.words, batch.room, sent, count)
        tx.no_room += count - sent
    return sent


def _work(kernel: Callable[[Any, Any], Any], address: Any) -> Any:
    """Run the kernel over a batch. What it refuses is moved to the end, and freed when all packets were shown.

    So a kernel that raises leaves the batch whole, perhaps in another order.
    """
    batch = record_at(address, BATCH)
    words, room, count = batch.words, batch.room, batch.count
    if count > room:
        raise IndexError("batch outside its arrays")
    pool = pool_at(batch.pool)
    if pool.capacity == U(0):
        raise UsageError(CLOSED)
    indices, lengths = words32_at(words, room), words32_at(words + U(4) * room, room)
    kept = U(0)
    for i in range(count):
        index, length = indices[i], lengths[i]
        if U(index) >= pool.capacity:
            raise IndexError("buffer index outside the pool")
        packet = bytes_at(pool.packets + U(index) * U(STRIDE) + U(HEADROOM), min(U(length), U(DATA)))
        if kernel(packet, U(length)):
            indices[i], lengths[i] = indices[kept], lengths[kept]
            indices[kept], lengths[kept] = index, length
            kept += U(1)
    batch.count = kept
    _give_back(pool, words, room, kept, count)
    return kept


def _receive_call(format: Format, queue: Any, batch: Any) -> Any:
    return _receive(format, record_at(queue, QUEUE), record_at(batch, BATCH))


def _send_call(format: Format, queue: Any, batch: Any) -> Any:
    return _send(format, record_at(queue, QUEUE), record_at(batch, BATCH))


def _free_call(address: Any) -> Any:
    batch = record_at(address, BATCH)
    count = batch.count
    if count > batch.room:
        raise IndexError("batch outside its arrays")
    batch.count = U(0)
    pool = pool_at(batch.pool)
    if pool.capacity != U(0):  # of closed ports there is nothing left to give back to
        _give_back(pool, batch.words, batch.room, U(0), count)
    return count


def _receive_pair(format: Format, address: Any) -> Any:
    pair = record_at(address, PAIR)
    return _receive(format, record_at(pair.queue, QUEUE), record_at(pair.batch, BATCH))


def _send_pair(format: Format, address: Any) -> Any:
    pair = record_at(address, PAIR)
    return _send(format, record_at(pair.queue, QUEUE), record_at(pair.batch, BATCH))


class Calls(NamedTuple):
    """Functions of addresses, for Python."""

    receive: Callable[[int, int], int]  # queue pair, batch: how many packets came
    send: Callable[[int, int], int]  # queue pair, batch: how many were sent; the rest is freed


@functools.cache
def calls(format: Format) -> Calls:
    """The functions for one format, compiled or loaded when they are first needed."""
    return Calls(entry_point(linked(_receive_call, format), 2), entry_point(linked(_send_call, format), 2))


@functools.cache
def free() -> Callable[[int], int]:
    """What gives back the packets of the batch at an address."""
    return entry_point(_free_call, 1)


@functools.cache
def receiver(format: Format) -> Entry:
    """`receive`, of the address of a PAIR."""
    return bindable(linked(_receive_pair, format))


@functools.cache
def sender(format: Format) -> Entry:
    """`send`, of the address of a PAIR."""
    return bindable(linked(_send_pair, format))


def work_for(function: Callable[..., Any]) -> Entry:
    """A kernel (as in `loop`, without metadata), of the address of a batch.

    It returns how many packets are left; those that the kernel refused are freed.
    """
    if len(inspect.signature(function).parameters) != 2:
        raise UsageError(f"kernel {function.__name__}: a batch knows packet and length only")
    return bindable(linked(_work, inlined(function)), cache=False)
