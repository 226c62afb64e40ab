"""The built-in traffic generator and sink, compiled. `generator_cable.py` is their face.

A generated frame is Ethernet, IPv4 and UDP with valid checksums, then sequence number and time stamp (64 bits each,
little-endian, the stamp in ns) from byte 42 on, then a pattern that follows from seed and sequence number. So does
its length. A sink that knows the generator builds each frame once more and compares.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import address_of, borrowed, bytes_at, load16, load64, store64, words64_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import add_bytes, fold, halves, swapped
from ixy_vfio.sim.frames import HEADER, at_frame, fifo_bytes, frame_length, pushed, reserve, space_of, straight_end
from ixy_vfio.sim.receive import DROP_EN, descriptors_left
from ixy_vfio.sim.records import SRRCTL, receive_block, registers_of
from ixy_vfio.sim.state import NO_FLOW, QUEUES, SEEN, Int

SMALLEST = 60
FIT, MAX, PACED = 0, 1, 2
UNLIMITED = (1 << 64) - 1
SEQUENCE_AT, STAMP_AT, PATTERN_AT = 42, 50, 58
MOST_CREDIT = 100_000.0  # ns: how much of a pause a paced generator makes up for
_ADDRESS = np.uint64(0xFFFF_FFFF_FFFF)
_RXCTRL, _RAL, _RAH = ixgbe.RXCTRL.offset() // 4, ixgbe.RAL.offset() // 4, ixgbe.RAH.offset() // 4
_RXPBSIZE = ixgbe.RXPBSIZE.offset() // 4
NO_HEAD = (np.uint64(0),) * 6  # before the first `head_words`


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


@inlined
def head_words(flow: Any, length: Int, sequence: Int) -> Any:
    """What frames of one length and stream share: bytes 0 to 39 as five words, and their part of the UDP checksum."""
    size, port = np.uint64(length), np.uint64(flow.number)
    total, datagram = big16(size - np.uint64(14)), big16(size - np.uint64(34))
    stream = sequence % np.uint64(flow.streams) if flow.streams > 1 else np.uint64(0)
    source = big16(np.uint64(49152) + stream)
    from_ip, to_ip = np.uint64(0x0100_120A) | port << np.uint64(16), np.uint64(0x0100_130A) | port << np.uint64(16)
    addresses = (from_ip & np.uint64(0xFFFF)) + (from_ip >> np.uint64(16)) + (to_ip & np.uint64(0xFFFF))
    addresses += to_ip >> np.uint64(16)
    check = fold(np.uint64(0x0045 + 0x0040 + 0x1140) + total + addresses) ^ np.uint32(0xFFFF)
    return (
        np.uint64(flow.destination | flow.source << np.uint64(48)),
        np.uint64(flow.source >> np.uint64(16) | np.uint64(0x0045_0008 << 32)),
        np.uint64(total | np.uint64(0x0040) << np.uint64(32) | np.uint64(0x1140) << np.uint64(48)),
        np.uint64(np.uint64(check) | from_ip << np.uint64(16) | to_ip << np.uint64(48)),
        np.uint64(to_ip >> np.uint64(16) | source << np.uint64(16) | np.uint64(0x0900) << np.uint64(32)
                  | datagram << np.uint64(48)),
        np.uint64(addresses + swapped(17) + source + np.uint64(0x0900) + datagram + datagram),
    )  # fmt: skip


@inlined
def udp_check(total: Int) -> Any:
    """The UDP checksum that goes with a sum: never 0."""
    check = fold(total) ^ np.uint32(0xFFFF)
    return np.uint64(check if check else np.uint32(0xFFFF))


@inlined
def short_end(total: Int, length: Int, sequence: Int, stamp: Int, value: Int) -> Any:
    """UDP checksum and last word of a frame with less than 8 bytes of pattern, out of registers.

    Nothing is read back that was written in other widths just before: such a read waits for the stores. With this, the
    generator takes 21 cycles a frame of 60 bytes instead of 41, the sink 32 instead of 56 (AMD EPYC, 2.6 GHz).
    """
    bits = np.uint64(8 * (length - PATTERN_AT))
    pattern = value & ((np.uint64(1) << bits) - np.uint64(1))
    check = udp_check(total + halves(sequence) + halves(stamp) + halves(pattern))
    return check, stamp >> bits | value << (np.uint64(64) - bits)


@compiled
def put_long_end(address: Int, length: Int, total: Int, sequence: Int, stamp: Int, value: Int) -> None:
    """Bytes 40 and up of a frame with 8 bytes of pattern or more."""
    data = bytes_at(address, length)
    store64(data, SEQUENCE_AT, sequence)
    store64(data, STAMP_AT, stamp)
    words = words64_at(address + np.uint64(PATTERN_AT), (length - PATTERN_AT) >> 3)
    for i in range(words.size):
        words[i] = value + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    store64(data, length - 8, mix(value))  # the end of the last word, where the words above leave bytes out
    check = udp_check(add_bytes(data, SEQUENCE_AT, length - SEQUENCE_AT, total))
    data[40] = np.uint8(check & np.uint64(0xFF))
    data[41] = np.uint8(check >> np.uint64(8))


@inlined
def put_frame(address: Int, length: Int, head: Any, sequence: Int, stamp: Int, value: Int) -> None:
    """Write frame `sequence`, of `length` bytes, to `address`; `head` is of `head_words`."""
    first = bytes_at(address, SMALLEST)  # of a constant size: no check is left of what is below
    store64(first, 0, head[0])
    store64(first, 8, head[1])
    store64(first, 16, head[2])
    store64(first, 24, head[3])
    store64(first, 32, head[4])
    if length >= PATTERN_AT + 8:
        put_long_end(address, length, head[5], sequence, stamp, value)
        return
    check, end = short_end(head[5], length, sequence, stamp, value)
    store64(first, 40, check | sequence << np.uint64(16))
    store64(first, 48, sequence >> np.uint64(48) | stamp << np.uint64(16))
    store64(first, STAMP_AT, stamp)  # byte 56 too, which `end` leaves out in a frame of 65 bytes
    store64(bytes_at(address, length), length - 8, end)


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
def may_start(flow: Any, port: Any, registers: Any) -> Any:
    """Whether there is somebody to send to. At a rate: an open receive queue too, or a short stream would be over."""
    if not port.link_up or not flow.destination:
        return False
    if flow.pace != PACED:
        return True
    enabled = False
    for number in range(QUEUES):
        enabled |= port.receive_enabled[number] != 0
    return enabled and registers[_RXCTRL] & np.uint32(1) != 0


@compiled
def generate(flow: Any, port: Any, queues: Any, fifo: Any, now: Int, budget: Int) -> Int:
    """Push up to `budget` frames into the packet buffer of a port; returns how many."""
    queues = borrowed(queues)
    registers, data, fits = registers_of(port), fifo_bytes(fifo), np.intp(1) << 62
    if flow.pace == FIT:
        budget = room(port, queues, fifo, registers, budget)
        fits = np.intp(registers[_RXPBSIZE] & np.uint32(0xFFC00)) - np.intp(fifo.bytes)
    if not flow.destination and registers[_RAH] >> np.uint32(31):  # as long as nobody said otherwise: the port's own
        flow.destination = np.uint64(registers[_RAL]) | np.uint64(registers[_RAH] & np.uint32(0xFFFF)) << np.uint64(32)
    if not may_start(flow, port, registers):
        flow.last = np.uint64(now)
        return np.intp(0)
    if flow.last:
        most = max(MOST_CREDIT, flow.cost_frame + flow.cost_byte * float(flow.largest))  # one frame at least
        flow.credit = min(flow.credit + float(np.uint64(now) - flow.last), most)
    flow.last = np.uint64(now)
    sent, octets, sequence, count = np.intp(0), np.intp(0), flow.sent, flow.count
    position, limit, pending = np.intp(fifo.tail), np.intp(-1), np.intp(0)
    head, known = NO_HEAD, np.intp(-1)
    while sent < budget and sequence < count:
        value = hash_of(flow, sequence)
        length = size_of(flow, value)
        if flow.pace == PACED:
            cost = flow.cost_frame + flow.cost_byte * float(length)
            if flow.credit < cost:
                break
            flow.credit -= cost
        if octets + 4 * sent + length + 4 > fits:
            break
        if position + space_of(length) > limit:
            pushed(fifo, position, sent - pending)
            pending, position = sent, reserve(fifo, data, length)
            if position < 0:
                break
            limit = straight_end(fifo, position)
        if length != known or flow.streams > 1:
            head, known = head_words(flow, length, sequence), length
        address = address_of(data, position, HEADER + length)
        store64(data, position, np.uint64(length))
        put_frame(address + np.uint64(HEADER), length, head, sequence, np.uint64(now), value)
        position += space_of(length)
        sequence += np.uint64(1)
        sent += 1
        octets += length
    if sent > pending:
        pushed(fifo, position, sent - pending)
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
def time(flow: Any, latency: Int, frames: Int) -> None:
    """Count a latency in ns, of `frames` frames, in the bucket that `least` describes."""
    flow.latency_sum += latency * np.uint64(frames)
    flow.latency_min = min(flow.latency_min, latency)
    flow.latency_max = max(flow.latency_max, latency)
    beyond = np.uint64(0)  # bits that the bucket does not tell
    for step in (32, 16, 8, 4, 2, 1):
        if latency >> beyond >= np.uint64(16 << step):
            beyond += np.uint64(step)
    flow.latencies[np.uint64(16) * beyond + (latency >> beyond)] += np.uint64(frames)


def least(bucket: int) -> int:
    """The smallest latency in ns that a bucket of the histogram counts; the next bucket begins 1/16 higher."""
    beyond = max(bucket // 16 - 1, 0)
    return bucket - 16 * beyond << beyond


@inlined
def field(flow: Any, data: Any, offset: Int) -> Any:
    """The 64-bit number at `offset` of a frame; a touched byte in it counts as 0 (high bytes are)."""
    value, shift = load64(data, offset), np.intp(flow.touched) - offset
    return value & ~(np.uint64(0xFF) << np.uint64(8 * shift)) if 0 <= shift < 8 else value


@compiled
def equals_rebuilt(
    flow: Any, scratch: Int, address: Int, length: Int, head: Any, sequence: Int, stamp: Int, value: Int
) -> bool:
    """Whether the frame at `address` is what it should be: built once more, and compared."""
    put_frame(scratch, length, head, sequence, stamp, value)
    if flow.touched < length:
        bytes_at(scratch, length)[flow.touched] = bytes_at(address, length)[flow.touched]
    return not differ(address, scratch, length)


@inlined
def is_intact(
    flow: Any, scratch: Int, address: Int, length: Int, head: Any, sequence: Int, stamp: Int, value: Int
) -> Any:
    """Whether the frame at `address` is what it should be. A short one is compared with what is in registers."""
    if length >= PATTERN_AT + 8 or flow.touched < length:
        return equals_rebuilt(flow, scratch, address, length, head, sequence, stamp, value)
    check, end = short_end(head[5], length, sequence, stamp, value)
    data = bytes_at(address, SMALLEST)
    wrong = (load64(data, 0) ^ head[0]) | (load64(data, 8) ^ head[1]) | (load64(data, 16) ^ head[2])
    wrong |= (load64(data, 24) ^ head[3]) | (load64(data, 32) ^ head[4]) | (np.uint64(load16(data, 40)) ^ check)
    return wrong | (load64(bytes_at(address, length), length - 8) ^ end) == np.uint64(0)


@compiled
def check(flow: Any, origin: Any, scratch: Int, fifo: Any, now: Int, frames: Int) -> None:
    """Check the `frames` oldest frames, which `origin` generated or nobody."""
    data, position = fifo_bytes(fifo), np.intp(fifo.head)
    head, known, latency, timed = NO_HEAD, np.intp(-1), np.uint64(0), np.intp(0)
    for _ in range(frames):
        position = at_frame(fifo, data, position)
        length = frame_length(data, position)
        address = address_of(data, position + HEADER, length)
        position += space_of(length)
        if length < SMALLEST or (load64(bytes_at(address, SMALLEST), 6) & _ADDRESS) != origin.source:
            flow.foreign += np.uint64(1)
            continue
        start = bytes_at(address, SMALLEST)
        sequence, stamp = field(flow, start, SEQUENCE_AT), field(flow, start, STAMP_AT)
        value = hash_of(origin, sequence)
        if sequence >= origin.sent or stamp > np.uint64(now) or size_of(origin, value) != length:
            flow.corrupted += np.uint64(1)
            continue
        if length != known or origin.streams > 1:
            head, known = head_words(origin, length, sequence), length
        if not is_intact(flow, scratch, address, length, head, sequence, stamp, value):
            flow.corrupted += np.uint64(1)
            continue
        note(flow, sequence)
        if np.uint64(now) - stamp != latency:  # frames of one step have one stamp: they are counted together
            if timed:
                time(flow, latency, timed)
            latency, timed = np.uint64(now) - stamp, np.intp(0)
        timed += 1
    if timed:
        time(flow, latency, timed)


@compiled
def sink(flow: Any, flows: Any, port: Any, fifo: Any, now: Int, budget: Int) -> Int:
    """Take up to `budget` frames that the port has sent, and check them; returns how many."""
    flows = borrowed(flows)
    taken, data = min(np.intp(fifo.frames), np.intp(budget)), fifo_bytes(fifo)
    if flow.expect != NO_FLOW:
        check(flow, flows[flow.expect], port.scratch, fifo, now, taken)
    position, octets = np.intp(fifo.head), np.intp(0)
    for _ in range(taken):
        position = at_frame(fifo, data, position)
        length = frame_length(data, position)
        position += space_of(length)
        octets += length
    fifo.head = np.uint64(position)
    fifo.frames -= np.uint64(taken)
    flow.received += np.uint64(taken)
    flow.received_bytes += np.uint64(octets)
    return taken
