"""What a hostile device does to descriptors, packets and tail registers: the compiled part of `hostile.py`.

It heeds neither bus master nor enable bits nor tails; what bounds it is what bounds a real one: the DMA windows, and
its own registers. One 64-bit word decides a move: its kind, where, how, and a value. The words come from a generator
with a seed, or from a tape: a recorded input, or one that a fuzzer made. Equal words do the same to equal memory.

An honest move delivers a packet as the book says. It fills what it reports as received with a tag, and all else of the
buffer with STALE: a byte that a packet never has, so that whoever sends more than was received can be seen to.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import load_acquire, record_at, store_release, words32_at, words64_at
from ixy_vfio.sim.dma import LEFT, WINDOW_WORDS, WRITABLE, reach, search, windows_of, word32
from ixy_vfio.sim.records import (
    BASE_HIGH,
    BASE_LOW,
    HEAD,
    LENGTH,
    SRRCTL,
    TAIL,
    receive_block,
    registers_of,
    transmit_block,
)
from ixy_vfio.sim.state import PORT, Int

U = np.uint64
STALE = 0xC5
_STALE_WORD = U(0xC5C5_C5C5_C5C5_C5C5)
QUEUES = 16  # only the first ones: no driver here uses more
MOST_DESCRIPTORS = 4096
DD, EOP, TX_DD, TX_RS = U(1), U(2), U(1 << 32), U(1 << 27)


class Move(IntEnum):
    """What can be done in one move. HONEST is what all kinds are mixed with, so that there is something to upset."""

    HONEST = 0
    LENGTH = 1  # a length that cannot be: 0, too short, longer than the buffer
    ENDLESS = 2  # DD without EOP, over and over
    EARLY = 3  # DD on descriptors that were not given; on packets that were not sent
    ORDER = 4  # write-backs out of order
    TWICE = 5  # a write-back again, with something else
    TORN = 6  # half of a write-back now, the other half at a later move
    FORMAT = 7  # write-backs over descriptors in read format, and the other way round
    STATUS = 8  # write-backs of random bits
    HEADS = 9  # head and tail registers jump, and the device's own place with them
    RINGS = 10  # random words anywhere in the rings
    PACKETS = 11  # random bytes anywhere in all memory that is mapped


STATE = np.dtype([
    ("random", np.uint64),  # of the generator
    ("tape", np.uint64),  # address of `tape_words` words; 0 words: the generator decides
    ("tape_words", np.uint64),
    ("tape_at", np.uint64),
    ("kinds", np.uint8, (64,)),  # each as often as it shall come
    ("kind_count", np.uint64),
    ("heads", np.uint32, (2 * QUEUES,)),  # where the device is: receive, then transmit
    ("base", np.uint64),  # IOVA of the ring that is being moved on
    ("torn", np.uint64),  # IOVA of the half of a write-back that is still to be written, or 0
    ("torn_half", np.uint64),
    ("tag", np.uint64),
    ("descriptors", np.uint64),  # written, well or ill
    ("honest", np.uint64),  # those of them that honest moves wrote
    ("done", np.uint64, (16,)),  # moves by kind
    ("digest", np.uint64),  # of all moves: runs that are alike have the same
])  # fmt: skip


@inlined
def _draw(state: Any) -> Int:
    """The next word: of the tape, or of the generator (splitmix64)."""
    if state.tape_words != U(0):
        word = words64_at(state.tape, state.tape_words)[state.tape_at]
        state.tape_at += U(1)
        return word
    state.random += U(0x9E37_79B9_7F4A_7C15)
    word = state.random
    word = (word ^ word >> U(30)) * U(0xBF58_476D_1CE4_E5B9)
    word = (word ^ word >> U(27)) * U(0x94D0_49BB_1331_11EB)
    return word ^ word >> U(31)


@inlined
def _ring(windows: Any, registers: Any, block: Int) -> Any:
    """(IOVA, address, descriptors) of a ring by its registers; no descriptors when it cannot be reached."""
    base = U(registers[block + BASE_LOW] & np.uint32(0xFFFF_FF80)) | U(registers[block + BASE_HIGH]) << U(32)
    count = U(registers[block + LENGTH] >> np.uint32(4))
    row = search(windows, base, WRITABLE)
    sound = U(8) <= count <= U(MOST_DESCRIPTORS) and count & (count - U(1)) == U(0)
    if not sound or row < 0 or U(reach(windows, row, base)) < U(16) * count:
        return base, U(0), U(0)
    start = np.uintp(row) * np.uintp(WINDOW_WORDS)
    return base, windows[start + np.uintp(2)] + (base - windows[start]), count


@inlined
def _store(state: Any, ring: Any, index: Int, word: Int) -> None:
    store_release(ring, U(2) * index + U(1), word)
    state.descriptors += U(1)


@inlined
def _fill(state: Any, windows: Any, iova: Int, size: Int, length: Int) -> bool:
    """Write `length` bytes of a packet into the buffer of `size` bytes at `iova`, and STALE behind them."""
    row = search(windows, iova, WRITABLE)
    if row < 0 or U(reach(windows, row, iova)) < size or iova & U(7):
        return False
    start = np.uintp(row) * np.uintp(WINDOW_WORDS)
    words = words64_at(windows[start + np.uintp(2)] + (iova - windows[start]), size // U(8))
    state.tag = (state.tag + U(1)) & U(0x7F)
    tag = state.tag * U(0x0101_0101_0101_0101)
    whole = min(length, size) // U(8)
    for i in range(whole):
        words[i] = tag
    for i in range(whole, size // U(8)):
        words[i] = _STALE_WORD
    if whole < size // U(8):
        mask = (U(1) << (U(8) * (length & U(7)))) - U(1)
        words[whole] = tag & mask | _STALE_WORD & ~mask
    return True


@inlined
def _report(state: Any, windows: Any, ring: Any, index: Int, size: Int, status: Int, length: Int) -> bool:
    """A write-back that says `length` bytes, which were written as far as they fit.

    Where no buffer is left to write to, it lies; but not over a report that was made before. False: nothing was said.
    """
    if not _fill(state, windows, ring[U(2) * index], size, length) and ring[U(2) * index + U(1)] & DD:
        return False
    ring[U(2) * index] = U(0)
    _store(state, ring, index, status | length << U(32))
    return True


@inlined
def _honest(state: Any, windows: Any, ring: Any, head: Int, tail: Int, size: Int, how: Int, value: Int) -> Int:
    """Receive one packet of up to ten thousand bytes; returns the head behind it.

    Sometimes it looks first for the oldest descriptor without a report: after the other moves nobody else would.
    """
    mask = U(ring.size // 2 - 1)
    if how & U(12) == U(12):
        head = (tail + U(1)) & mask
        while head != tail and ring[U(2) * head + U(1)] & DD:
            head = (head + U(1)) & mask
    left = U(17) + value % (U(10_000) if how & U(3) == U(0) else size - U(16))
    if left > ((tail - head) & mask) * size:
        return head
    at = head
    while left > size:
        _report(state, windows, ring, at, size, DD, size)
        left -= size
        at = (at + U(1)) & mask
    _report(state, windows, ring, at, size, DD | EOP, left)
    return (at + U(1)) & mask


@inlined
def _impossible(how: Int, value: Int, size: Int) -> Int:
    choice = how & U(7)
    if choice < U(2):
        return U(0) if choice == U(0) else U(1) + value % U(16)
    if choice < U(4):
        return size + U(1) + value % U(64)
    return U(0xFFFF) - value % U(64) if choice < U(6) else value & U(0xFFFF)


@inlined
def _tear(state: Any, ring: Any, index: Int, word: Int, low_first: bool) -> None:
    """Write one half of a write-back; the other one waits for a later move."""
    halves = words32_at(U(ring.ctypes.data) + U(16) * index + U(8), 2)
    first, second = (U(0), U(1)) if low_first else (U(1), U(0))
    store_release(halves, first, np.uint32(word >> (U(32) * first)))
    state.torn = state.base + U(16) * index + U(8) + U(4) * second
    state.torn_half = word >> (U(32) * second) & U(0xFFFF_FFFF)
    state.descriptors += U(1)


@inlined
def _mend(state: Any, windows: Any) -> None:
    """The half that was left."""
    row = search(windows, state.torn, WRITABLE)
    if row >= 0 and reach(windows, row, state.torn) >= 4:
        store_release(word32(windows, row, state.torn), 0, np.uint32(state.torn_half))
    state.torn = U(0)


@inlined
def _receive_move(
    state: Any, kind: Int, windows: Any, ring: Any, head: Int, tail: Int, size: Int, where: Int, how: Int, value: Int
) -> Int:
    """One move on a receive ring; returns the new head."""
    mask = U(ring.size // 2 - 1)
    ours = (tail - head) & mask
    if kind == Move.EARLY:
        _store(state, ring, (tail + where % (mask + U(1) - ours)) & mask, DD | EOP | (value & U(0xFFFF)) << U(32))
    elif kind == Move.TWICE:
        _store(state, ring, (head - U(1) - where % U(8)) & mask, DD | how & EOP | (value & U(0x1FFF)) << U(32))
    elif kind == Move.TORN:
        _tear(state, ring, (head + where % U(4)) & mask, DD | EOP | (value & U(0xFFFF)) << U(32), how & U(1) != U(0))
    elif kind == Move.FORMAT:
        at = (head + where % U(16)) & mask
        ring[U(2) * at + (how & U(1))] = ring[U(2) * ((at + U(1)) & mask)] | value << U(12) * (how >> U(1) & U(1))
        state.descriptors += U(1)
    elif kind == Move.STATUS:
        bits = value << U(32) | value * U(0x9E37_79B1) & U(0xFFFF_FFFF)
        _store(state, ring, (head + where % U(4)) & mask, bits | how & DD)
        head = (head + (how >> U(1) & U(1))) & mask
    elif ours != U(0) and kind == Move.LENGTH:
        if _report(state, windows, ring, head, size, DD | how >> U(3) & EOP, _impossible(how, value, size)):
            head = (head + U(1)) & mask
    elif ours != U(0) and kind == Move.ENDLESS:
        for _ in range(min(ours, U(1) + how % U(16))):
            _report(state, windows, ring, head, size, DD, size)
            head = (head + U(1)) & mask
    elif ours != U(0) and kind == Move.ORDER:
        _report(state, windows, ring, (head + where % ours) & mask, size, DD | EOP, U(17) + value % (size - U(16)))
    elif kind == Move.HONEST:
        head = _honest(state, windows, ring, head, tail, size, how, value)
    return head


@inlined
def _transmit_move(state: Any, kind: Int, ring: Any, head: Int, tail: Int, where: Int, how: Int, value: Int) -> Int:
    """One move on a transmit ring; returns the new head."""
    mask = U(ring.size // 2 - 1)
    at = (tail + where) & mask if how & U(2) else (head + where % U(64)) & mask
    if kind in (Move.EARLY, Move.ORDER):
        _store(state, ring, at, TX_DD)
    elif kind == Move.TWICE:
        _store(state, ring, (head - U(1) - where % U(64)) & mask, TX_DD if how & U(1) else U(0))
    elif kind == Move.TORN:
        _tear(state, ring, at, TX_DD | value, how & U(1) != U(0))
    elif kind in (Move.FORMAT, Move.STATUS, Move.LENGTH):
        ring[U(2) * at] = value << U(12)
        _store(state, ring, at, value << U(32) | value ^ how << U(20))
    elif kind in (Move.HONEST, Move.ENDLESS):
        everything = how & U(0x3F) == U(0x3F)  # of use where the reports that were asked for have been destroyed
        head = (tail + U(1)) & mask if everything else head
        while head != tail:
            if everything or ring[U(2) * head + U(1)] & TX_RS:
                ring[U(2) * head] = U(0)
                _store(state, ring, head, TX_DD)
            head = (head + U(1)) & mask
    return head


@inlined
def _scribble(windows: Any, where: Int, how: Int, value: Int) -> None:
    """Random bytes anywhere in what is mapped for writing."""
    rows = U(windows.size // WINDOW_WORDS) - U(1)  # row 0 is none
    start = np.uintp(how % rows + U(1)) * np.uintp(WINDOW_WORDS)
    size = windows[start + np.uintp(1)] - windows[start]
    if not windows[start + np.uintp(3)] & U(WRITABLE) or size < U(64):
        return
    words = words64_at(windows[start + np.uintp(2)], size // U(8))
    first = (value ^ where << U(20)) % U(words.size)
    for i in range(first, min(first + (how >> U(4)), U(words.size))):
        words[i] = value * U(0x9E37_79B9_7F4A_7C15) ^ i


@inlined
def _jump(state: Any, registers: Any, block: Int, place: Int, mask: Int, how: Int, value: Int) -> None:
    """Head or tail reads as anything, or the device goes on somewhere else."""
    if how & U(3) == U(3):
        state.heads[place] = np.uint32(value & mask)
    else:
        store_release(registers, block + (HEAD if how & U(1) else TAIL), np.uint32(value))


@inlined
def _move(state: Any, windows: Any, registers: Any, word: Int) -> None:
    kind = np.intp(state.kinds[(word & U(0xFF)) % state.kind_count])
    where, how, value = word >> U(8) & U(0xFFFF), word >> U(24) & U(0xFF), word >> U(32)
    before = state.descriptors
    queue = U(how >> U(4)) % U(QUEUES)
    transmits = where & U(0x8000) != U(0)
    state.done[kind] += U(1)
    if kind == Move.PACKETS:
        _scribble(windows, where, how, value)
        return
    block = transmit_block(np.intp(queue)) if transmits else receive_block(np.intp(queue))
    base, address, count = _ring(windows, registers, block)
    if count == U(0) and queue != U(0):  # most ports have one queue
        queue = U(0)
        block = transmit_block(np.intp(0)) if transmits else receive_block(np.intp(0))
        base, address, count = _ring(windows, registers, block)
    if count == U(0):
        return
    state.base = base
    ring, mask = words64_at(address, U(2) * count), count - U(1)
    place = queue + (U(QUEUES) if transmits else U(0))
    head, tail = U(state.heads[place]) & mask, U(load_acquire(registers, block + TAIL)) & mask
    if kind == Move.HEADS:
        _jump(state, registers, block, place, mask, how, value)
    elif kind == Move.RINGS:
        ring[(where ^ value) % U(ring.size)] = value << U(32) | value ^ where
        state.descriptors += U(1)
    elif transmits:
        state.heads[place] = np.uint32(_transmit_move(state, kind, ring, head, tail, where, how, value))
    else:
        size = U(registers[block + SRRCTL] & np.uint32(31)) * U(1024)
        if size != U(0):
            state.heads[place] = np.uint32(
                _receive_move(state, kind, windows, ring, head, tail, size, where, how, value)
            )
    if kind == Move.HONEST:
        state.honest += state.descriptors - before


@compiled
def step(state_at: Int, port_at: Int, count: Int) -> Int:
    """Do `count` moves, or as many as the tape has left; returns how many. Addresses of a STATE and of a PORT."""
    state, port = record_at(state_at, STATE), record_at(port_at, PORT)
    windows, registers = windows_of(port), registers_of(port)
    done = U(0)
    if windows[LEFT] == U(0):  # no window
        return done
    for _ in range(count):
        if state.tape_words != U(0) and state.tape_at >= state.tape_words:
            break
        word = _draw(state)
        if state.torn != U(0) and word & U(1):
            _mend(state, windows)
        _move(state, windows, registers, word)
        state.digest = (state.digest ^ word) * U(0x100_0000_01B3)
        done += U(1)
    return done
