"""The forwarding loop: receive, the application's kernel, send, for thousands of batches per return to Python.

`forwarding.loop_for` compiles the loop with two formats and a kernel inside. A kernel is a plain function

    kernel(packet, length) -> verdict           True: send it, False: drop it; or one of `verdict.py`
    kernel(packet, length, meta) -> verdict     with what the device says of the packet: `format.Meta`

`packet` is a checked uint8 array of the bytes in the packet's first buffer (all of them up to 2048), writable;
`length` is that of the whole packet. A kernel of two parameters pays nothing for the metadata. One of three pays for
the fields that it looks at: the rest is not compiled.

It is one pass: a packet goes from its receive descriptor through the kernel to a transmit descriptor, and nothing is
written down in between. `_run` takes plain packets, and does only what each of them needs. `run` counts down the
packets that may still come. At 0, `_turn` refills and reclaims the rings, then sets it again. `_odd` takes what is no
plain packet, and `_aside` one that goes another way: of a kernel that returns a Boolean, this is not compiled.
docs/datapath.md has what each step was worth, and what was tried and left out.
"""

# mypy: disable-error-code="type-arg"

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import (
    bytes_at,
    record_at,
    words32_at,
    words64_at,
)
from ixy_vfio.datapath.format import CHAIN_LIMIT, Format, Meta
from ixy_vfio.datapath.pool import CLOSED, DATA, HEADROOM, STRIDE, give_packet, pool_at
from ixy_vfio.datapath.program import RUN
from ixy_vfio.datapath.rings import (
    BLOCK,
    QUEUE,
    RX,
    RX_AT,
    TX,
    advance,
    completed,
    end_block,
    end_chain,
    fill_chain,
    reclaim,
    refill,
    room_of,
    segment,
    taken_of,
)
from ixy_vfio.datapath.verdict import DROP, RETURN, SEND, WRONG

U = np.uint64
MOST_RUNS = 4096  # in one step: a device that brings nothing but errors must not keep us there

LOOP = np.dtype(
    [
        *RUN,
        ("a", "<u8"),  # addresses of two queue pairs; what is received on one is sent on the other
        ("b", "<u8"),  # the same as a: what is received goes back
        ("both", "<u8"),  # 1: both directions, 0: only what a receives
        ("batch", "<u8"),  # packets per step
        ("widest", "<u8"),  # descriptors that the longest packet takes
    ]
)


class Formats(NamedTuple):
    """Of the two queue pairs of a LOOP."""

    a: Format
    b: Format


Work = Callable[[Any, Any, Meta], Any]  # a kernel, in compiled code


