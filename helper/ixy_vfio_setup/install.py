"""Steps that put files on the machine: the helper's code, its launcher, and whatever else is written whole."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_setup.journal import Journal, Record
from ixy_vfio_setup.step import LAUNCHER, LIBRARY, RUN, Step
from ixy_vfio_setup.system import System

PACKAGES = ("ixy_vfio_helper", "ixy_vfio_locks", "ixy_vfio_setup")  # what the helper's commands run


@dataclass(frozen=True)
class Run(Step):
    """What the helper makes in /run/ixy_vfio while it works: undone last."""

    kind = "run"
    journal: Journal

    @property
    def text(self) -> str:
        """What is done."""
        return f"let the helper keep its locks, socket and journal in {RUN}"

    def needed(self) -> bool:
        """Once."""
        return not any(record["kind"] == self.kind for record in self.journal.records)

    def do(self) -> None:
        """The helper makes the directory itself."""

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"remove {RUN}"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Remove it, unless something there is still to be put back."""
        if any(system.at(f"{RUN}/bound").glob("*.json")):
            return f"{RUN} stays: a device is bound that setup did not bind"
        system.remove_tree(RUN)
        return ""


@dataclass(frozen=True)
class Directory(Step):
    """Make a directory."""

    kind = "directory"
    system: System
    path: str

    @property
    def text(self) -> str:
        """What is done."""
        return f"make directory {self.path}"

    def needed(self) -> bool:
        """Whether it is not there."""
        return not self.system.at(self.path).is_dir()

    def record(self) -> Record:
        """Its path."""
        return {"kind": self.kind, "device": "", "path": self.path}

    def do(self) -> None:
        """Make it."""
        self.system.make_directory(self.path)

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"remove {record['path']}"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Remove it, unless there is something else in it."""
        path = record["path"]
        return "" if system.remove_directory(path) else f"{path} stays: there is something else in it"


@dataclass(frozen=True)
class File(Step):
    """Write a file, with exactly this mode."""

    kind = "file"
    system: System
    path: str
    content: str
    mode: int

    @property
    def text(self) -> str:
        """What is done."""
        return f"write {self.path} (mode {self.mode:o})"

    def needed(self) -> bool:
        """Whether content, owner or mode differ."""
        if self.system.text(self.path) != self.content:
            return True
        found = self.system.at(self.path).lstat()
        return (found.st_uid, stat.S_IMODE(found.st_mode)) != (self.system.owner, self.mode)

    def record(self) -> Record:
        """What was there before (None: nothing)."""
        before = self.system.text(self.path)
        had = self.mode if before is None else stat.S_IMODE(self.system.at(self.path).stat().st_mode)
        return {"kind": self.kind, "device": "", "path": self.path, "before": before, "mode": had}

    def do(self) -> None:
        """Write it."""
        self.system.write_file(self.path, self.content, self.mode)

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"{'remove' if record['before'] is None else 'put back'} {record['path']}"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Put back what was there."""
        if record["before"] is None:
            system.remove_file(record["path"])
        else:
            system.write_file(record["path"], record["before"], record["mode"])
        return ""


def launcher(python: str) -> str:
    """The command that people run: nothing of the environment, of site-packages or of a cache comes in."""
    return f'#!/bin/sh\nexec {python} -I -S -B {LIBRARY}/ixy_vfio_helper "$@"\n'


def install(system: System, tree: Path, python: str) -> Iterator[Step]:
    """Copy what root runs out of the tree, to where root alone can change it."""
    yield Directory(system, LIBRARY)
    for package in PACKAGES:
        yield Directory(system, f"{LIBRARY}/{package}")
        for source in sorted((tree / "helper" / package).glob("*.py")):
            yield File(system, f"{LIBRARY}/{package}/{source.name}", source.read_text(), 0o644)
    yield File(system, LAUNCHER, launcher(python), 0o755)
