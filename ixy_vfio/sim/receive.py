"""Receive: frames from the packet buffer into memory, and descriptor write-backs. 82599 datasheet, 7.1.5 to 7.1.7."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, bytes_at, copy_bytes, load64, store_release, words64_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import be16, ethernet_crc
from ixy_vfio.sim.classify import DD, EOP, VP
from ixy_vfio.sim.dma import (
    WRITABLE,
    descriptor_words,
    dma_write,
    find,
    reach,
    record_miss,
    search,
    whole_ring,
    window_of,
    windows_of,
)
from ixy_vfio.sim.frames import HEADER, at_frame, fifo_bytes, frame_length, oldest, pop, space_of
from ixy_vfio.sim.mac import CRC_STRIP
from ixy_vfio.sim.records import (
    CONTROL,
    HEAD,
    SRRCTL,
    add,
    checks_ring,
    looks_at_receive_queues,
    receive_block,
    receive_counter,
    registers_of,
    violate,
    violate_once,
)
from ixy_vfio.sim.state import COUNTER_INDEX, SCRATCH, Int, Violation

_HLREG0 = ixgbe.HLREG0.offset() // 4
DROP_EN = np.uint32(1 << 28)  # SRRCTL
_LEGACY, _ADVANCED = 0, 1  # SRRCTL.DESCTYPE
_QUEUE_AND_TAG = np.uint64(0xFF << 16) | np.uint64(VP) << np.uint64(32)  # of a frame's header in the FIFO
_LOST, _STAYS = -1, -2  # of `deliver_one`
_VME = np.uint32(1 << 30)  # RXDCTL
_QPRC, _QBRC, _QPRDC = (COUNTER_INDEX[name] for name in ("QPRC0", "QBRC0", "QPRDC0"))
_RXDGPC, _RXDGBC = COUNTER_INDEX["RXDGPC"], COUNTER_INDEX["RXDGBC"]


@inlined
def descriptors_left(queue: Any) -> Any:
    """Descriptors between head and tail: those that belong to the hardware."""
    left = np.intp(queue.tail) - np.intp(queue.head)
    return left if left >= 0 else left + np.intp(queue.count)


@inlined
def write_back(words: Any, status: Int, info: Int, length: Int, tag: Int, legacy: bool) -> None:
    """One descriptor's write-back, DD last: advanced (7.1.6.2) or legacy (7.1.5)."""
    if legacy:
        flags = np.uint64(status & np.uint32(0xFF)) | np.uint64(status >> np.uint32(30)) << np.uint64(14)
        store_release(words, 1, np.uint64(length) | flags << np.uint64(32) | np.uint64(tag) << np.uint64(48))
        return
    words[0] = info
    second = np.uint64(status) | np.uint64(length) << np.uint64(32) | np.uint64(tag) << np.uint64(48)
    store_release(words, 1, second)


@inlined
def strip_tag(data: Any, at: Int) -> None:
    """Take the VLAN tag out: the packet lies at data[at + 4:] afterwards."""
    for i in range(11, -1, -1):
        data[at + 4 + i] = data[at + i]


@compiled
def with_crc(port: Any, data: Any, at: Int, length: Int) -> Any:
    """A copy of the frame at data[at:at+length] with its CRC behind it."""
    copy = bytes_at(port.scratch, SCRATCH)
    copy_bytes(copy, 0, data, at, length)
    crc = ethernet_crc(copy, 0, length)
    for i in range(4):
        copy[length + i] = np.uint8(crc >> np.uint32(8 * i) & np.uint32(0xFF))
    return copy


@inlined
def sound(port: Any, number: Int, control: Int) -> bool:
    """Whether the data plane can do what SRRCTL says."""
    kind, size = control >> np.uint32(25) & np.uint32(7), control & np.uint32(31)
    if kind not in (_LEGACY, _ADVANCED):
        violate_once(port, Violation.DESCTYPE, number, np.uint64(control))
        return False
    if size == 0 or size > 16:
        violate_once(port, Violation.BSIZEPACKET, number, np.uint64(control))
        return False
    return True


