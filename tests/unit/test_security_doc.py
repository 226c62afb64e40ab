"""SECURITY.md: every guarantee of its table names a test that exists; what the code calls a layer stands there."""

import ast
from pathlib import Path

import pytest

from tests.guarantees import TEST, TEXT, not_shown, rows

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2][:60])
def test_a_guarantee_has_a_test(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    named = row[3].split(", ")
    for one in named:
        match = TEST.fullmatch(one)
        assert match, one
        tree = ast.parse((TOP / match[1]).read_text())
        assert match[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, one


def test_a_run_knows_what_it_has_not_shown() -> None:
    """A test that failed or was skipped in one case of many has not shown its guarantee."""
    named = sorted({match[0] for row in rows() for match in TEST.finditer(row[3])})
    assert not_shown(named, []) == []
    assert not_shown([f"{one}[a]" for one in named[1:]], [f"{named[1]}[b]"]) == named[:2]
    assert not_shown([], []) == named


def test_every_attack_stands_in_the_table() -> None:
    """A new attack test needs a row, or it guarantees nothing that a reader could know of."""
    named = {match[2] for row in rows() for match in TEST.finditer(row[3])}
    for file in ("test_evil_dma.py", "test_evil_client.py"):
        tree = ast.parse((TOP / "tests" / "attack" / file).read_text())
        assert {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) if node.name[:5] == "test_"
        } <= named


LANDLOCK = "helper/ixy_vfio_locks/landlock.py"


def test_the_layers_are_those_of_the_code() -> None:
    section = TEXT.partition("## What a sealed worker")[2].partition("## What control")[0]
    named = {name for line in section.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")}
    source = "".join((TOP / name).read_text() for name in ("ixy_vfio/runtime/sandbox.py", LANDLOCK))
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    layers = {name.strip() for name in named} - {"layer"}
    assert len(layers) == 11
    assert layers <= strings
