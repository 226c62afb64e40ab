"""Interrupts (82576 datasheet, 7.3 and 8.8): MSI-X vectors, their causes, and their eventfds.

Vector i serves receive queue i, the one after the last queue link changes, where they are asked for. Causes clear
themselves (EIAC), and nothing masks itself: EIAM is 0 after the reset. EICR is never read: 8.8.5 forbids it then.
"""

from dataclasses import dataclass

from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.drivers.igb.regs import EIAC, EIMC, EIMS, EITR, GPIE, ICR, IMC, IMS, IVAR, IVAR_MISC

ITR_UNIT = 1e-6  # seconds
MOST_INTERVAL = (1 << 13) - 1


@section("8.8")
def disable_all(bar: Mmio) -> None:
    """Mask every vector and every other cause. (A 0 in EIMS or IMS would do nothing.)"""
    IMC(causes=0xFFFF_FFFF).write(bar)
    EIMC(vectors=(1 << 25) - 1).write(bar)


@dataclass(frozen=True, slots=True)
class Irq:
    """Of one model: the 82576 keeps queues n and n + 8 in one IVAR, later ones 2n and 2n + 1."""

    later: bool
    most_queues: int
    disable_all = staticmethod(disable_all)

    def itr_interval(self, seconds: float) -> int:
        """EITR.INTERVAL for the shortest time between two interrupts. UsageError outside what 13 bits can say."""
        interval = round(seconds / ITR_UNIT)
        if not 0 <= interval <= MOST_INTERVAL:
            raise UsageError(f"interrupt interval {seconds:g} s: 0 to {MOST_INTERVAL * ITR_UNIT:g} s are possible")
        return interval

    @section("7.3.1.2")
    def enable(self, bar: Mmio, queues: int, interval: int, *, link: bool) -> None:
        """Route causes to their vectors (a transmit queue has none), and unmask them. QEMU's EIAC wants GPIE first."""
        GPIE(nsicr=1, multiple_msix=1, pba_support=1).write(bar)
        EIAC(vectors=(1 << queues + link) - 1).write(bar)
        registers = self.most_queues // 2
        for n in range(registers):
            low, high = (2 * n, 2 * n + 1) if self.later else (n, n + registers)
            ivar = IVAR()
            if low < queues:
                ivar = ivar.replace(rx_low=low, rx_low_valid=1)
            if high < queues:
                ivar = ivar.replace(rx_high=high, rx_high_valid=1)
            ivar.write(bar, n)
        for vector in range(queues):
            EITR(interval=interval).write(bar, vector)
        for vector in range(queues):
            self.unmask(bar, vector)
        if link:
            IVAR_MISC(other=queues, other_valid=1).write(bar)
            EITR().write(bar, queues)
            self.acknowledge_link(bar)
            IMS(lsc=1).write(bar)
            self.unmask(bar, queues)

    def mask(self, bar: Mmio, vector: int) -> None:
        """No more interrupts of this vector."""
        EIMC(vectors=1 << vector).write(bar)

    def unmask(self, bar: Mmio, vector: int) -> None:
        """Interrupts of this vector again, at once if its cause is pending."""
        EIMS(vectors=1 << vector).write(bar)

    def acknowledge_link(self, bar: Mmio) -> None:
        """Clear the link cause, so that the next change raises an interrupt."""
        ICR(lsc=1).write(bar)