@inlined
def deliver(
    port: Any, queue: Any, windows: Any, number: Int, data: Any, at: Int, length: Int, word: Int, info: Int, size: Int,
    legacy: bool, tag: Int,
) -> bool:  # fmt: skip
    """Write one packet into as many buffers of `size` bytes as it takes; false when the queue has stopped."""
    offset, head = np.intp(0), np.intp(queue.head)
    status = np.uint32(word >> np.uint64(32))
    while True:
        iova = queue.base + np.uint64(head) * np.uint64(16)
        row = find(windows, iova, WRITABLE, np.intp(queue.ring_row))
        queue.ring_row = row
        if row < 0 or reach(windows, row, iova) < 16:
            record_miss(port, iova, np.uint64(16), np.uint64(0))
            queue.running = np.uint8(0)
            return False
        words = descriptor_words(windows, row, iova)
        address, here = words[0], min(size, length - offset)
        if not legacy and words[1] & np.uint64(1):
            violate(port, Violation.RX_DESCRIPTOR_DONE, number, words[1])
        elif address == 0:
            violate(port, Violation.RX_NO_BUFFER, number, np.uint64(head))
        queue.data_row = dma_write(port, windows, address, data, at + offset, here, np.intp(queue.data_row))
        offset += here
        head = head + 1 if head + 1 < np.intp(queue.count) else np.intp(0)
        if offset == length:
            write_back(words, status | DD | EOP, info, here, tag, legacy)
            break
        write_back(words, DD, np.uint64(0), here, 0, legacy)
    queue.head = np.uint32(head)
    return True


@compiled
def deliver_run(port: Any, queue: Any, number: Int, ring: Int, windows: Any, fifo: Any, size: Int, most: Int) -> Int:
    """Deliver untagged frames, a descriptor each, `most` at most, until one needs more care; returns how many.

    The run keeps its place in ring and FIFO in registers, and puts it into the records once: 15 cycles a packet of 60
    bytes instead of 46 (AMD EPYC, 2.6 GHz).
    """
    windows, words, data = borrowed(windows), words64_at(ring, 2 * np.intp(queue.count)), fifo_bytes(fifo)
    low, high, shift = np.uint64(1), np.uint64(0), np.uint64(0)
    head, done, octets, position = np.intp(queue.head), np.intp(0), np.intp(0), np.intp(fifo.head)
    expected = np.uint64(number) << np.uint64(16)
    while done < most:
        at = at_frame(fifo, data, position)
        word, length = load64(data, at), frame_length(data, at)
        address = words[2 * head]
        if word & _QUEUE_AND_TAG != expected or length > size:
            break
        if words[2 * head + 1] & np.uint64(1) or address == 0:
            break
        if not (low <= address and address < high and np.uint64(length) <= high - address):
            row = search(windows, address, WRITABLE)
            if row < 0 or reach(windows, row, address) < length:
                break
            low, high, shift = window_of(windows, row)
        copy_bytes(bytes_at(address + shift, length), 0, data, at + HEADER, length)
        words[2 * head] = load64(data, at + 8)
        status = word >> np.uint64(32) | np.uint64(DD | EOP)
        store_release(words, 2 * head + 1, status | np.uint64(length) << np.uint64(32))
        head = head + 1 if head + 1 < words.size >> 1 else np.intp(0)
        position = at + space_of(length)
        octets += length
        done += 1
    queue.head, fifo.head = np.uint32(head), np.uint64(position)
    fifo.frames -= np.uint64(done)
    fifo.bytes -= np.uint64(octets + 4 * done)
    return done


