"""A systemd unit with its drop-ins, as systemd reads it (systemd.unit(5), systemd.syntax(7))."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.reading import Reading

PLACES = tuple(
    f"{place}/systemd/{kind}"
    for place, kind in (
        ("/etc", "system.control"), ("/run", "system.control"), ("/run", "transient"), ("/run", "generator.early"),
        ("/etc", "system"), ("/etc", "system.attached"), ("/run", "system"), ("/run", "system.attached"),
        ("/run", "generator"), ("/usr/local/lib", "system"), ("/usr/lib", "system"), ("/lib", "system"),
        ("/run", "generator.late"),
    )
)  # fmt: skip
TRUE = ("1", "yes", "y", "true", "t", "on")


@dataclass(frozen=True, slots=True)
class Unit:
    """`files`: the unit's file and its drop-ins, as they are read. `settings`: of its own section."""

    files: Sequence[Reading]
    settings: Mapping[str, Sequence[str]]  # an empty value takes back what was said before

    def last(self, key: str) -> str:
        """The value of a setting that has one; "" if it has none."""
        return (self.settings.get(key) or [""])[-1]

    def true(self, key: str) -> bool:
        """Whether a Boolean setting is on."""
        return self.last(key).lower() in TRUE

    def words(self, key: str) -> list[str]:
        """All words of a setting that is a list."""
        return [word for line in self.settings.get(key, ()) for word in line.split()]


def load(host: Host, name: str) -> Unit | None:
    """The unit of this name; None if there is none."""
    fragment = next((one for place in PLACES if (one := host.read(f"{place}/{name}")).value is not None), None)
    if fragment is None:
        return None
    files = [fragment, *_drop_ins(host, name)]
    settings: dict[str, list[str]] = {}
    section = name.rpartition(".")[2].capitalize()
    for file in files:
        _read(file.value or "", section, settings)
    return Unit(files, settings)


def _drop_ins(host: Host, name: str) -> list[Reading]:
    """Of the unit, of its prefixes (a-b.service: a-.service.d), and of its kind."""
    stem, _, kind = name.rpartition(".")
    parts = stem.split("-")
    folders = [
        f"{name}.d",
        *(f"{'-'.join(parts[:end])}-.{kind}.d" for end in range(len(parts) - 1, 0, -1)),
        f"{kind}.d",
    ]
    found: dict[str, str] = {}
    for folder in folders:
        for place in PLACES:
            for file in host.system.names(f"{place}/{folder}"):
                if file.endswith(".conf"):
                    found.setdefault(file, f"{place}/{folder}/{file}")
    return [host.read(found[file]) for file in sorted(found)]


def _read(text: str, section: str, settings: dict[str, list[str]]) -> None:
    inside = False
    for line in re.sub(r"\\\n\s*", " ", text).split("\n"):
        line = line.strip()
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            key, value = (part.strip() for part in line.split("=", 1))
            settings[key] = [*settings.get(key, []), value] if value else []
