"""What must be put back of the devices that are bound: one file a device, in /run/ixy_vfio/bound.

The directory is gone when the machine has restarted, and so is what the entries undo.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ixy_vfio_helper import locks

SETUP = "setup"


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as it was found."""

    name: str
    mtu: int
    up: bool
    folder: str = ""  # below the device, now
    state: dict[str, Any] = field(default_factory=dict)  # see netstate


@dataclass(frozen=True, slots=True)
class Entry:
    """A device as it was found."""

    address: str
    driver: str
    override: str
    interfaces: list[Interface]
    power: str = ""  # power/control of the device: vfio-pci changes it
    by: str = ""  # SETUP if setup bound it: then its undo gives the device back


class Bound:
    """The entries, by device. Everybody may see which there are. Whoever changes something holds them by `with`.

    One process at a time holds them. The next one waits, and raises Held after locks.DEADLINE.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = -1

    def __enter__(self) -> Self:
        self._lock = locks.wait(self.directory.with_name(f"{self.directory.name}.lock"), f"process {os.getpid()}")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _path(self, address: str) -> Path:
        return self.directory / f"{address}.json"

    def write(self, entry: Entry) -> None:
        """Write an entry: it is there whole or not at all."""
        new = self.directory / f"{entry.address}.new"
        new.unlink(missing_ok=True)  # whatever it is, perhaps a link
        new.touch(mode=0o600)  # some settings are secret
        new.write_text(json.dumps(asdict(entry)))
        new.rename(self._path(entry.address))

    def read(self, address: str) -> Entry | None:
        """The entry of a device, if there is one."""
        if not self._path(address).exists():
            return None
        fields = json.loads(self._path(address).read_text())
        interfaces = [
            Interface(one["name"], one["mtu"], one["up"], state=one.get("state", {})) for one in fields["interfaces"]
        ]
        more = fields.get("power", ""), fields.get("by", "")
        return Entry(fields["address"], fields["driver"], fields["override"], interfaces, *more)

    def remove(self, address: str) -> None:
        """Forget a device."""
        self._path(address).unlink(missing_ok=True)

    def addresses(self) -> list[str]:
        """The devices that have entries."""
        return sorted(path.stem for path in self.directory.glob("*.json"))
