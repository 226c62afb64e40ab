"""Transmit: descriptors from the ring, packets from memory, frames into a FIFO. 82599 datasheet, 7.2.

The fast path is one advanced data descriptor for a whole packet without offloads; `transmit_packet.py` has all else.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, load64, store_release
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.dma import (
    READABLE,
    WRITABLE,
    descriptor_words,
    dma_read,
    find,
    reach,
    record_miss,
    windows_of,
    word32,
)
from ixy_vfio.sim.frames import HEADER, at_frame, fifo_bytes, frame_length, push, reserve, space_of
from ixy_vfio.sim.records import (
    HEAD,
    add,
    checks_ring,
    looks_at_transmit_queues,
    registers_of,
    size_class,
    transmit_block,
    transmit_counter,
)
from ixy_vfio.sim.state import COUNTER_INDEX, NO_CABLE, QUEUES, Int
from ixy_vfio.sim.transmit_packet import (
    DEXT,
    HLREG0,
    LONGEST,
    MIN_FRAME,
    RS,
    SHORTEST,
    TXPADEN,
    WAIT,
    descriptor,
    is_context,
    take_context,
    transmit_packet,
)

_GPTC, _GOTC, _TPT = COUNTER_INDEX["GPTC"], COUNTER_INDEX["GOTC"], COUNTER_INDEX["TPT"]
_PTC64, _MPTC, _BPTC = COUNTER_INDEX["PTC64"], COUNTER_INDEX["MPTC"], COUNTER_INDEX["BPTC"]
_QPTC, _QBTC = COUNTER_INDEX["QPTC0"], COUNTER_INDEX["QBTC0"]
_TXDGPC, _TXDGBC = COUNTER_INDEX["TXDGPC"], COUNTER_INDEX["TXDGBC"]
_DMATXCTL = ixgbe.DMATXCTL.offset() // 4
_TE = np.uint32(1)  # DMATXCTL.TE
_TDWBAL, _TDWBAH = 14, 15  # words of the queue's register block

# A plain packet (see transmit_packet.py for the fields): DTYP = 3, EOP, IFCS, DEXT; it may have RS, IDX 0 or 1 and CC.
_PLAIN_MASK = np.uint64(0x0000_3F6F_F7FF_0000)
_PLAIN = np.uint64(0x0000_0000_2330_0000)
_DONE = np.uint64(1 << 32)


@inlined
def is_plain(command: Int, length: Int) -> Any:
    """Whether a descriptor is a whole packet on which nothing but padding is to be done."""
    payload = np.intp(command >> np.uint64(46))
    return command & _PLAIN_MASK == _PLAIN and length == payload and SHORTEST <= length <= LONGEST


@inlined
def send_plain(port: Any, windows: Any, fifo: Any, data: Any, address: Int, length: Int, pads: bool, row: Int) -> Any:
    """Push one buffer as a frame; returns the window row for the next, -1 after a miss, -2 when there is no room."""
    frame = max(length, MIN_FRAME) if pads else length
    position = reserve(fifo, data, frame)
    if position < 0:
        return np.intp(-2)
    row = dma_read(port, windows, address, data, position + HEADER, length, row)
    if row >= 0:
        for i in range(length, frame):
            data[position + HEADER + i] = np.uint8(0)
        push(fifo, data, position, frame)
    return row


@compiled
def write_head_back(port: Any, windows: Any, low: Int, high: Int, head: Int) -> None:
    """Head write-back (7.2.3.5.2): the head into memory, instead of DD into descriptors."""
    windows = borrowed(windows)
    iova = np.uint64(low & np.uint32(0xFFFF_FFFC)) | np.uint64(high) << np.uint64(32)
    row = find(windows, iova, WRITABLE, np.intp(-1))
    if row < 0 or reach(windows, row, iova) < 4:
        record_miss(port, iova, np.uint64(4), np.uint64(1))
    else:
        store_release(word32(windows, row, iova), 0, np.uint32(head))


@inlined
def write_done(port: Any, queue: Any, windows: Any, index: Int, row: Int) -> Int:
    """Write DD back into descriptor `index`; returns the window row for the next."""
    iova = queue.base + np.uint64(index) * np.uint64(16)
    row = find(windows, iova, WRITABLE, row)
    if row < 0 or reach(windows, row, iova) < 16:
        record_miss(port, iova, np.uint64(16), np.uint64(1))
        queue.running = np.uint8(0)
        return row
    words = descriptor_words(windows, row, iova)
    if words[1] & DEXT:
        words[0] = np.uint64(0)
        store_release(words, 1, _DONE)
    else:
        store_release(words, 1, words[1] | _DONE)
    return row


@compiled
def count_sent(port: Any, fifo: Any, position: Int, frames: Int, counter: Int) -> None:
    """Statistics for the last `frames` pending frames, the first of which lies at `position` or at 0."""
    data, octets = fifo_bytes(fifo), np.intp(0)
    for _ in range(frames):
        position = at_frame(fifo, data, position)
        length = frame_length(data, position)
        octets += length
        add(port, _PTC64 + size_class(length + 4), 1)
        if data[position + HEADER] & np.uint8(1):
            broadcast = load64(data, position + HEADER) & np.uint64(0xFFFF_FFFF_FFFF) == np.uint64(0xFFFF_FFFF_FFFF)
            add(port, _BPTC if broadcast else _MPTC, 1)
        position += space_of(length)
    for index in (_GPTC, _TPT, _TXDGPC, _QPTC + counter):
        add(port, index, frames)
    add(port, _GOTC, octets + 4 * frames)
    add(port, _TXDGBC, octets)
    add(port, _QBTC + counter, octets)


@compiled
def transmit_queue(port: Any, queue: Any, number: Int, fifo: Any, budget: Int) -> Int:
    """Send up to `budget` packets of one queue into `fifo`; returns how many descriptors were done with."""
    registers, windows, data = registers_of(port), windows_of(port), fifo_bytes(fifo)
    block = transmit_block(number)
    checks_ring(port, queue, number, registers, block, True)
    pads = (registers[HLREG0] & TXPADEN) != 0
    head_write_back = (registers[block + _TDWBAL] & np.uint32(1)) != 0
    head, tail, count = np.intp(queue.head), np.intp(queue.tail), np.intp(queue.count)
    row, write_row, data_row, written_head = np.intp(-1), np.intp(-1), np.intp(-1), np.intp(-1)
    done, reported, position, pending = np.intp(0), False, np.intp(fifo.tail), fifo.pending
    if fifo.frames + fifo.pending == np.uint64(0):
        position = np.intp(0)
    while head != tail and done < budget and queue.running:
        row = descriptor(port, queue, windows, head, row)
        if row < 0:
            break
        words = descriptor_words(windows, row, queue.base + np.uint64(head) * np.uint64(16))
        command, used = words[1], np.intp(1)
        length = np.intp(command & np.uint64(0xFFFF))
        if is_plain(command, length):
            sent = send_plain(port, windows, fifo, data, words[0], length, pads, data_row)
            if sent == -2:
                break
            data_row = sent
        elif is_context(command):
            take_context(port, queue, number, words[0], command)
        else:
            used = transmit_packet(port, queue, number, fifo, head, tail)
            if used == WAIT:
                break
            command = last_command(queue, windows, (head + used - 1) % count, row)
        head += used
        if head >= count:
            head -= count
        done += used
        if command & RS and not is_context(command):
            reported = True
            if head_write_back:
                written_head = head
            else:
                write_row = write_done(port, queue, windows, head - 1 if head else count - 1, write_row)
    if written_head >= 0:
        write_head_back(port, windows, registers[block + _TDWBAL], registers[block + _TDWBAH], written_head)
    if done:
        queue.head = np.uint32(head)
        store_release(registers, block + HEAD, np.uint32(head))
        frames = np.intp(fifo.pending - pending)
        count_sent(port, fifo, position, frames, transmit_counter(registers, number))
    if reported:
        port.transmit_causes[number] = np.uint8(1)
    return done


@inlined
def last_command(queue: Any, windows: Any, index: Int, row: Int) -> Int:
    """The second word of the descriptor that ends a packet; 0 when it cannot be read any more."""
    iova = queue.base + np.uint64(index) * np.uint64(16)
    row = find(windows, iova, READABLE, row)
    if row < 0 or reach(windows, row, iova) < 16:
        return np.uint64(0)
    return descriptor_words(windows, row, iova)[1]


@compiled
def transmit(port: Any, queues: Any, fifos: Any, budget: Int) -> Int:
    """Send up to `budget` packets of each queue of a port; returns how many descriptors were done with."""
    queues, fifos = borrowed(queues), borrowed(fifos)
    looks_at_transmit_queues(port, queues)
    enabled = registers_of(port)[_DMATXCTL] & _TE
    if not (port.bus_master and port.link_up and enabled) or port.outgoing == NO_CABLE:
        return np.intp(0)
    fifo, done, first = fifos[port.outgoing], np.intp(0), np.intp(port.first_transmit_queue)
    for i in range(QUEUES):
        number = (first + i) & (QUEUES - 1)
        if port.transmit_enabled[number]:
            queue = queues[number]
            if queue.running and queue.head != queue.tail:
                done += transmit_queue(port, queue, number, fifo, budget)
                port.first_transmit_queue = np.uint8((number + 1) & (QUEUES - 1))
    return done
