"""Interrupts: MSI-X vectors, their causes, and their eventfds. Datasheet section 4.6.6 (and 7.3).

Vector i serves receive queue i, the vector after the last queue link changes, where they are asked for. Queue causes
clear themselves (EIAC), and nothing masks itself (EIAM): a worker has no register to unmask with. EICR is never read,
because a read takes away what EIAC is to clear; the link cause is cleared by writing it.
"""

from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.drivers.ixgbe.regs.general import (
    EIAC,
    EIAM,
    EICR,
    EIMC,
    EIMC_EX,
    EIMS,
    EIMS_EX,
    EITR,
    GPIE,
    IVAR,
    IVAR_MISC,
)

ITR_UNIT = 2e-6  # seconds; at 10 Gbit/s, 20 us at 1 Gbit/s


def itr_interval(seconds: float) -> int:
    """EITR.ITR_INTERVAL for the shortest time between two interrupts. UsageError outside what 9 bits can say."""
    interval = round(seconds / ITR_UNIT)
    if not 0 <= interval < 1 << 9:
        raise UsageError(f"interrupt interval {seconds:g} s: 0 to {511 * ITR_UNIT:g} s are possible")
    return interval


@section("4.6.3.1")
def disable_all(bar: Mmio) -> None:
    """Mask every cause: those of EIMC, and vectors 16-63, which only EIMC_EX has. (A 0 in EIMS would do nothing.)"""
    EIMC(causes=0x7FFF_FFFF).write(bar)
    for n in range(2):
        EIMC_EX(vectors=0xFFFF_FFFF).write(bar, n)


@section("4.6.6")
def enable(bar: Mmio, queues: int, interval: int, *, link: bool) -> None:
    """Route the causes to their vectors, and unmask them. Nobody waits for a transmit queue: it has no vector."""
    GPIE(multiple_msix=1, ocd=1, pba_support=1).write(bar)
    EIAC(rtxq=0xFFFF).write(bar)
    EIAM().write(bar)
    for pair in range((queues + 1) // 2):
        even, odd = 2 * pair, 2 * pair + 1
        ivar = IVAR(rx_even=even, rx_even_valid=1)
        if odd < queues:
            ivar = ivar.replace(rx_odd=odd, rx_odd_valid=1)
        ivar.write(bar, pair)
    for vector in range(queues):
        EITR(itr_interval=interval, cnt_wdis=1).write(bar, vector)
    for vector in range(queues):
        unmask(bar, vector)
    if link:
        IVAR_MISC(other=queues, other_valid=1).write(bar)
        EITR(cnt_wdis=1).write(bar, queues)
        acknowledge_link(bar)
        EIMS(lsc=1).write(bar)


def mask(bar: Mmio, vector: int) -> None:
    """No more interrupts of this vector."""
    EIMC_EX(vectors=1 << vector % 32).write(bar, vector // 32)


def unmask(bar: Mmio, vector: int) -> None:
    """Interrupts of this vector again, at once if its cause is pending."""
    EIMS_EX(vectors=1 << vector % 32).write(bar, vector // 32)


def acknowledge_link(bar: Mmio) -> None:
    """Clear the link cause, so that the next change raises an interrupt."""
    EICR(lsc=1).write(bar)
