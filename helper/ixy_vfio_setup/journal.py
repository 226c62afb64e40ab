"""What setup did, in order, written before each step is taken; so that all of it can be undone, also after a crash."""

import contextlib
import json
import os
from types import TracebackType
from typing import Any, Self

from ixy_vfio_helper import locks
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup.system import System

DIRECTORY = "/var/lib/ixy_vfio"
FILE = f"{DIRECTORY}/setup.json"
LOCK = f"{DIRECTORY}/lock"
Record = dict[str, Any]  # "kind" (which undo), "device" ("" if all devices need it), and what the undo needs


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
        """Forget what was undone: the newest record that is equal."""
        records = list(self.records)
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

    def devices(self) -> list[str]:
        """The devices that were set up."""
        return sorted({record["device"] for record in self.records} - {""})
