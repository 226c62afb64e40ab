"""What all compiled parts of the data plane do with a port's record: registers, counters, violations, queue state."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import borrowed, load_acquire, store_release, words32_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.state import QUEUES, VIOLATIONS_KEPT, Int, Violation

# Words of a queue's register block (0x40 bytes), the same for receive and transmit: 8.2.3.8, 8.2.3.9.
BASE_LOW, BASE_HIGH, LENGTH, HEAD, SRRCTL, TAIL, CONTROL = 0, 1, 2, 4, 5, 6, 10
ENABLE = np.uint32(1 << 25)  # RXDCTL.ENABLE, TXDCTL.ENABLE
_WORDS = ixgbe.BAR0_SIZE // 4
_RECEIVE_LOW, _RECEIVE_HIGH = ixgbe.RDBAL.offset(0) // 4, ixgbe.RDBAL.offset(64) // 4
_TRANSMIT = ixgbe.TDBAL.offset(0) // 4
_RQSMR, _TQSM = ixgbe.RQSMR.offset() // 4, ixgbe.TQSM.offset() // 4


@inlined
def registers_of(port: Any) -> Any:
    """BAR0 of a port as 32-bit words."""
    return words32_at(port.registers, _WORDS)


@inlined
def receive_block(queue: Int) -> Any:
    """Index of the first word of a receive queue's registers."""
    low, high = np.intp(_RECEIVE_LOW), np.intp(_RECEIVE_HIGH)
    return low + queue * 16 if queue < 64 else high + (queue - 64) * 16


@inlined
def transmit_block(queue: Int) -> Any:
    """Index of the first word of a transmit queue's registers."""
    return np.intp(_TRANSMIT) + queue * 16


@inlined
def receive_counter(registers: Any, queue: Int) -> Any:
    """Which of the 16 statistics registers counts a receive queue (RQSMR, 8.2.3.23)."""
    return np.intp((registers[_RQSMR + (queue >> 2)] >> np.uint32(8 * (queue & 3))) & np.uint32(15))


@inlined
def transmit_counter(registers: Any, queue: Int) -> Any:
    """Which of the 16 statistics registers counts a transmit queue (TQSM, 8.2.3.23)."""
    return np.intp((registers[_TQSM + (queue >> 2)] >> np.uint32(8 * (queue & 3))) & np.uint32(15))


@compiled
def violate(port: Any, kind: Violation, queue: Int, value: Int) -> None:
    """Record that the driver broke a rule of the book."""
    at = 3 * np.intp(port.violations % np.uint64(VIOLATIONS_KEPT))
    port.violated[at] = np.uint64(kind)
    port.violated[at + 1] = np.uint64(queue)
    port.violated[at + 2] = np.uint64(value)
    port.violations += np.uint64(1)


@compiled
def violate_once(port: Any, kind: Violation, queue: Int, value: Int) -> None:
    """`violate`, but only the first time since the port was reset."""
    bit = np.uint64(1) << np.uint64(kind)
    if not port.reported & bit:
        port.reported |= bit
        violate(port, kind, np.intp(queue), np.uint64(value))


@inlined
def add(port: Any, counter: Int, amount: Int) -> None:
    """Add to a counter."""
    port.statistics[counter] += np.uint64(amount)


@inlined
def size_class(octets: Int) -> Any:
    """0..5 for a packet of `octets` with CRC: PRC64, PRC127, PRC255, PRC511, PRC1023, PRC1522 (and PTC...)."""
    if octets <= 64:
        return 0
    if octets < 128:
        return 1
    if octets < 256:
        return 2
    if octets < 512:
        return 3
    return 4 if octets < 1024 else 5


