"""Takes one protection out of a copy of the tree, and runs the tests that must notice."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutations.row import Row

DEADLINE = 600.0  # seconds for the tests of a row, as the tree is
PATIENCE = 20.0, 4  # without a protection: seconds, and times what they take with it. Who hangs then was noticed


class NotSound(Exception):
    """Nothing can be said: a row does not fit the tree, or its tests fail as the tree is."""


def mutated(text: str, row: Row) -> str:
    """The text without the protection. Raises NotSound unless it stands there exactly once."""
    if (count := text.count(row.old)) != 1:
        raise NotSound(f"{row.name}: what is to be taken out stands {count} times in {row.file}, not once")
    return text.replace(row.old, row.new)


def changed_files(top: Path, base: str) -> set[str]:
    """The files that differ from a commit. Raises NotSound if git does not know it."""
    said = subprocess.run(["git", "diff", "--name-only", base], cwd=top, capture_output=True, text=True, check=False)
    if said.returncode:
        raise NotSound(f"--changed {base}: {said.stderr.strip()}")
    return set(said.stdout.split("\n"))


def commit(top: Path) -> str:
    """The hash of the commit, or nothing outside of a repository."""
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=top, capture_output=True, text=True, check=False)
    return said.stdout.strip()


def drawn(rows: Sequence[Row], number: int, seed: str) -> list[Row]:
    """So many rows, others for each seed."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row.name}".encode()).digest())[:number]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree in `path`, with a directory of its own for compiled code."""

    path: Path

    @classmethod
    def of(cls, top: Path, path: Path) -> "Copy":
        """Of all files that git knows or would add."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (top / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(top / name, path / name)
        if (top / ".venv").exists():
            (path / ".venv").symlink_to(top / ".venv")
        (path / ".compiled").mkdir(mode=0o755)
        path.chmod(0o755)  # tests of root's run parts as other users
        return cls(path)

    def run(self, tests: Sequence[str], deadline: float = DEADLINE) -> tuple[int | None, str]:
        """Pytest's exit status, None when it hung, and the end of what it said."""
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.path}:{self.path / 'helper'}",
            "PYTHONDONTWRITEBYTECODE": "1",  # a file changed twice in a second must not be taken for the same
            "XDG_CACHE_HOME": str(self.path / ".compiled"),
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            said = subprocess.run(
                command, cwd=self.path, env=environment, capture_output=True, text=True, check=False, timeout=deadline
            )
        except subprocess.TimeoutExpired:
            return None, ""
        return said.returncode, (said.stdout + said.stderr)[-2000:]

    def without(self, row: Row, deadline: float = DEADLINE) -> bool:
        """Whether the tests notice that the protection is gone. Raises NotSound when they could not be run."""
        file = self.path / row.file
        text = file.read_text(encoding="utf-8")
        file.write_text(mutated(text, row), encoding="utf-8")
        try:
            status, said = self.run(row.tests, deadline)
        finally:
            file.write_text(text, encoding="utf-8")
        if status not in (0, 1, None):
            raise NotSound(f"{row.name}: pytest ended with {status}\n{said}")
        return status != 0

    def control(self, row: Row) -> float:
        """Its tests pass as long as nothing is taken out: seconds that they take. Raises NotSound."""
        began = time.monotonic()
        status, said = self.run(row.tests)
        if status != 0:
            raise NotSound(f"{row.name}: its tests do not pass as the tree is (pytest ended with {status})\n{said}")
        return time.monotonic() - began


@dataclass(slots=True)
class Outcome:
    """What became of rows, by name."""

    noticed: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # "NAME: why"
    left: list[str] = field(default_factory=list)  # for want of time


def run(rows: Sequence[Row], copy: Copy, seconds: float | None, tell: Callable[[str], None]) -> Outcome:
    """Each row, with its tests as the tree is before: once for all rows with the same tests."""
    outcome = Outcome()
    taken: dict[tuple[str, ...], float] = {}
    began = time.monotonic()
    for number, row in enumerate(rows, 1):
        at = time.monotonic()
        if seconds is not None and at - began > seconds:
            outcome.left.append(row.name)
            continue
        try:
            if row.tests not in taken:
                taken[row.tests] = copy.control(row)
            noticed = copy.without(row, PATIENCE[0] + PATIENCE[1] * taken[row.tests])
            (outcome.noticed if noticed else outcome.survived).append(row.name)
            word = "noticed" if noticed else "SURVIVED"
        except NotSound as error:
            outcome.errors.append(str(error))
            word = "ERROR"
        tell(f"{number:4}/{len(rows)} {word:8} {time.monotonic() - at:6.1f} s  {row.name}")
    return outcome
