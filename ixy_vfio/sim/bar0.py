"""BAR0: where its words lie, and what an access to each of them does.

`Bar0` knows the rules of `registers.py` and enforces them. Modules with side effects of their own (link, interrupts,
EEPROM ...) hook themselves in with `on_read` and `on_write`.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.memory import Mapping
from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim.not_simulated import SWITCHES
from ixy_vfio.sim.registers import ALIASES, RULES, Access, Rule

QUEUE_PAGES = (ixgbe.RX_QUEUE_PAGES, ixgbe.TX_QUEUE_PAGES)
TRACE_KEPT = 100_000  # accesses kept for the control socket

Reader = Callable[[int], int]  # index of the register -> value
Writer = Callable[[int, int], None]  # index of the register, value


class TraceSink(Protocol):
    """Where the lines of a trace go."""

    def write(self, text: str, /) -> object:
        """Take a line. Does not raise."""


class Bar0Memory:
    """The words of BAR0. The queue pages lie in a sealed memfd (`fd`) that clients may map; the rest is private.

    The memfd is as large as the BAR, so that the offset of a page is the same in both.
    """

    def __init__(self, name: str, shared: bool) -> None:
        self.fd: int | None = None
        private = os.memfd_create(f"{name}-private", os.MFD_CLOEXEC)
        try:
            os.ftruncate(private, ixgbe.BAR0_SIZE)
            self._mapping = Mapping(private, ixgbe.BAR0_SIZE)
        finally:
            os.close(private)
        if shared:
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, ixgbe.BAR0_SIZE)
            # A client that could shrink it would kill the simulator (SIGBUS).
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            for offset, size in QUEUE_PAGES:
                Mapping(self.fd, size, offset, at=self._mapping.address + offset)
        self.words: NDArray[np.uint32] = np.frombuffer(self._mapping.view, np.uint32)

    def close(self) -> None:
        """Close the memfd. The mapping stays: arrays of the data plane point into it for the life of the process."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


@dataclass(slots=True)
class Cell:
    """One 32-bit register."""

    name: str
    access: Access
    mask: int
    tolerated: int
    at: int  # index of its word
    reset: int = 0
    read: Callable[[], int] | None = None
    write: Callable[[int], None] | None = None


def _named(row: Register, index: int) -> str:
    return row.name if row.count == 1 else f"{row.name}[{index}]"


class Bar0:
    """The registers of one port. `violate` is told of every access that the book forbids."""

    def __init__(self, words: NDArray[np.uint32], violate: Callable[[str], None]) -> None:
        self.words = words
        self.violate = violate
        self.trace: list[tuple[str, int, int]] | None = None  # (operation, offset, value), when switched on
        self.trace_file: TraceSink | None = None
        self.label = ""
        self.tell: Callable[[str], None] = lambda text: None  # told once of each thing that is not simulated
        self._told: set[str] = set()
        self._cells: dict[int, Cell] = {}
        for rule in RULES:
            self._add(rule)
        for alias, row in ALIASES:
            for index in range(alias.count):
                self._cells[alias.offset(index)] = self._cells[row.offset(index)]

    def _add(self, rule: Rule) -> None:
        for index in range(rule.row.count):
            offset = rule.row.offset(index)
            reset = 0 if rule.reset_first and index else rule.reset
            name = _named(rule.row, index)
            self._cells[offset] = Cell(name, rule.access, rule.mask, rule.tolerated, offset // 4, reset)

    def on_read(self, row: Register, reader: Reader, first: int = 0) -> None:
        """Let `reader(index)` answer reads of the row from index `first` on."""
        for index in range(first, row.count):
            self._cells[row.offset(index)].read = partial(reader, index)

    def on_write(self, row: Register, writer: Writer) -> None:
        """Let `writer(index, value)` act on writes to the row; reserved bits are checked before it is called."""
        for index in range(row.count):
            self._cells[row.offset(index)].write = partial(writer, index)

    def add_counter(self, row: Register, reader: Reader) -> None:
        """A row of counters: read only, `reader(index)` reads and clears."""
        self._add(Rule(row, Access.RC, 0, 0, 0, False))
        self.on_read(row, reader)

    def get(self, row: Register, index: int = 0) -> int:
        """The stored value, without side effects."""
        return int(self.words[row.offset(index) // 4])

    def set(self, row: Register, value: int, index: int = 0) -> None:
        """Store a value, without side effects or checks."""
        self.words[row.offset(index) // 4] = value

    def reset(self, keep: tuple[Register, ...] = ()) -> None:
        """Give every register its reset value, but for those rows."""
        kept = {row.offset(index) // 4 for row in keep for index in range(row.count)}
        kept_values = {at: self.words[at] for at in kept}
        self.words[:] = 0
        for cell in self._cells.values():
            if cell.reset:
                self.words[cell.at] = cell.reset
        for at, value in kept_values.items():
            self.words[at] = value

    def read(self, offset: int) -> int:
        """A 32-bit read by software."""
        cell = self._cells.get(offset)
        if cell is None:
            self.violate(f"read of {offset:#07x}: no such register")
            return 0
        value = int(self.words[cell.at]) if cell.read is None else cell.read()
        if cell.access is Access.RC and cell.read is None:
            self.words[cell.at] = 0
        self._record("read", offset, value, cell.name)
        return value

    def write(self, offset: int, value: int) -> None:
        """A 32-bit write by software."""
        cell = self._cells.get(offset)
        self._record("write", offset, value, cell.name if cell else "?")
        if cell is None:
            self.violate(f"write of {value:#010x} to {offset:#07x}: no such register")
            return
        switch = SWITCHES.get(offset)
        if switch is not None and value & switch[0] and switch[1] not in self._told:
            self._told.add(switch[1])
            self.tell(f"{switch[1]} are switched on, and not simulated: packets pass as if they were off")
        held = int(self.words[cell.at])
        if cell.access in (Access.RO, Access.RC):
            if (value ^ held) & ~cell.tolerated:
                self.violate(f"{cell.name}: write of {value:#010x} to a read-only register")
            return
        expected = 0 if cell.access is Access.W1C else held
        wrong = (value ^ expected) & ~(cell.mask | cell.tolerated)
        if wrong:
            self.violate(f"{cell.name}: write of {value:#010x} changes reserved or read-only bits {wrong:#010x}")
        if cell.write is not None:
            cell.write(value)
        elif cell.access is Access.W1C:
            self.words[cell.at] = held & ~value
        else:
            self.words[cell.at] = held & ~cell.mask | value & cell.mask

    def merge(self, row: Register, value: int, index: int = 0) -> int:
        """Store the writable bits of `value` and return what the register then holds; for writers."""
        cell = self._cells[row.offset(index)]
        merged = int(self.words[cell.at]) & ~cell.mask | value & cell.mask
        self.words[cell.at] = merged
        return merged

    def _record(self, operation: str, offset: int, value: int, name: str) -> None:
        if self.trace is not None and len(self.trace) < TRACE_KEPT:
            self.trace.append((operation, offset, value))
        if self.trace_file is not None:
            self.trace_file.write(f"{self.label}{operation} {offset:#07x} {value:#010x} {name}\n")
