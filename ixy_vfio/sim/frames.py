"""Frame FIFOs: the packet buffer of a port, and what waits for a cable.

A FIFO is a ring of bytes. Each frame lies in one piece behind a header of 16 bytes, all multiples of 16; a header of
all ones says that the ring goes on at position 0. Frames are pushed as *pending*; the MAC of the receiving port (or
`accept_all`, where there is none) makes them readable. An empty FIFO starts again at 0, so that a short queue stays
in the processor's cache.

Header: word 0 = length | queue << 16 | extended status << 32, word 1 = what the first word of a receive descriptor's
write-back says (RSS type, packet type, hash). Only the length counts for frames that no MAC has checked.
"""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import bytes_at, copy_bytes, load64, store64
from ixy_vfio.sim.state import Int

CAPACITY = 2 << 20  # the 82599's largest packet buffer (512 KiB) of smallest frames, headers, and a step's worth more
HEADER = 16
GO_ON_AT_0 = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MAX_FRAME = 16128  # the largest MAXFRS.MFS, with CRC


@inlined
def space_of(length: Int) -> Any:
    """How many bytes of a FIFO a frame of `length` bytes takes."""
    return HEADER + ((np.intp(length) + 15) & ~15)


@inlined
def fifo_bytes(fifo: Any) -> Any:
    """The bytes of a FIFO."""
    return bytes_at(fifo.data, np.intp(fifo.capacity))


@inlined
def reserve(fifo: Any, data: Any, length: Int) -> Any:
    """The position where a frame of `length` bytes would go, or -1 when there is no room for it."""
    if fifo.frames + fifo.pending == np.uint64(0):
        fifo.head = fifo.tail = fifo.checked = np.uint64(0)
    tail, head, space = np.intp(fifo.tail), np.intp(fifo.head), space_of(length)
    if tail < head or (tail == head and tail > 0):
        return tail if tail + space < head else np.intp(-1)
    if tail + space <= np.intp(fifo.capacity):
        return tail
    if space >= head:
        return np.intp(-1)
    if tail < np.intp(fifo.capacity):
        store64(data, tail, GO_ON_AT_0)
    return np.intp(0)


@inlined
def push(fifo: Any, data: Any, position: Int, length: Int) -> None:
    """Add the frame that was written behind the header at `position` (from `reserve`) to the pending ones."""
    store64(data, position, np.uint64(length))
    fifo.tail = np.uint64(position + space_of(length))
    fifo.pending += np.uint64(1)


@inlined
def straight_end(fifo: Any, position: Int) -> Any:
    """How far frames can be laid one behind the other from `position` (of `reserve`) on, before `reserve` is asked."""
    head = np.intp(fifo.head)
    return head - 1 if position < head else np.intp(fifo.capacity)


@inlined
def pushed(fifo: Any, tail: Int, frames: Int) -> None:
    """Add `frames` frames to the pending ones, which were laid, with their headers, up to `tail`."""
    fifo.tail = np.uint64(tail)
    fifo.pending += np.uint64(frames)


@inlined
def at_frame(fifo: Any, data: Any, position: Int) -> Any:
    """Where the frame at `position` really is: there, or at 0."""
    if position == np.intp(fifo.capacity) or load64(data, position) == GO_ON_AT_0:
        return np.intp(0)
    return np.intp(position)


@inlined
def frame_length(data: Any, position: Int) -> Any:
    """Length of the frame at `position`, without CRC."""
    return np.intp(load64(data, position) & np.uint64(0xFFFF))


@inlined
def oldest(fifo: Any, data: Any) -> Any:
    """Position of the oldest readable frame; there must be one (`fifo.frames` > 0)."""
    return at_frame(fifo, data, np.intp(fifo.head))


@inlined
def pop(fifo: Any, data: Any, position: Int) -> None:
    """Remove the oldest readable frame, which lies at `position`."""
    length = frame_length(data, position)
    fifo.head = np.uint64(position + space_of(length))
    fifo.frames -= np.uint64(1)


@inlined
def accept_all(fifo: Any) -> None:
    """Make all pending frames readable: nobody looks at them first."""
    fifo.frames += fifo.pending
    fifo.pending = np.uint64(0)
    fifo.checked = fifo.tail


@compiled
def push_frame(fifos: Any, number: Int, frame: Any, length: Int) -> bool:
    """Push the first `length` bytes of an array into FIFO `number`; false when there is no room."""
    fifo = fifos[number]
    data = fifo_bytes(fifo)
    position = reserve(fifo, data, length)
    if position < 0:
        return False
    copy_bytes(data, position + HEADER, frame, 0, length)
    push(fifo, data, position, length)
    return True


@compiled
def pop_frame(fifos: Any, number: Int, frame: Any) -> Int:
    """Pop the oldest frame of FIFO `number` into an array; its length, or -1 when there is none."""
    fifo = fifos[number]
    if not fifo.frames:
        return np.intp(-1)
    data = fifo_bytes(fifo)
    position = oldest(fifo, data)
    length = frame_length(data, position)
    copy_bytes(frame, 0, data, position + HEADER, length)
    pop(fifo, data, position)
    return length