@inlined
def starts_running(port: Any, queue: Any, number: Int, registers: Any, block: Int, transmits: bool) -> None:
    """Take base, length and head of a queue over, as the hardware does when ENABLE turns 1."""
    base = np.uint64(registers[block + BASE_LOW]) | np.uint64(registers[block + BASE_HIGH]) << np.uint64(32)
    length = registers[block + LENGTH]
    queue.base = base & ~np.uint64(127)
    queue.length = length
    queue.count = length >> np.uint32(4)
    queue.head = load_acquire(registers, block + HEAD)
    queue.tail = np.uint32(0)
    queue.running = np.uint8(1)
    queue.context_valid[0] = queue.context_valid[1] = np.uint8(0)
    if base & np.uint64(127):
        violate(port, Violation.TX_BASE if transmits else Violation.RX_BASE, number, base)
    if length == 0 or length > np.uint32(512 << 10) or length & np.uint32(127):
        queue.running = np.uint8(0)
        violate(port, Violation.TDLEN if transmits else Violation.RDLEN, number, np.uint64(length))
    elif queue.head >= queue.count:
        queue.head = np.uint32(0)


@inlined
def checks_ring(port: Any, queue: Any, number: Int, registers: Any, block: Int, transmits: bool) -> None:
    """Head, base and length belong to the hardware while the queue is enabled."""
    head = load_acquire(registers, block + HEAD)
    if head != queue.head:
        violate(port, Violation.TDH_WRITTEN if transmits else Violation.RDH_WRITTEN, number, np.uint64(head))
        store_release(registers, block + HEAD, queue.head)
    base = np.uint64(registers[block + BASE_LOW]) | np.uint64(registers[block + BASE_HIGH]) << np.uint64(32)
    if base & ~np.uint64(127) != queue.base or registers[block + LENGTH] != queue.length:
        violate(port, Violation.TX_RING_CHANGED if transmits else Violation.RX_RING_CHANGED, number, base)
        queue.base, queue.length = base & ~np.uint64(127), registers[block + LENGTH]


@inlined
def takes_tail(port: Any, queue: Any, number: Int, tail: Int, transmits: bool) -> None:
    """A doorbell of a running queue."""
    if tail < queue.count:
        queue.tail = tail
    else:
        violate(port, Violation.TDT_OUTSIDE if transmits else Violation.RDT_OUTSIDE, number, np.uint64(tail))


@inlined
def looks_at(
    port: Any, queue: Any, number: Int, registers: Any, block: Int, tails: Any, enabled: Any, transmits: bool
) -> None:
    """Follow a queue's enable bit and doorbell. The tail is read first: a driver enables before it rings."""
    tail = load_acquire(registers, block + TAIL)
    enable = np.uint8(load_acquire(registers, block + CONTROL) & ENABLE != 0)
    if enable == enabled[number] and tail == tails[number]:
        return
    if enable and not enabled[number]:
        starts_running(port, queue, number, registers, block, transmits)
    elif not enable:
        queue.running = np.uint8(0)
        if tail != tails[number] and tail != 0 and not enabled[number]:
            violate(
                port,
                Violation.TX_DOORBELL_DISABLED if transmits else Violation.RX_DOORBELL_DISABLED,
                number,
                np.uint64(tail),
            )
    enabled[number] = enable
    tails[number] = tail
    if queue.running:
        takes_tail(port, queue, number, tail, transmits)


@compiled
def looks_at_receive_queues(port: Any, queues: Any) -> None:
    """Follow enable bits and doorbells of all receive queues of a port."""
    queues = borrowed(queues)
    registers = registers_of(port)
    tails, enabled = port.receive_tails, port.receive_enabled
    for number in range(QUEUES):
        looks_at(port, queues[number], number, registers, receive_block(number), tails, enabled, False)


@compiled
def looks_at_transmit_queues(port: Any, queues: Any) -> None:
    """Follow enable bits and doorbells of all transmit queues of a port."""
    queues = borrowed(queues)
    registers = registers_of(port)
    tails, enabled = port.transmit_tails, port.transmit_enabled
    for number in range(QUEUES):
        looks_at(port, queues[number], number, registers, transmit_block(number), tails, enabled, True)
