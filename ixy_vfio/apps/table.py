"""The live table of a run: redrawn in place on a terminal, appended elsewhere.

On a terminal the cursor waits at the table's first line, above what was drawn: so the next table begins where this one
did, also when the terminal was made narrower meanwhile and has wrapped its lines anew.
"""

import contextlib
import os
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from ixy_vfio.apps import drops
from ixy_vfio.apps.units import quantity

WIDE = 80  # columns from which on there is room for the total, too
_CLEAR = "\r\x1b[J"  # from the beginning of this line to the end of the screen


def _row(wide: bool, name: str, packets: str, bits: str, dropped: str, forwarded: str) -> str:
    """59 or 75 columns: a terminal's last column stays empty, as some wrap when it is written."""
    return f"{name:28} {packets:>9} {bits:>11} {dropped:>8}" + (f" {forwarded:>15}" if wide else "")


def head(wide: bool) -> str:
    """The line above the numbers."""
    return _row(wide, "direction", "packets/s", "bit/s", "dropped", "forwarded")


def rows(interval: Mapping[str, Any], wide: bool) -> Iterator[str]:
    """The numbers of an interval (`report.Meter`), a line a direction."""
    for one in interval["directions"]:
        yield _row(
            wide,
            f"{one['from']} -> {one['to']}",
            quantity(one["packets_per_second"]),
            quantity(one["bits_per_second"], "bit/s"),
            quantity(sum(one["dropped"].values())),
            f"{one['forwarded']:,}",
        )


def remarks(interval: Mapping[str, Any], mtu: int) -> Iterator[str]:
    """What was dropped and why, and which links are down."""
    for one in interval["directions"]:
        if one["returned"]:
            yield f"{one['from']}: {one['returned']:,} sent back"
        if any(one["dropped"].values()):
            yield f"{one['from']}: dropped {drops.short(one['dropped'], mtu)}"
    yield from (f"{address}: the link is down" for address, link in interval["links"].items() if link == "down")


class Table:
    """Lines that stay, and below them a table, or the one thing that is being waited for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
        self._shown: list[str] = []  # below the cursor
        self._said = ""
        self._headed = False
        self._remarks: list[str] = []

    def _size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return size.columns or 80, size.lines or 24

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._in_place:
            shown = "\n".join(textwrap.wrap(text, max(self._size()[0] - 1, 20)))
            self._write(f"{_CLEAR}{shown}\n")
            self._draw(self._shown)
        else:
            self._write(f"{text}\n")

    def say(self, text: str) -> None:
        """What is being waited for: gone when the table comes."""
        if text == self._said:
            return
        self._said = text
        if self._in_place:
            self._draw([f"{text} ..."])
        else:
            self._write(f"{text} ...\n")

    def show(self, interval: Mapping[str, Any], mtu: int) -> None:
        """The numbers of an interval."""
        told = list(remarks(interval, mtu))
        if self._in_place:
            wide = self._size()[0] >= WIDE
            self._headed = True
            self._draw([head(wide), *rows(interval, wide), *told])
            return
        lines = [] if self._headed else [head(wide=True)]
        lines += rows(interval, wide=True)
        lines += [line for line in told if line not in self._remarks]
        self._headed, self._remarks = True, told
        self._write("".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Leave the last table where it is, and the cursor below it."""
        if self._in_place and self._shown:
            lines = self._cut(self._shown) if self._headed else []
            self._shown = []
            with contextlib.suppress(OSError):  # a terminal that is gone
                self._write(_CLEAR + "".join(f"{line}\n" for line in lines))

    def _cut(self, lines: list[str]) -> list[str]:
        columns, height = self._size()
        return [line[: max(columns - 1, 1)] for line in lines[: max(height - 1, 1)]]

    def _draw(self, lines: list[str]) -> None:
        self._shown = lines
        shown = self._cut(lines)
        up = f"\x1b[{len(shown)}F" if shown else ""
        self._write(_CLEAR + "".join(f"{line}\n" for line in shown) + up)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