@inlined
def _run(source: Format, target: Format, kernel: Work, rx: Any, tx: Any, pool: Any, wanted: Any) -> Any:
    """Forward up to `wanted` plain packets: whole, in one buffer, without an error. Not past the end of a block.

    Returns how many were received, how many of those were sent, and what ended the run: the report of the next packet
    (0: none), and its verdict, if that is why (else 0). When `run` has come to 0, `_turn` must be next. When the kernel
    raises, only bytes of packets have changed.
    """
    most = min(rx.run, wanted) % U(2 * BLOCK)  # it is at most BLOCK; % tells LLVM that the indices are inside
    packets, base, capacity = pool.packets + U(HEADROOM), pool.iova + U(HEADROOM), pool.capacity
    free, spare = pool.free, words32_at(pool.stack, pool.capacity)
    rx_ring = words64_at(rx.ring + U(16) * rx.next, 4 * BLOCK)
    rx_slots = words32_at(rx.slots + U(4) * rx.next, 2 * BLOCK)
    tx_ring = words64_at(tx.ring + U(16) * tx.tail, 4 * BLOCK)
    tx_slots = words32_at(tx.slots + U(8) * tx.tail, 4 * BLOCK)
    at = to = odd = aside = U(0)  # the first two: the first words of two descriptors
    while at < U(2) * most:
        word = source.report(rx_ring, at)
        length = source.length(word)
        if not (source.whole(word) and length - source.shortest <= source.buffer - source.shortest):
            odd = word
            break
        index = U(rx_slots[at // U(2)])
        if index >= capacity:
            raise IndexError("buffer index outside the pool")
        verdict = U(kernel(bytes_at(packets + index * U(STRIDE), length), length, source.metadata(rx_ring, at, word)))
        if verdict == U(SEND):
            tx_slots[to] = np.uint32(index)
            tx_slots[to + U(1)] = np.uint32(length)
            target.data(tx_ring, to, base + index * U(STRIDE), length)
            to += U(2)
        elif verdict == U(DROP):
            spare[free + (at - to) // U(2)] = np.uint32(index)
        else:
            odd, aside = word, verdict
            break
        at += U(2)
    kept, refused = to // U(2), (at - to) // U(2)
    count = kept + refused
    if count != U(0):
        tx.filled += kept
        tx.tail += kept
        if refused != U(0):
            rx.refused += refused
            pool.free += refused
        rx.next += count
        rx.run -= count
    return count, kept, odd, aside


@inlined
def _next(rx: Any) -> None:
    """One descriptor was taken."""
    rx.next = (rx.next + U(1)) & (rx.size - U(1))
    rx.pause += U(1)


@inlined
def _odd(source: Format, target: Format, kernel: Work, rx: Any, tx: Any, pool: Any, word: Any) -> Any:
    """Take one buffer that is not a plain packet: a piece of a long one, an error. Returns 1 when a packet ended.

    When the kernel raises, only bytes of the packet have changed.
    """
    index = U(words32_at(rx.slots, rx.size)[rx.next])
    meta = source.metadata(words64_at(rx.ring, U(2) * rx.size), U(2) * rx.next, word)
    if not segment(source, rx, pool, index, word):
        _next(rx)
        rx.partial += U(1)
        return U(0)
    first, length = completed(source, rx, index, word)
    if first >= pool.capacity:
        raise IndexError("buffer index outside the pool")
    packet = bytes_at(pool.packets + first * U(STRIDE) + U(HEADROOM), min(length, U(DATA)))
    verdict = U(kernel(packet, length, meta))
    if verdict > U(RETURN):
        raise ValueError(WRONG)
    end_chain(rx)
    _next(rx)
    if verdict == U(RETURN):
        _send_back(source, rx, tx, pool, first, length)
        return U(1)
    if verdict == U(DROP):
        rx.refused += U(1)
        give_packet(pool, first, length)
        return U(1)
    count = fill_chain(target, tx, pool, first, length, room_of(target, tx))
    if count == U(0):
        tx.no_room += U(1)
        give_packet(pool, first, length)
        return U(1)
    advance(tx, count, (tx.tail + count - U(1)) & (tx.size - U(1)))
    tx.partial += count - U(1)
    return U(1)


@inlined
def _aside(source: Format, rx: Any, tx: Any, pool: Any, word: Any, verdict: Any) -> None:
    """Take the plain packet of this report, of which the kernel has said something else than SEND or DROP."""
    if verdict != U(RETURN):
        raise ValueError(WRONG)
    index = U(words32_at(rx.slots, rx.size)[rx.next])
    _next(rx)
    _send_back(source, rx, tx, pool, index, source.length(word))


@inlined
def _send_back(source: Format, rx: Any, tx: Any, pool: Any, first: Any, length: Any) -> None:
    """Send a packet by the port that it came from. `tx` is where the way leads, and counts what finds no room."""
    home = record_at(rx.home, TX)
    if home.feeder != U(0):
        _stop(record_at(home.feeder, RX))  # the run of the way that leads here was measured before
    _end_full_block(home)  # which a step that ended at MOST_RUNS leaves
    if room_of(source, home) < U(CHAIN_LIMIT):
        reclaim(source, home, pool)
    count = fill_chain(source, home, pool, first, length, room_of(source, home))
    if count == U(0):
        tx.no_room += U(1)
        give_packet(pool, first, length)
        return
    advance(home, count, (home.tail + count - U(1)) & (home.size - U(1)))
    home.partial += count - U(1)
    rx.returned += U(1)
    source.bell_filled(home.doorbell, home.tail)


@inlined
def _stop(rx: Any) -> None:
    """No packet may come before `_turn`."""
    rx.pause = taken_of(rx)
    rx.run = U(0)


@inlined
def _limit(target: Format, rx: Any, tx: Any) -> None:
    """Set `run`: to the end of a block of either ring, of the buffers given, or of room."""
    taken = taken_of(rx)
    rest = U(BLOCK) - max(rx.next % U(BLOCK), tx.tail % U(BLOCK))
    rx.run = min(rest, min(room_of(target, tx), rx.armed - taken))
    if rx.chain_count + rx.skipping != U(0):
        rx.run = U(0)
    rx.pause = taken + rx.run


@inlined
def _wrap(rx: Any, tx: Any) -> None:
    """If a run has come to the end of a ring, go to its begin. If it has filled a block to send, end that."""
    rx.next &= rx.size - U(1)
    _end_full_block(tx)


@inlined
def _end_full_block(tx: Any) -> None:
    """End the block that a run has filled, if it has."""
    if tx.filled - tx.full == U(BLOCK):
        last = tx.tail - U(1)
        end_block(tx, last, last)
        tx.tail &= tx.size - U(1)


@inlined
def _turn(source: Format, target: Format, rx: Any, tx: Any, pool: Any) -> Any:
    """`run` is 0: wrap, give receive buffers, free what was sent, and set `run` again.

    Returns the report of the next descriptor, 0 when it has no buffer.
    """
    _wrap(rx, tx)
    refill(source, rx, pool)
    reclaim(target, tx, pool)
    _limit(target, rx, tx)
    if taken_of(rx) == rx.armed:
        return U(0)
    return source.report(words64_at(rx.ring, U(2) * rx.size), U(2) * rx.next)


@inlined
def _rest(
    source: Format,
    target: Format,
    kernel: Work,
    rx: Any,
    tx: Any,
    pool: Any,
    count: Any,
    kept: Any,
    word: Any,
    aside: Any,
) -> Any:
    """All that a step does beside one run, which has received `count` packets and sent `kept` (see `_run`)."""
    tail = tx.tail - kept
    for _ in range(MOST_RUNS):
        if aside != U(0):
            _aside(source, rx, tx, pool, word, aside)
            count += U(1)
            aside = U(0)
            _stop(rx)
        if rx.run == U(0):
            word = _turn(source, target, rx, tx, pool)
            if rx.run != U(0) and count < rx.batch:
                taken, _, word, aside = _run(source, target, kernel, rx, tx, pool, rx.batch - count)
                count += taken
                if rx.run == U(0) or aside != U(0):
                    continue
        if count >= rx.batch or not source.done(word):
            break
        if room_of(target, tx) < tx.widest:
            reclaim(target, tx, pool)  # `_turn` has not, while a run is not over
            if room_of(target, tx) < tx.widest:
                break
        count += _odd(source, target, kernel, rx, tx, pool, word)
        _stop(rx)
    if tx.tail != tail:
        target.bell_filled(tx.doorbell, tx.tail)
    return count


@inlined
def _step(source: Format, target: Format, kernel: Work, rx: Any, tx: Any, pool: Any) -> Any:
    """One batch from the ring `rx` to the ring `tx`, which have these formats.

    No more is received than `tx` has room for. What has no room is left to the receiving device, which drops and
    counts it.
    """
    count, kept, word, aside = _run(source, target, kernel, rx, tx, pool, rx.batch)
    if count < rx.batch or rx.run == U(0):
        return _rest(source, target, kernel, rx, tx, pool, count, kept, word, aside)
    if kept != U(0):
        target.bell_filled(tx.doorbell, tx.tail)
    return count


def forward(formats: Formats, kernel: Work, state: Any) -> Any:
    """Run until the rounds, the patience or the limit is used up; returns the packets received."""
    loop = state[0]
    if loop.rounds == U(0):  # also an empty record, which is how the loop is compiled without being run
        return U(0)
    a, b = record_at(loop.a, QUEUE), record_at(loop.b, QUEUE)
    if a.pool == U(0) or b.pool == U(0):
        raise UsageError(CLOSED)
    pool = pool_at(a.pool)
    ways = U(1) if loop.both == U(0) else U(2)
    _limit(formats.b, a.rx, b.tx)
    _limit(formats.a, b.rx, a.tx)
    a.tx.feeder = loop.b + U(RX_AT) if loop.both != U(0) else U(0)
    b.tx.feeder = loop.a + U(RX_AT)
    a.tx.widest = b.tx.widest = min(max(loop.widest, U(1)), U(CHAIN_LIMIT))
    limit = loop.limit - min(loop.limit, loop.received) if loop.limit != U(0) else ~U(0)
    left = limit
    most = min(loop.batch, a.tx.size)
    polls, patience = loop.rounds * ways, loop.patience * ways
    idle = turn = U(0)
    while polls != U(0) and idle < patience:
        batch = min(most, left)
        if batch == U(0):
            break
        last = ways * batch > left  # both together could take more than may come: one of them, then the other
        each = U(1) if last else ways
        turns = U(1) if last else min(polls, left // batch) // ways
        polls -= turns * each
        if last and turn != U(0):
            a.rx.batch, b.rx.batch = U(0), batch
        else:
            a.rx.batch, b.rx.batch = batch, U(0) if last else batch
        turn = U(1) - turn
        for _ in range(turns):
            count = _step(formats.a, formats.b, kernel, a.rx, b.tx, pool)
            if ways == U(2):
                count += _step(formats.b, formats.a, kernel, b.rx, a.tx, pool)
            if count == U(0):
                idle += each
                if idle >= patience:
                    break
            else:
                left -= count
                idle = U(0)
    loop.received += limit - left
    return limit - left
