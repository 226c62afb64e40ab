"""The built-in traffic generator and sink, compiled. `generator_cable.py` is their face.

A generated frame is Ethernet, IPv4 and UDP with valid checksums, then sequence number and time stamp (64 bits each,
little-endian, the stamp in ns) from byte 42 on, then a pattern that follows from seed and sequence number. So does
its length. A sink that knows the generator builds each frame once more and compares.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import address_of, borrowed, bytes_at, load64, store64, words64_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import add_bytes, fold, swapped
from ixy_vfio.sim.frames import HEADER, fifo_bytes, frame_length, oldest, pop, push, reserve
from ixy_vfio.sim.receive import DROP_EN, descriptors_left
from ixy_vfio.sim.records import SRRCTL, receive_block, registers_of
from ixy_vfio.sim.state import NO_FLOW, QUEUES, SCRATCH, SEEN, Int

SMALLEST = 60
FIT, MAX, PACED = 0, 1, 2
UNLIMITED = (1 << 64) - 1
SEQUENCE_AT, STAMP_AT, PATTERN_AT = 42, 50, 58
MOST_CREDIT = 100_000.0  # ns: how much of a pause a paced generator makes up for
_ADDRESS = np.uint64(0xFFFF_FFFF_FFFF)
_RXCTRL, _RAL, _RAH = ixgbe.RXCTRL.offset() // 4, ixgbe.RAL.offset() // 4, ixgbe.RAH.offset() // 4
_RXPBSIZE = ixgbe.RXPBSIZE.offset() // 4


@inlined
def mix(value: Int) -> Any:
    """A 64-bit hash (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inlined
def hash_of(flow: Any, sequence: Int) -> Any:
    """What the length and the pattern of a frame follow from."""
    return mix(flow.seed + sequence * np.uint64(0x9E3779B97F4A7C15))


@inlined
def size_of(flow: Any, value: Int) -> Any:
    """Length of the frame with this `hash_of`."""
    span = np.uint64(flow.largest) - np.uint64(flow.smallest) + np.uint64(1)
    return np.intp(np.uint64(flow.smallest) + ((value >> np.uint64(32)) * span >> np.uint64(32)))


@inlined
def big16(value: Int) -> Any:
    """A 16-bit number in network order, for a little-endian store."""
    return np.uint64((value & np.uint64(0xFF)) << np.uint64(8) | value >> np.uint64(8) & np.uint64(0xFF))


@compiled
def build(flow: Any, address: Int, sequence: Int, stamp: Int, value: Int, length: Int) -> None:
    """Write frame `sequence`, of `length` bytes, to `address`."""
    data = bytes_at(address, length)
    size = np.uint64(length)
    total, datagram = big16(size - np.uint64(14)), big16(size - np.uint64(34))
    stream = sequence % np.uint64(flow.streams) if flow.streams > 1 else np.uint64(0)
    source = big16(np.uint64(49152) + stream)
    port = np.uint64(flow.number)
    from_ip, to_ip = np.uint64(0x0100_120A) | port << np.uint64(16), np.uint64(0x0100_130A) | port << np.uint64(16)
    store64(data, 0, flow.destination | flow.source << np.uint64(48))
    store64(data, 8, flow.source >> np.uint64(16) | np.uint64(0x0045_0008 << 32))
    store64(data, 16, total | np.uint64(0x0040) << np.uint64(32) | np.uint64(0x1140) << np.uint64(48))
    addresses = (from_ip & np.uint64(0xFFFF)) + (from_ip >> np.uint64(16)) + (to_ip & np.uint64(0xFFFF))
    addresses += to_ip >> np.uint64(16)
    check = fold(np.uint64(0x0045 + 0x0040 + 0x1140) + total + addresses) ^ np.uint32(0xFFFF)
    store64(data, 24, np.uint64(check) | from_ip << np.uint64(16) | to_ip << np.uint64(48))
    store64(data, 32, to_ip >> np.uint64(16) | source << np.uint64(16) | np.uint64(0x0900) << np.uint64(32)
            | datagram << np.uint64(48))  # fmt: skip
    store64(data, SEQUENCE_AT, sequence)
    store64(data, STAMP_AT, stamp)
    words = words64_at(address + np.uint64(PATTERN_AT), (length - PATTERN_AT) >> 3)
    for i in range(words.size):
        words[i] = value + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    if length >= PATTERN_AT + 8:  # the end of the last word, where the words above leave bytes out
        store64(data, length - 8, mix(value))
    else:
        for i in range(PATTERN_AT, length):
            data[i] = np.uint8(value >> np.uint64(8 * (i - PATTERN_AT)) & np.uint64(0xFF))
    head = addresses + swapped(17) + source + np.uint64(0x0900) + datagram + datagram
    check = fold(add_bytes(data, SEQUENCE_AT, length - SEQUENCE_AT, head)) ^ np.uint32(0xFFFF)
    check = check if check else np.uint32(0xFFFF)
    data[40] = np.uint8(check & np.uint32(0xFF))
    data[41] = np.uint8(check >> np.uint32(8))


@inlined
def room(port: Any, queues: Any, fifo: Any, registers: Any, budget: Int) -> Any:
    """How many frames a port can take now without losing one: what `pace=fit` offers.

    No more than a step delivers, and no more than a queue that drops has buffers.
    """
    if not (port.link_up and registers[_RXCTRL] & np.uint32(1)):
        return np.intp(0)
    frames, enabled = np.intp(budget), False
    for number in range(QUEUES):
        if port.receive_enabled[number]:
            enabled = True
            if registers[receive_block(number) + SRRCTL] & DROP_EN:
                frames = min(frames, descriptors_left(queues[number]))
    return max(frames - np.intp(fifo.frames), np.intp(0)) if enabled else np.intp(0)


@inlined
def fills(port: Any, fifo: Any, registers: Any, pushed: Int, length: Int) -> Any:
    """Whether a frame of `length` bytes, behind `pushed` bytes pending, would not fit into the packet buffer."""
    return fifo.bytes + np.uint64(pushed + length + 4) > np.uint64(registers[_RXPBSIZE] & np.uint32(0xFFC00))


@compiled
def generate(flow: Any, port: Any, queues: Any, fifo: Any, now: Int, budget: Int) -> Int:
    """Push up to `budget` frames into the packet buffer of a port; returns how many."""
    queues = borrowed(queues)
    registers, data = registers_of(port), fifo_bytes(fifo)
    if flow.pace == FIT:
        budget = room(port, queues, fifo, registers, budget)
    if not flow.destination and registers[_RAH] >> np.uint32(31):  # as long as nobody said otherwise: the port's own
        flow.destination = np.uint64(registers[_RAL]) | np.uint64(registers[_RAH] & np.uint32(0xFFFF)) << np.uint64(32)
    if not port.link_up or not flow.destination:
        flow.last = np.uint64(now)
        return np.intp(0)
    if flow.last:
        flow.credit = min(flow.credit + float(np.uint64(now) - flow.last), MOST_CREDIT)
    flow.last = np.uint64(now)
    sent, octets, sequence = np.intp(0), np.intp(0), flow.sent
    while sent < budget and sequence < flow.count:
        value = hash_of(flow, sequence)
        length = size_of(flow, value)
        if flow.pace == PACED:
            cost = flow.cost_frame + flow.cost_byte * float(length)
            if flow.credit < cost:
                break
            flow.credit -= cost
        if flow.pace == FIT and fills(port, fifo, registers, octets + 4 * sent, length):
            break
        position = reserve(fifo, data, length)
        if position < 0:
            break
        build(flow, address_of(data, position + HEADER, length), sequence, np.uint64(now), value, length)
        push(fifo, data, position, length)
        sequence += np.uint64(1)
        sent += 1
        octets += length
    flow.sent = sequence
    flow.sent_bytes += np.uint64(octets)
    return sent


@inlined
def differ(one: Int, other: Int, length: Int) -> Any:
    """Whether the `length` bytes at two addresses differ."""
    left, right = words64_at(one, length >> 3), words64_at(other, length >> 3)
    first, second = bytes_at(one, length), bytes_at(other, length)
    wrong = load64(first, length - 8) ^ load64(second, length - 8)  # the end, that whole words may leave out
    for i in range(left.size):
        wrong |= left[i] ^ right[i]
    return wrong != np.uint64(0)


@inlined
def word_of(sequence: Int) -> Any:
    """The word of `seen` that holds the bit of a sequence number."""
    return np.uintp(sequence >> np.uint64(6)) & np.uintp(SEEN // 64 - 1)


@inlined
def note(flow: Any, sequence: Int) -> None:
    """Tell new from late and from seen before, for the last SEEN sequence numbers."""
    bit = np.uint64(1) << (sequence & np.uint64(63))
    if sequence >= flow.following:
        gap = sequence - flow.following
        if gap >= np.uint64(SEEN):
            flow.seen[:] = np.uint64(0)
        else:
            for i in range(gap):  # what lies between has not been seen, whatever stood there
                late = flow.following + np.uint64(i)
                flow.seen[word_of(late)] &= ~(np.uint64(1) << (late & np.uint64(63)))
        flow.following = sequence + np.uint64(1)
        flow.seen[word_of(sequence)] |= bit
        flow.unique += np.uint64(1)
        return
    word = word_of(sequence)
    if flow.following - sequence <= np.uint64(SEEN) and flow.seen[word] & bit:
        flow.duplicated += np.uint64(1)
        return
    flow.seen[word] |= bit
    flow.unique += np.uint64(1)
    flow.reordered += np.uint64(1)


@inlined
def time(flow: Any, latency: Int) -> None:
    """Count a latency in ns; bucket n of the histogram is 2**n to 2**(n+1) - 1 ns."""
    flow.latency_sum += latency
    flow.latency_min = min(flow.latency_min, latency)
    flow.latency_max = max(flow.latency_max, latency)
    if latency != flow.latency_last:  # frames of one step have one stamp
        flow.latency_last, bucket = latency, np.uint64(0)
        for step in (32, 16, 8, 4, 2, 1):
            if latency >> np.uint64(step):
                latency >>= np.uint64(step)
                bucket += np.uint64(step)
        flow.latency_bucket = bucket
    flow.latencies[flow.latency_bucket] += np.uint64(1)


@inlined
def field(flow: Any, data: Any, at: Int, offset: Int) -> Any:
    """The 64-bit number at `offset` of a frame; a touched byte in it counts as 0 (high bytes are)."""
    value, shift = load64(data, at + offset), np.intp(flow.touched) - offset
    return value & ~(np.uint64(0xFF) << np.uint64(8 * shift)) if 0 <= shift < 8 else value


@inlined
def check(flow: Any, origin: Any, scratch: Any, data: Any, at: Int, length: Int, now: Int) -> None:
    """One frame of the generator `origin` (or not)."""
    if length < SMALLEST or (load64(data, at + 6) & _ADDRESS) != origin.source:
        flow.foreign += np.uint64(1)
        return
    sequence, stamp = field(flow, data, at, SEQUENCE_AT), field(flow, data, at, STAMP_AT)
    value = hash_of(origin, sequence)
    if sequence >= origin.sent or stamp > np.uint64(now) or size_of(origin, value) != length:
        flow.corrupted += np.uint64(1)
        return
    build(origin, address_of(scratch, 0, length), sequence, stamp, value, length)
    if flow.touched < length:
        scratch[flow.touched] = data[at + flow.touched]
    if differ(address_of(data, at, length), address_of(scratch, 0, length), length):
        flow.corrupted += np.uint64(1)
        return
    note(flow, sequence)
    time(flow, np.uint64(now) - stamp)


@compiled
def sink(flow: Any, flows: Any, port: Any, fifo: Any, now: Int, budget: Int) -> Int:
    """Take up to `budget` frames that the port has sent, and check them; returns how many."""
    flows = borrowed(flows)
    data, scratch, taken = fifo_bytes(fifo), bytes_at(port.scratch, SCRATCH), np.intp(0)
    while fifo.frames and taken < budget:
        position = oldest(fifo, data)
        length = frame_length(data, position)
        flow.received += np.uint64(1)
        flow.received_bytes += np.uint64(length)
        if flow.expect != NO_FLOW:
            check(flow, flows[flow.expect], scratch, data, position + HEADER, length, now)
        pop(fifo, data, position)
        taken += 1
    return taken
