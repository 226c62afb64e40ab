"""What the forwarder shows: a table that stays in place on a terminal of any width, lines elsewhere."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from ixy_vfio.apps.table import Table, head
from ixy_vfio.apps.units import quantity

A, B = "8259:00:00.0", "8259:00:01.0"


def interval(number: int, **dropped: int) -> dict[str, Any]:
    ways = [
        {
            "from": source,
            "to": target,
            "forwarded": number,
            "returned": 0,
            "dropped": dropped if source == A else {},
            "packets_per_second": 14_880_952.0,
            "bits_per_second": 9_999_999_744.0,
        }
        for source, target in ((A, B), (B, A))
    ]
    return {"directions": ways, "links": {A: "up, 10 Gbit/s", B: "up, 10 Gbit/s"}}


class Screen:
    """A terminal of some columns: what it shows after what was written. It wraps what is too long."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.row, self.column = columns, [""], 0, 0

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")

    def take(self, text: str) -> None:
        for word in re.findall(r"\x1b\[\d*[A-Za-z]|.|\n|\r", text, re.DOTALL):
            if word == "\n":
                self._down()
            elif word == "\r":
                self.column = 0
            elif word.endswith("F") and len(word) > 2:
                self.row, self.column = max(self.row - int(word[2:-1]), 0), 0
            elif word == "\x1b[J":
                self.rows = [*self.rows[: self.row], self.rows[self.row][: self.column]]
            else:
                assert len(word) == 1, word
                if self.column == self.columns:
                    self._down()
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + word + line[self.column + 1 :]
                self.column += 1

    def narrow(self, columns: int) -> None:
        """Wrap all lines anew, as most terminals do; the cursor stays with its character."""
        old, at = self.rows, self.row
        self.columns, self.rows = columns, []
        for index, line in enumerate(old):
            if index == at:
                self.row = len(self.rows)
            self.rows += [line[i : i + columns] for i in range(0, max(len(line), 1), columns)]

    @property
    def shown(self) -> list[str]:
        return [row for row in self.rows if row]


class Terminal:
    """A pseudoterminal to write to, and what its screen shows."""

    def __init__(self, columns: int, lines: int = 24) -> None:
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.stream = os.fdopen(slave, "w")
        self.screen = Screen(columns)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def look(self) -> list[str]:
        while select.select([self.master], [], [], 0.05)[0]:
            self.screen.take(os.read(self.master, 65536).decode())
        return self.screen.shown


@pytest.fixture
def terminals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("TERM", "xterm")
    made: list[Terminal] = []

    def make(*size: int) -> Terminal:
        made.append(Terminal(*size))
        return made[-1]

    yield make
    for one in made:
        one.stream.close()
        os.close(one.master)


@pytest.mark.parametrize("columns", [30, 60, 61, 79, 80, 81, 200])
def test_one_table_stays_in_place(terminals: Any, columns: int) -> None:
    terminal = terminals(columns)
    table = Table(terminal.stream)
    table.note("a line that stays, longer than some terminals are wide, so it is wrapped between words")
    table.say("waiting for something")
    kept = len(terminal.look()) - 1
    for number in range(5):
        table.show(interval(number, too_long=50 * (number > 2)), mtu=1500)
        shown = terminal.look()[kept:]
        assert len(shown) == (4 if number > 2 else 3)
        assert shown[0] == head(columns >= 80)[: columns - 1]
    table.close()
    assert terminal.look()[kept:] == shown
    assert "waiting for something" not in " ".join(shown)
    if columns >= 60:
        assert shown[1].split()[:9] == [A, "->", B, "14.9", "M", "10", "Gbit/s", "50", *shown[1].split()[8:9]]
        assert shown[3] == f"{A}: dropped 50 too long (try --mtu 9000)"[: columns - 1]


def test_what_goes_back_is_said(terminals: Any) -> None:
    terminal = terminals(80)
    one = interval(1)
    one["directions"][1]["returned"] = 1234
    Table(terminal.stream).show(one, mtu=1500)
    assert terminal.look()[3:] == [f"{B}: 1,234 sent back"]


@pytest.mark.parametrize("reflows", [True, False])
def test_a_terminal_that_becomes_narrower(terminals: Any, reflows: bool) -> None:
    terminal = terminals(120)
    table = Table(terminal.stream)
    table.note("stays")
    for columns in (120, 70, 60, 40, 90):
        terminal.resize(columns)
        if reflows:
            terminal.screen.narrow(columns)
        terminal.screen.columns = columns
        table.show(interval(7), mtu=1500)
        shown = terminal.look()
        assert shown[0] == "stays"
        assert len(shown) == 4
    table.close()
    assert terminal.look() == shown


def test_a_table_higher_than_the_terminal_does_not_scroll(terminals: Any) -> None:
    terminal = terminals(80, 3)
    table = Table(terminal.stream)
    for number in range(3):
        table.show(interval(number, missed=1), mtu=1500)
    assert len(terminal.look()) == 2
    table.close()


def test_what_is_waited_for_is_gone_when_nothing_came_of_it(terminals: Any) -> None:
    terminal = terminals(80)
    table = Table(terminal.stream)
    table.say("waiting for the lease")
    assert terminal.look() == ["waiting for the lease ..."]
    table.close()
    assert terminal.look() == []


def written(terminal: int) -> str:
    """All that was written to it: a read may give a part."""
    text = b""
    while select.select([terminal], [], [], 0.2)[0]:
        text += os.read(terminal, 65536)
    return text.decode()


@pytest.mark.parametrize("name", ["dumb", "", "a pipe"])
def test_lines_where_nothing_can_be_redrawn(terminals: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TERM", name)
    terminal = terminals(80)
    stream = io.StringIO() if name == "a pipe" else terminal.stream
    table = Table(stream)
    table.say("waiting")
    table.say("waiting")
    for number in range(3):
        table.show(interval(number, missed=1), mtu=1500)
    table.close()
    text = stream.getvalue() if isinstance(stream, io.StringIO) else written(terminal.master)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "waiting ..."
    assert lines[1] == head(wide=True)
    assert [line.split()[0] for line in lines[2:]] == [A, B, f"{A}:", A, B, A, B]  # what did not change is said once


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.001, "<0.01"), (0.05, "0.05"), (3, "3"), (12.34, "12.3"), (999.4, "999"), (999.6, "1 k"),
        (1234, "1.23 k"), (14_880_952, "14.9 M"), (999_600_000, "1 G"), (2e16, "2e+04 T"),
    ],
)  # fmt: skip
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text
    assert quantity(1500, "bit/s") == "1.5 kbit/s"
    assert quantity(5, "bit/s") == "5 bit/s"
