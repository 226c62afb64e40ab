"""One packet out of any chain of data descriptors, advanced or legacy, with its offloads: 7.2.3.2, 7.2.4, 7.2.5."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, bytes_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim import offload
from ixy_vfio.sim.checksums import add_bytes, put_checksum
from ixy_vfio.sim.dma import READABLE, descriptor_words, dma_read, find, reach, record_miss, windows_of
from ixy_vfio.sim.frames import HEADER, MAX_FRAME, fifo_bytes, push, reserve, space_of
from ixy_vfio.sim.offload import fits, insert_checksums, insert_tag, send_segments
from ixy_vfio.sim.records import registers_of, violate
from ixy_vfio.sim.state import SCRATCH, Int, Violation

WAIT = 0  # the packet is not complete in the ring, or there is no room for it: come back
MIN_FRAME = 60  # without CRC
SHORTEST, LONGEST = 17, 15872 - 4  # bytes of a packet: 17 to 15.5 KiB with CRC (7.2.1)
MOST_DESCRIPTORS = 40
LARGEST_SEND = 262144  # of a segmentation, 256 KiB
TXPADEN = np.uint32(1 << 10)  # HLREG0.TXPADEN
HLREG0 = ixgbe.HLREG0.offset() // 4

# Second word of a descriptor. Advanced data (7.2.3.2.4): DTALEN 15:0, DTYP 23:20, DCMD 31:24, STA 35:32, IDX 38:36,
# CC 39, POPTS 45:40, PAYLEN 63:46. Legacy (7.2.3.2.2): length, CSO 23:16, CMD 31:24, STA, CSS 47:40, VLAN 63:48.
EOP, IFCS, RS, DEXT = np.uint64(1 << 24), np.uint64(1 << 25), np.uint64(1 << 27), np.uint64(1 << 29)
VLE, TSE = np.uint64(1 << 30), np.uint64(1 << 31)
_IC = np.uint64(1 << 26)
_RESERVED = np.uint64(0x0000_3C6F_140F_0000)
_LEGACY_RESERVED = np.uint64(0x0000_00FF_9000_0000)
_SAME = IFCS | DEXT | VLE | TSE
_DTYP, _DATA, _CONTEXT = np.uint64(0xF << 20), np.uint64(3 << 20), np.uint64(2 << 20)
_CONTEXT_RESERVED_1 = np.uint64(0xFFFF_0000_0000_0000)
_CONTEXT_RESERVED_2 = np.uint64(0x0000_00EF_DF08_0000)


@inlined
def is_context(command: Int) -> Any:
    """Whether the second word is that of a context descriptor."""
    return command & (DEXT | _DTYP) == DEXT | _CONTEXT


@compiled
def take_context(port: Any, queue: Any, number: Int, first: Int, second: Int) -> None:
    """Keep what a context descriptor says, for the packets that name it by IDX."""
    if first & _CONTEXT_RESERVED_1 or second & _CONTEXT_RESERVED_2:
        violate(port, Violation.TX_RESERVED, number, second)
    index = np.intp(second >> np.uint64(36) & np.uint64(1))
    queue.context[2 * index] = first
    queue.context[2 * index + 1] = second
    queue.context_valid[index] = np.uint8(1)


@compiled
def check_descriptor(port: Any, number: Int, command: Int, first: Int) -> bool:
    """The rules for one data descriptor of a packet whose first has the second word `first`."""
    good = False
    legacy = not command & DEXT
    if (legacy and command & _LEGACY_RESERVED) or (not legacy and command & _RESERVED):
        violate(port, Violation.TX_RESERVED, number, command)
    elif is_context(command):
        violate(port, Violation.TX_CONTEXT_INSIDE, number, command)
    elif not legacy and command & _DTYP != _DATA:
        violate(port, Violation.TX_TYPE, number, command)
    elif not command & np.uint64(0xFFFF):
        violate(port, Violation.TX_EMPTY_BUFFER, number, command)
    elif command & RS and not command & EOP:
        violate(port, Violation.TX_RS_WITHOUT_EOP, number, command)
    elif (command ^ first) & _SAME:
        violate(port, Violation.TX_MIXED, number, command)
    else:
        good = True
    return good


@compiled
def check_packet(port: Any, queue: Any, number: Int, command: Int, total: Int) -> bool:
    """The rules for a whole packet of `total` bytes; `command` is the second word of its first descriptor."""
    options = command & (offload.IXSM | offload.TXSM)
    needs_context = bool(options) or command & VLE or command & TSE
    headers = np.intp(0)
    if command & DEXT and needs_context:
        index = np.intp(command >> np.uint64(36) & np.uint64(1))
        if not queue.context_valid[index]:
            violate(port, Violation.TX_NO_CONTEXT, number, command)
            return False
        first, second = queue.context[2 * index], queue.context[2 * index + 1]
        if command & TSE:
            headers = offload.mac_length(first) + offload.ip_length(first) + offload.l4_length(second)
        sound = not command & TSE or (
            offload.segment_size(second) > 0
            and headers <= total
            and headers + offload.segment_size(second) <= LONGEST
            and offload.l4_length(second) >= 8
            and offload.l4_type(second) != offload.SCTP  # which is not cut into segments
        )
        if not sound or not fits(first, second, options, total):
            violate(port, Violation.TX_BAD_CONTEXT, number, second)
            return False
    if command & DEXT and np.intp(command >> np.uint64(46)) != total - headers:
        violate(port, Violation.TX_PAYLEN, number, command)
    elif total < SHORTEST:
        violate(port, Violation.TX_TOO_SHORT, number, np.uint64(total))
    elif total > (LARGEST_SEND if command & TSE else LONGEST):
        violate(port, Violation.TX_TOO_LONG, number, np.uint64(total))
    elif not command & IFCS:
        violate(port, Violation.TX_WITHOUT_IFCS, number, command)
    else:
        return True
    return False


@inlined
def descriptor(port: Any, queue: Any, windows: Any, index: Int, row: Int) -> Int:
    """The row of the window that holds descriptor `index`; -1 (and a stopped queue) when there is none."""
    iova = queue.base + np.uint64(index) * np.uint64(16)
    row = find(windows, iova, READABLE, row)
    if row < 0 or reach(windows, row, iova) < 16:
        record_miss(port, iova, np.uint64(16), np.uint64(0))
        queue.running = np.uint8(0)
        return np.intp(-1)
    return row


@compiled
def gather(port: Any, queue: Any, windows: Any, head: Int, used: Int, memory: Any, at: Int) -> bool:
    """Read the buffers of `used` descriptors from `head` on into memory[at:]; false when a byte is out of reach."""
    windows, memory = borrowed(windows), borrowed(memory)
    row, data_row = np.intp(-1), np.intp(-1)
    index, complete = np.intp(head), True
    for _ in range(used):
        row = descriptor(port, queue, windows, index, row)
        if row < 0:
            return False
        words = descriptor_words(windows, row, queue.base + np.uint64(index) * np.uint64(16))
        length = np.intp(words[1] & np.uint64(0xFFFF))
        data_row = dma_read(port, windows, words[0], memory, at, length, data_row)
        complete &= data_row >= 0
        at += length
        index = index + 1 if index + 1 < np.intp(queue.count) else np.intp(0)
    return complete


@compiled
def build_frame(queue: Any, registers: Any, data: Any, at: Int, total: Int, command: Int) -> None:
    """Do the offloads of a packet of `total` bytes, at data[at:], or 4 bytes behind that if it gets a tag."""
    registers, data = borrowed(registers), borrowed(data)
    tagged = command & VLE != 0
    start = at + 4 if tagged else at
    tag = np.uint32(command >> np.uint64(48))
    if command & DEXT:
        options = command & (offload.IXSM | offload.TXSM)
        index = np.intp(command >> np.uint64(36) & np.uint64(1))
        first, second = queue.context[2 * index], queue.context[2 * index + 1]
        tag = np.uint32(first >> np.uint64(16) & np.uint64(0xFFFF))
        insert_checksums(data, start, total, first, second, options, 0)
    elif command & _IC:
        css, cso = (
            np.intp(command >> np.uint64(40) & np.uint64(0xFF)),
            np.intp(command >> np.uint64(16) & np.uint64(0xFF)),
        )
        if css < total and cso + 2 <= total:
            put_checksum(data, start + cso, add_bytes(data, start + css, total - css, np.uint64(0)))
    if tagged:
        insert_tag(data, at, registers, tag)


@compiled
def send_frame(port: Any, queue: Any, windows: Any, fifo: Any, head: Int, used: Int, total: Int, command: Int) -> bool:
    """Push the packet as one frame; false when there is no room."""
    windows = borrowed(windows)
    registers, data = registers_of(port), fifo_bytes(fifo)
    tag = 4 if command & VLE else 0
    frame = total + tag
    if registers[HLREG0] & TXPADEN:
        frame = max(frame, MIN_FRAME)
    position = reserve(fifo, data, frame)
    if position < 0:
        return False
    if gather(port, queue, windows, head, used, data, position + HEADER + tag):
        build_frame(queue, registers, data, position + HEADER, total, command)
        for i in range(total + tag, frame):
            data[position + HEADER + i] = np.uint8(0)
        push(fifo, data, position, frame)
    return True


@compiled
def send_segmented(
    port: Any, queue: Any, windows: Any, fifo: Any, head: Int, used: Int, total: Int, command: Int
) -> bool:
    """Push the packet as segments; false when there is no room for all of them."""
    windows = borrowed(windows)
    index = np.intp(command >> np.uint64(36) & np.uint64(1))
    first, second = queue.context[2 * index], queue.context[2 * index + 1]
    headers = offload.mac_length(first) + offload.ip_length(first) + offload.l4_length(second)
    frames = total // offload.segment_size(second) + 1
    taken = np.intp(fifo.tail) - np.intp(fifo.head)
    if taken < 0:
        taken += np.intp(fifo.capacity)
    if fifo.frames + fifo.pending and taken + total + frames * (space_of(headers) + 32) + MAX_FRAME > np.intp(
        fifo.capacity
    ):
        return False
    packet = bytes_at(port.scratch, SCRATCH)
    if gather(port, queue, windows, head, used, packet, 0):
        options = command & (offload.IXSM | offload.TXSM)
        tagged = 1 if command & VLE else 0
        send_segments(fifo, fifo_bytes(fifo), registers_of(port), packet, total, first, second, options, tagged)
    return True


@compiled
def chain(port: Any, queue: Any, windows: Any, head: Int, tail: Int) -> Int:
    """How many descriptors from `head` on make up a packet; WAIT while its last is not there yet."""
    windows = borrowed(windows)
    row, index, used = np.intp(-1), np.intp(head), np.intp(0)
    while index != tail and used < MOST_DESCRIPTORS:
        row = descriptor(port, queue, windows, index, row)
        if row < 0:
            return np.intp(WAIT)
        used += 1
        if descriptor_words(windows, row, queue.base + np.uint64(index) * np.uint64(16))[1] & EOP:
            return used
        index = index + 1 if index + 1 < np.intp(queue.count) else np.intp(0)
    return used if used == MOST_DESCRIPTORS else np.intp(WAIT)


@compiled
def transmit_packet(port: Any, queue: Any, number: Int, fifo: Any, head: Int, tail: Int) -> Int:
    """Send the packet whose descriptors start at `head`; returns how many those are, or WAIT."""
    windows, row = windows_of(port), np.intp(-1)
    used = chain(port, queue, windows, head, tail)
    index, total, good, first, command = np.intp(head), np.intp(0), True, np.uint64(0), np.uint64(0)
    for i in range(used):
        row = descriptor(port, queue, windows, index, row)
        if row < 0:
            return np.intp(WAIT)
        command = descriptor_words(windows, row, queue.base + np.uint64(index) * np.uint64(16))[1]
        if i == 0:
            first = command
        good &= check_descriptor(port, number, command, first)
        total += np.intp(command & np.uint64(0xFFFF))
        index = index + 1 if index + 1 < np.intp(queue.count) else np.intp(0)
    if used == WAIT:
        return used
    if not command & EOP:
        violate(port, Violation.TX_TOO_MANY, number, np.uint64(used))
        return used
    if not good or not check_packet(port, queue, number, first, total):
        return used
    if first & TSE:
        sent = send_segmented(port, queue, windows, fifo, head, used, total, first)
    else:
        sent = send_frame(port, queue, windows, fifo, head, used, total, first)
    return used if sent and queue.running else np.intp(WAIT)
