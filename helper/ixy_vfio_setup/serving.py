"""Steps that start the helper: as a service of systemd, or in the background."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_setup import machine
from ixy_vfio_setup.install import File
from ixy_vfio_setup.journal import Record
from ixy_vfio_setup.step import LAUNCHER, LIBRARY, RUN, SOCKET, SYSTEMD, UNITS, Step
from ixy_vfio_setup.system import System


@dataclass(frozen=True)
class Reload(Step):
    """Nothing now; its undo comes after the undo of the unit files, and makes systemd forget them."""

    kind = "reload"
    system: System

    @property
    def text(self) -> str:
        """What is done."""
        return "let systemd forget its units afterwards, when this is undone"

    def needed(self) -> bool:
        """Always: it is a step only when there are new units."""
        return True

    def do(self) -> None:
        """Nothing."""

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return "systemctl daemon-reload"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Let systemd look at its units again."""
        system.run(["systemctl", "daemon-reload"])
        return ""


@dataclass(frozen=True)
class Enable(Step):
    """Let systemd listen at the helper's socket, now and after a restart. `fresh`: the units are new."""

    kind = "enable"
    system: System
    fresh: bool

    @property
    def text(self) -> str:
        """What is done."""
        return f"systemctl daemon-reload; systemctl enable --now {UNITS[0]}"

    def needed(self) -> bool:
        """Whether it does not listen, or listens by an older unit."""
        return self.fresh or not self.system.unit_active(UNITS[0])

    def do(self) -> None:
        """Enable it."""
        self.system.run(["systemctl", "daemon-reload"])
        self.system.run(["systemctl", "enable", "--now", UNITS[0]])

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"systemctl disable --now {' '.join(UNITS)}"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Stop and disable both units."""
        if system.at(f"{SYSTEMD}/{UNITS[0]}").exists():
            system.run(["systemctl", "disable", "--now", *UNITS])
        return ""


@dataclass(frozen=True)
class Background(Step):
    """Start the helper in the background."""

    kind = "background"
    system: System

    @property
    def text(self) -> str:
        """What is done."""
        return f"start {LAUNCHER} serve in the background (log: {RUN}/helper.log)"

    def needed(self) -> bool:
        """Whether nobody listens at the socket."""
        return not self.system.listener(SOCKET)

    def do(self) -> None:
        """Start it."""
        self.system.run([LAUNCHER, "recover"])  # makes the directory of the log
        self.system.start([LAUNCHER, "serve"], f"{RUN}/helper.log", SOCKET)

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return "end the helper that runs in the background"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """End the helper that listens: the socket itself tells whose it is."""
        pid = system.listener(SOCKET)
        if pid and LIBRARY not in (system.text(f"/proc/{pid}/cmdline") or ""):
            return f"process {pid} listens at {SOCKET} and was not started by setup: it stays"
        if pid:
            system.end(pid)
        return ""


def serve(system: System, tree: Path, start: bool) -> Iterator[Step]:
    """By systemd where there is one; else in the background, if that is wanted (`start`)."""
    if machine.has_systemd(system):
        texts = {f"{SYSTEMD}/{name}": (tree / "scripts/systemd" / name).read_text() for name in UNITS}
        files = [File(system, path, text, 0o644) for path, text in texts.items()]
        fresh = any(step.needed() for step in files)
        if fresh:
            yield Reload(system)
        yield from files
        yield Enable(system, fresh)
    elif start:
        yield Background(system)