@compiled
def receive_queue(port: Any, queue: Any, number: Int, fifo: Any, budget: Int) -> Int:
    """Deliver up to `budget` frames from the head of the packet buffer, as long as they are for this queue."""
    registers, windows, block = registers_of(port), windows_of(port), receive_block(number)
    checks_ring(port, queue, number, registers, block, False)
    control = registers[block + SRRCTL]
    size = np.intp(control & np.uint32(31)) * 1024
    plain = control >> np.uint32(25) & np.uint32(7) != _LEGACY and registers[_HLREG0] & CRC_STRIP != 0
    if not sound(port, number, control):
        return np.intp(0)
    queue.ring_row = queue.data_row = np.int64(-1)
    ring = whole_ring(queue, windows) if plain else np.uint64(0)
    done, packets, octets = np.intp(0), np.intp(0), np.intp(0)
    while fifo.frames and done < budget and queue.running:
        if ring:
            before, most = fifo.bytes, min(budget - done, np.intp(fifo.frames), descriptors_left(queue))
            run = deliver_run(port, queue, number, ring, windows, fifo, size, most)
            packets += run
            octets += np.intp(before - fifo.bytes) - 4 * run
            done += run
            if done >= budget or not fifo.frames:
                break
        length = deliver_one(port, queue, number, registers, windows, fifo, control)
        if length == _STAYS:
            break
        done += 1
        if length >= 0:
            packets += 1
            octets += length
    if packets:
        counter = receive_counter(registers, number)
        store_release(registers, block + HEAD, queue.head)
        port.receive_causes[number] = np.uint8(1)
        add(port, _QPRC + counter, packets)
        add(port, _QBRC + counter, octets)
        add(port, _RXDGPC, packets)
        add(port, _RXDGBC, octets)
    return done


@compiled
def deliver_one(port: Any, queue: Any, number: Int, registers: Any, windows: Any, fifo: Any, control: Int) -> Int:
    """Take the oldest frame off the packet buffer, whatever it needs.

    Returns the bytes delivered, or _LOST, or _STAYS when it is not for this queue or waits for descriptors.
    """
    registers, windows, data = borrowed(registers), borrowed(windows), fifo_bytes(fifo)
    position = oldest(fifo, data)
    word, info = load64(data, position), load64(data, position + 8)
    if np.intp(word >> np.uint64(16) & np.uint64(0xFF)) != number:
        return np.intp(_STAYS)
    size, legacy = np.intp(control & np.uint32(31)) * 1024, control >> np.uint32(25) & np.uint32(7) == _LEGACY
    crc = 0 if registers[_HLREG0] & CRC_STRIP else 4
    frame, at, tag = np.intp(word & np.uint64(0xFFFF)), position + HEADER, np.uint32(0)
    tagged = word >> np.uint64(32) & np.uint64(VP) != 0
    strips = tagged and registers[receive_block(number) + CONTROL] & _VME != 0
    length, delivered = frame + crc - (4 if strips else 0), np.intp(_LOST)
    if descriptors_left(queue) * size >= length:
        buffer, start = data, at
        if tagged:
            tag = be16(data, at + 14)
        if crc:
            buffer, start = with_crc(port, data, at, frame), np.intp(0)
        if strips:
            strip_tag(buffer, start)
            start += 4
        if deliver(port, queue, windows, number, buffer, start, length, word, info, size, legacy, tag):
            delivered = length
    elif control & DROP_EN:
        add(port, _QPRDC + receive_counter(registers, number), 1)
    else:
        return np.intp(_STAYS)
    fifo.bytes -= np.uint64(frame + 4)
    pop(fifo, data, position)
    return delivered


@compiled
def receive(port: Any, queues: Any, fifo: Any, budget: Int) -> Int:
    """Deliver up to `budget` frames of a port's packet buffer; returns how many left it."""
    queues = borrowed(queues)
    looks_at_receive_queues(port, queues)
    done, data = np.intp(0), fifo_bytes(fifo)
    while fifo.frames and port.bus_master and done < budget:
        position = oldest(fifo, data)
        number = np.intp(load64(data, position) >> np.uint64(16) & np.uint64(0xFF))
        if not port.receive_enabled[number]:
            # The book leaves open what happens to a packet for a queue that is off: it is dropped here.
            fifo.bytes -= np.uint64(frame_length(data, position) + 4)
            pop(fifo, data, position)
            done += 1
            continue
        if not queues[number].running:
            break
        moved = receive_queue(port, queues[number], number, fifo, budget - done)
        if moved == 0:
            break
        done += moved
    return done
