"""The runner of the table of protections, and the table itself."""

import argparse
import subprocess
from pathlib import Path

import pytest

from tests.mutations.__main__ import TOP, chosen, table
from tests.mutations.row import Row
from tests.mutations.runner import Copy, NotSound, Outcome, changed_files, drawn, mutated, run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one protection, and two tests: one looks at it, the other does not."""
    top = tmp_path / "tree"
    top.mkdir()
    (top / "door.py").write_text("def opens(key: str) -> bool:\n    return key == 'right'\n")
    (top / "test_door.py").write_text(
        "from door import opens\n\ndef test_wrong() -> None:\n    assert not opens('wrong')\n"
    )
    (top / "test_blind.py").write_text(
        "from door import opens\n\ndef test_right() -> None:\n    assert opens('right')\n"
    )
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=top, check=True)
    return top


def row(tests: str = "test_door.py", old: str = "key == 'right'", new: str = "True", name: str = "door.key") -> Row:
    return Row(name, "door.py", old, new, (tests,))


def test_a_protection_whose_removal_is_noticed_and_one_that_survives(tree: Path, tmp_path: Path) -> None:
    copy = Copy.of(tree, tmp_path / "copy")
    rows = [row(), row("test_blind.py", name="door.blind")]
    said: list[str] = []
    assert run(rows, copy, None, said.append) == Outcome(["door.key"], ["door.blind"])
    assert [line.split()[1] for line in said] == ["noticed", "SURVIVED"]
    assert (copy.path / "door.py").read_text() == (tree / "door.py").read_text()  # put back


def test_rows_that_there_is_no_time_for_are_named(tree: Path, tmp_path: Path) -> None:
    assert run([row()], Copy.of(tree, tmp_path / "copy"), -1.0, print) == Outcome(left=["door.key"])


@pytest.mark.parametrize(("old", "count"), [("window", 0), ("key", 2)])
def test_a_text_that_does_not_stand_there_once_is_an_error(tree: Path, old: str, count: int) -> None:
    with pytest.raises(NotSound, match=f"door.key: what is to be taken out stands {count} times in door.py, not once"):
        mutated((tree / "door.py").read_text(), row(old=old))


def test_a_removal_that_cannot_be_loaded_is_not_taken_for_noticed(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSound, match=r"door\.key: pytest ended with 2"):
        Copy.of(tree, tmp_path / "copy").without(row(new="((("))


def test_tests_that_fail_as_the_tree_is_show_nothing(tree: Path, tmp_path: Path) -> None:
    (tree / "door.py").write_text("def opens(key: str) -> bool:\n    return True\n")
    found = run([row()], Copy.of(tree, tmp_path / "copy"), None, print)
    assert (found.noticed, found.survived) == ([], [])
    assert "door.key: its tests do not pass as the tree is (pytest ended with 1)" in found.errors[0]


def test_which_rows_are_chosen(tree: Path) -> None:
    other = Row("wall.high", "test_blind.py", "right", "", ("test_blind.py",))
    (tree / "door.py").write_text("changed")
    words = argparse.Namespace(rows=None, changed="HEAD", sample=0)
    assert chosen([row(), other], words, tree) == [row()]
    words.sample = 5
    assert chosen([row(), other], words, tree) == [row(), other]
    assert changed_files(tree, "HEAD") >= {"door.py"}
    with pytest.raises(NotSound, match="--changed nothing"):
        changed_files(tree, "nothing")
    with pytest.raises(NotSound, match=r"there is no row wall\.low"):
        chosen([row(), other], argparse.Namespace(rows=["wall.low"]), tree)
    many = [row(name=f"door.{number}") for number in range(50)]
    assert drawn(many, 3, "a") == drawn(many, 3, "a") != drawn(many, 3, "b")


def test_every_row_fits_the_tree() -> None:
    rows = table()
    assert len({one.name for one in rows}) == len(rows) > 200
    for one in rows:
        assert mutated((TOP / one.file).read_text(), one) != (TOP / one.file).read_text()
        assert all((TOP / test.partition("::")[0]).is_file() for test in one.tests), one.name
