"""What setup did, in order, written before each step is taken; so that all of it can be undone, also after a crash.

What was bound stands in the binder's entries alone, which say who bound it.
"""

import contextlib
import json
import os
from types import TracebackType
from typing import Any, Self

from ixy_vfio_helper import locks
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup.bound import SETUP, Bound
from ixy_vfio_setup.system import System

DIRECTORY = "/var/lib/ixy_vfio"
FILE = f"{DIRECTORY}/setup.json"
LOCK = f"{DIRECTORY}/lock"
Record = dict[str, Any]  # "kind" (which undo), "device" ("" if all devices need it), and what the undo needs


def bound(system: System) -> Bound:
    """The entries of the devices that are bound."""
    return Bound(system.at("/run/ixy_vfio/bound"))


def bind_record(address: str) -> Record:
    """What the undo of a bind needs to know. Setups before this one wrote it to their journal."""
    return {"kind": "bind", "device": address}


class Journal:
    """The records; by `with` to change them, which one process at a time may."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lock = -1
        self.records: list[Record] = json.loads(system.text(FILE) or "[]")

    def __enter__(self) -> Self:
        directory = self._system.at(DIRECTORY)
        if not directory.is_dir():
            self._system.make_directory(DIRECTORY)
        lock = locks.take(self._system.at(LOCK), f"process {os.getpid()}")
        if lock is None:
            raise Refusal(f"another setup is at work ({locks.holder(self._system.at(LOCK))}); wait for its end")
        self._lock = lock
        self.records = json.loads(self._system.text(FILE) or "[]")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.records:
            self._system.at(FILE).unlink(missing_ok=True)
            self._system.at(LOCK).unlink()
            with contextlib.suppress(OSError):
                self._system.at(DIRECTORY).rmdir()
        os.close(self._lock)

    def add(self, record: Record) -> None:
        """Note what is about to be done."""
        self._write([*self.records, record])

    def drop(self, record: Record) -> None:
        """Forget what was undone: the newest record that is equal, if there is one."""
        records = list(self.records)
        if record in records:
            del records[len(records) - 1 - records[::-1].index(record)]
            self._write(records)

    def _write(self, records: list[Record]) -> None:
        self._system.write_file(FILE, json.dumps(records, indent=1) + "\n", 0o644)  # --dry-run needs no root
        self.records = records
        directory = os.open(self._system.at(DIRECTORY), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def all(self) -> list[Record]:
        """The records, and behind them those that are made of the binder's entries."""
        made = [bind_record(address) for address in bound(self._system).addresses() if self._bound_here(address)]
        return [*self.records, *(record for record in made if record not in self.records)]

    def _bound_here(self, address: str) -> bool:
        try:
            entry = bound(self._system).read(address)
        except PermissionError:  # --dry-run without root: then it was setup, if setup did anything for the device
            return any(record["device"] == address for record in self.records)
        return entry is not None and entry.by == SETUP

    def devices(self) -> list[str]:
        """The devices that were set up."""
        return sorted({record["device"] for record in self.all()} - {""})
