"""What a row of the table is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One protection: without it, some of `tests` must fail."""

    name: str  # AREA.WHAT
    file: str  # of the tree
    old: str  # the protection, as it stands there exactly once
    new: str  # what is there without it
    tests: tuple[str, ...]  # pytest's node ids
    root: bool = False  # only a test that needs root can notice


def rows(area: str, file: str, tests: str, *table: tuple[str, str, str] | tuple[str, str, str, str]) -> list[Row]:
    """Rows of one file, noticed by the same tests (node ids, blanks between) unless a fourth text names others."""
    return [Row(f"{area}.{name}", file, old, new, tuple((*more, tests)[0].split())) for name, old, new, *more in table]
