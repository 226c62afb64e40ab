"""The table of guarantees in SECURITY.md, and which of them a run of the tests has shown."""

import re
from collections.abc import Iterable
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "SECURITY.md").read_text()
TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def rows() -> list[list[str]]:
    """Actor, asset, guarantee, test."""
    section = TEXT.partition("## Guarantees")[2].partition("### Not yet shown")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def not_shown(passed: Iterable[str], other: Iterable[str]) -> list[str]:
    """Tests of the table that have not passed, with any parameters, or of which a case has not (`other`)."""
    good = {node.partition("[")[0] for node in passed} - {node.partition("[")[0] for node in other}
    named = {match[0] for row in rows() for match in TEST.finditer(row[3])}
    return sorted(named - good)
