"""The reading paths of docs/architecture.md are as long as the page says."""

from tests.reading import PAGE, corrected, lines_of


def test_the_page_has_the_lines_of_today() -> None:
    """Else: python -m tests.reading --write."""
    assert PAGE.read_text() == corrected(PAGE.read_text())


def test_what_counts_as_a_line() -> None:
    assert lines_of("ixy_vfio/datapath/verdict.py") == 5
