"""`python -m tests.reading`: the reading paths of docs/architecture.md, with their lines of today.

    python -m tests.reading [--write]

Prints what the page should say, or writes it there. Lines are those that are neither blank nor comment; docstrings
count, as they are read.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
_ROW = re.compile(r"^\| `([\w/.]+)` \| [\d,]+ \|", re.MULTILINE)
_TOTAL = re.compile(r"^\| all of it \| [\d,]+ \|", re.MULTILINE)


def lines_of(path: str) -> int:
    """Lines of a file of the tree that are neither blank nor comment. Raises OSError if it is not there."""
    stripped = map(str.strip, (ROOT / path).read_text().splitlines())
    return sum(1 for line in stripped if line and not line.startswith("#"))


def corrected(text: str) -> str:
    """The page with today's numbers."""
    parts = []
    for table in re.split(r"(?<=\n)(?=## )", text):
        total = sum(lines_of(path) for path in _ROW.findall(table))
        table = _ROW.sub(lambda row: f"| `{row[1]}` | {lines_of(row[1]):,} |", table)
        parts.append(_TOTAL.sub(f"| all of it | {total:,} |", table))
    return "".join(parts)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.reading", description="Lines of the reading paths.")
    parser.add_argument("--write", action="store_true", help="write them to docs/architecture.md")
    text = corrected(PAGE.read_text())
    if parser.parse_args().write:
        PAGE.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
