"""Statistics registers: the counters of the data plane, read and cleared the way the book says (8.2.3.23)."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim.bar0 import Bar0, Reader

MAX_32 = 0xFFFF_FFFF
MAX_36 = 0xF_FFFF_FFFF  # octet counters: 32 bits low, 4 bits high


class Counters(Protocol):
    """The counters of a port by name, and their array."""

    values: NDArray[np.uint64]

    def __getitem__(self, name: str) -> int:
        """The value of a counter."""

    def __setitem__(self, name: str, value: int) -> None:
        """Set a counter."""

    def __contains__(self, name: str) -> bool:
        """Whether there is one of that name."""


# 36-bit counters: (name in the data plane, low register, high register).
OCTETS: tuple[tuple[str, Register, Register], ...] = (
    ("GORC", ixgbe.GORCL, ixgbe.GORCH),
    ("GOTC", ixgbe.GOTCL, ixgbe.GOTCH),
    ("TOR", ixgbe.TORL, ixgbe.TORH),
    ("QBRC", ixgbe.QBRC_L, ixgbe.QBRC_H),
    ("QBTC", ixgbe.QBTC_L, ixgbe.QBTC_H),
    ("RXDGBC", ixgbe.RXDGBCL, ixgbe.RXDGBCH),
    ("TXDGBC", ixgbe.TXDGBCL, ixgbe.TXDGBCH),
)
# The same counter at the place of the 82598.
OTHER_PLACES: tuple[tuple[Register, str], ...] = ((ixgbe.QPTC, "QPTC"), (ixgbe.QPTC_82599, "QPTC"))


def _plain_rows() -> Iterable[Register]:
    special = {row.name for _, low, high in OCTETS for row in (low, high)} | {row.name for row, _ in OTHER_PLACES}
    special |= {"RQSMR", "RXDSTATCTRL", "TQSM"}
    return (row for row in ixgbe.ALL if row.section == "8.2.3.23" and row.name not in special)


class Statistics:
    """Serves the statistics registers of one port."""

    def __init__(self, bar: Bar0, counters: Counters) -> None:
        self._counters = counters
        self._latched: dict[str, int] = {}  # high parts of 36-bit counters whose low part was read
        for row in _plain_rows():
            names = [row.name if row.count == 1 else f"{row.name}{index}" for index in range(row.count)]
            bar.add_counter(row, self._reader(names))
        for row, name in OTHER_PLACES:
            bar.add_counter(row, self._reader([f"{name}{index}" for index in range(row.count)]))
        for name, low, high in OCTETS:
            self._add_octets(bar, name, low, high)

    def clear(self) -> None:
        """All counters to 0 (device reset)."""
        self._counters.values[:] = 0
        self._latched.clear()

    def _take(self, name: str) -> int:
        if name not in self._counters:
            return 0
        value = self._counters[name]
        self._counters[name] = 0
        return value

    def _reader(self, names: list[str]) -> Reader:
        return lambda index: min(self._take(names[index]), MAX_32)

    def _add_octets(self, bar: Bar0, name: str, low: Register, high: Register) -> None:
        names = [name if low.count == 1 else f"{name}{index}" for index in range(low.count)]

        def read_low(index: int) -> int:
            """The whole counter is taken: its high part waits for the read of the high register."""
            value = min(self._take(names[index]) + (self._latched.get(names[index], 0) << 32), MAX_36)
            self._latched[names[index]] = value >> 32
            return value & MAX_32

        def read_high(index: int) -> int:
            return self._latched.pop(names[index], 0)

        bar.add_counter(low, read_low)
        bar.add_counter(high, read_high)
