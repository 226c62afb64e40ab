"""Interrupts: from causes to messages, or to the one signal of MSI and INTx (82599 datasheet, 7.3 and 8.2.3.5).

Two kinds of causes. Queue causes are bits 0-15 of EICR, which in MSI-X mode stand for vectors 0-15; vectors 16-63
have mask bits in EIMS_EX only. Other causes (link status change ...) are EICR bits 16-30. IVAR says which vector or
bit a queue has, IVAR_MISC the vector of the other causes.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.bar0 import Bar0

QUEUE_BITS = 0x0000_FFFF
OTHER_BITS = 0x7FFF_0000
LINK_STATUS_CHANGE = 1 << 20
TCP_TIMER = 1 << 30
CLEARED_DESPITE_OCD = 0x3FFF_0000  # bits 16-29
GPIE_MSIX, GPIE_OCD, GPIE_EIAME = 1 << 4, 1 << 5, 1 << 30
IVAR_VALID = 0x80
VECTORS = 64
ALL_VECTORS = (1 << VECTORS) - 1
EITR_INTERVAL, EITR_UNIT = 0x0000_0FF8, 2.048e-6  # bits 3-11 count units of 2.048 us at 10 Gbit/s
EITR_STORED = 0x001F_8FF8
EITR_COUNTER_SHIFT, EITR_COUNTER_KEEP = 21, 1 << 31  # bits 27:21 are the high bits of the running counter


def _numbers(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set, and nothing spent on the others: `tick` runs at every step that waits."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class Outlet(Protocol):
    """What interrupts go out by (`signals.Signals`)."""

    def message(self, vector: int) -> None:
        """Send the MSI-X message of a vector, now or once it is unmasked."""

    def rise(self) -> None:
        """Outside MSI-X mode: an unmasked cause has come up."""

    def fall(self) -> None:
        """Outside MSI-X mode: no unmasked cause is left."""


class Interrupts:
    """The interrupt logic of one port."""

    def __init__(self, bar: Bar0, outlet: Outlet, clock: Callable[[], float]) -> None:
        self._bar = bar
        self._outlet = outlet
        self._clock = clock
        self.reset()
        bar.on_read(ixgbe.EICR, self._read_eicr)
        bar.on_write(ixgbe.EICR, lambda _, value: self._write_eicr(value))
        bar.on_read(ixgbe.EICS, lambda _: self.causes)
        bar.on_write(ixgbe.EICS, lambda _, value: self._raise(value & QUEUE_BITS, value & OTHER_BITS))
        bar.on_read(ixgbe.EIMS, lambda _: self._queue_mask & QUEUE_BITS | self._other_mask)
        bar.on_write(ixgbe.EIMS, lambda _, value: self._enable(value & QUEUE_BITS, value & ~QUEUE_BITS))
        bar.on_read(ixgbe.EIMC, lambda _: 0)
        bar.on_write(ixgbe.EIMC, lambda _, value: self._disable(value & QUEUE_BITS, value & ~QUEUE_BITS))
        bar.on_read(ixgbe.EICS_EX, lambda _: 0)
        bar.on_write(ixgbe.EICS_EX, lambda index, value: self._raise(value << 32 * index, 0))
        bar.on_read(ixgbe.EIMS_EX, lambda index: self._queue_mask >> 32 * index & 0xFFFF_FFFF)
        bar.on_write(ixgbe.EIMS_EX, lambda index, value: self._enable(value << 32 * index, 0))
        bar.on_read(ixgbe.EIMC_EX, lambda _: 0)
        bar.on_write(ixgbe.EIMC_EX, lambda index, value: self._disable(value << 32 * index, 0))
        bar.on_read(ixgbe.EITR, self._read_eitr)
        bar.on_write(ixgbe.EITR, self._write_eitr)

    def reset(self) -> None:
        """No cause, all masked."""
        self._queue_causes = self._queue_mask = 0  # by vector in MSI-X mode, by EICR bit else
        self._other_causes = self._other_mask = 0
        self._waiting = 0  # vectors whose message waits for EITR
        self._open_at = [0.0] * VECTORS  # when EITR lets the next message of a vector out
        self._outlet.fall()

    @property
    def causes(self) -> int:
        """EICR, without the side effects of reading it."""
        active = 1 << 31 if self._other_causes & self._other_mask else 0
        return self._queue_causes & QUEUE_BITS | self._other_causes | active

    @property
    def _msix(self) -> bool:
        return bool(self._bar.get(ixgbe.GPIE) & GPIE_MSIX)

    def queue(self, queue: int, transmit: bool) -> None:
        """A receive or transmit queue has written descriptors back."""
        entry = self._bar.get(ixgbe.IVAR, queue // 2) >> 8 * (2 * (queue % 2) + transmit) & 0xFF
        if entry & IVAR_VALID:
            bit = entry & (VECTORS - 1 if self._msix else 15)
            self._raise(1 << bit, 0)

    def other(self, causes: int) -> None:
        """Other causes have come up: EICR bits."""
        self._raise(0, causes & OTHER_BITS)

    def tick(self, now: float) -> float | None:
        """Send the messages whose time has come; returns when the next one's comes."""
        soonest: float | None = None
        for vector in _numbers(self._waiting):
            if now >= self._open_at[vector]:
                self._send(vector, now)
            elif soonest is None or self._open_at[vector] < soonest:
                soonest = self._open_at[vector]
        return soonest

    def _raise(self, queues: int, others: int) -> None:
        self._queue_causes |= queues
        self._other_causes |= others
        self._assert(queues & self._queue_mask, others & self._other_mask)

    def _enable(self, queues: int, others: int) -> None:
        """Mask bits set: a cause that has been waiting for it is sent now."""
        queues &= ~self._queue_mask
        others &= ~self._other_mask
        self._queue_mask |= queues
        self._other_mask |= others
        self._assert(self._queue_causes & queues, self._other_causes & others)

    def _disable(self, queues: int, others: int) -> None:
        self._queue_mask &= ~queues
        self._other_mask &= ~others
        self._forget_masked()

    def _assert(self, queues: int, others: int) -> None:
        """Unmasked causes have come up: their vectors want to send."""
        if not queues and not others:
            return
        if not self._msix:
            self._waiting |= 1
        else:
            self._waiting |= queues
            misc = self._bar.get(ixgbe.IVAR_MISC)
            for bits, entry in ((others & TCP_TIMER, misc & 0xFF), (others & ~TCP_TIMER, misc >> 8 & 0xFF)):
                if bits and entry & IVAR_VALID:
                    self._waiting |= 1 << (entry & (VECTORS - 1))
        self.tick(self._clock())

    def _others_of(self, vector: int) -> int:
        """The other causes that IVAR_MISC gives to a vector."""
        misc, bits = self._bar.get(ixgbe.IVAR_MISC), 0
        if misc & 0xFF == IVAR_VALID | vector:
            bits |= TCP_TIMER
        if misc >> 8 & 0xFF == IVAR_VALID | vector:
            bits |= OTHER_BITS & ~TCP_TIMER
        return bits

    def _forget_masked(self) -> None:
        """A vector that waits and has no unmasked cause left does not send; without one the line is down."""
        for vector in _numbers(self._waiting):
            if not (self._alive(1 << vector, self._others_of(vector)) if self._msix else self._alive()):
                self._waiting &= ~(1 << vector)
        if not self._alive():
            self._outlet.fall()

    def _alive(self, queues: int = QUEUE_BITS, others: int = OTHER_BITS) -> bool:
        """Whether any of these causes is up and not masked."""
        return bool(self._queue_causes & self._queue_mask & queues or self._other_causes & self._other_mask & others)

    def _send(self, vector: int, now: float) -> None:
        self._waiting &= ~(1 << vector)
        interval = (self._bar.get(ixgbe.EITR, vector) & EITR_INTERVAL) >> 3
        self._open_at[vector] = now + interval * EITR_UNIT
        if self._msix:
            self._auto_clear_and_mask(vector)
            self._outlet.message(vector)
        else:
            self._outlet.rise()

    def _auto_clear_and_mask(self, vector: int) -> None:
        """EIAC clears the causes of a message that was sent, EIAM masks them (GPIE.EIAME). Section 7.3.1.3."""
        bar, bit, others = self._bar, 1 << vector, self._others_of(vector)
        auto_clear = bar.get(ixgbe.EIAC)
        self._queue_causes &= ~(bit & (auto_clear & QUEUE_BITS | ALL_VECTORS & ~QUEUE_BITS))
        self._other_causes &= ~(others & auto_clear)
        if bar.get(ixgbe.GPIE) & GPIE_EIAME:
            auto_mask = bar.get(ixgbe.EIAM)
            queues = bar.get(ixgbe.EIAM_EX, 0) | bar.get(ixgbe.EIAM_EX, 1) << 32 | auto_mask & QUEUE_BITS
            self._queue_mask &= ~(bit & queues)
            self._other_mask &= ~(others & auto_mask)

    def _read_eicr(self, _: int) -> int:
        """Reading clears: all, or bits 16-29 only with GPIE.OCD. Outside MSI-X mode EIAM masks what was set."""
        value = self.causes
        clears = CLEARED_DESPITE_OCD if self._bar.get(ixgbe.GPIE) & GPIE_OCD else 0xFFFF_FFFF
        self._clear(value & clears)
        self._auto_mask(value)
        return value

    def _write_eicr(self, value: int) -> None:
        self._clear(value)
        self._auto_mask(value)

    def _clear(self, bits: int) -> None:
        self._queue_causes &= ~(bits & QUEUE_BITS)
        self._other_causes &= ~(bits & OTHER_BITS)
        self._forget_masked()

    def _auto_mask(self, bits: int) -> None:
        if not self._bar.get(ixgbe.GPIE) & GPIE_EIAME:
            masked = bits & self._bar.get(ixgbe.EIAM)
            self._disable(masked & QUEUE_BITS, masked & OTHER_BITS)

    def _read_eitr(self, index: int) -> int:
        """The running counter's high bits stand in 27:21."""
        left = 0.0
        if index < VECTORS:
            left = max(0.0, self._open_at[index] - self._clock())
        counter = min(int(left / EITR_UNIT) >> 2, 0x7F)
        return self._bar.get(ixgbe.EITR, index) & EITR_STORED | counter << EITR_COUNTER_SHIFT

    def _write_eitr(self, index: int, value: int) -> None:
        self._bar.set(ixgbe.EITR, value & EITR_STORED, index)
        if index < VECTORS and not value & EITR_COUNTER_KEEP:
            counter = value >> EITR_COUNTER_SHIFT & 0x7F
            self._open_at[index] = self._clock() + (counter << 2) * EITR_UNIT
            self.tick(self._clock())
