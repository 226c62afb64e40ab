"""Options of the kernel and of its modules, as the kernel and modprobe take them.

Dashes and underscores in names are the same; values may be quoted; a Boolean without a value is true; what follows
`--` is for init. Sources: linux/lib/cmdline.c (next_arg), linux/lib/kstrtox.c (kstrtobool), linux/kernel/params.c,
modprobe.d(5).
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Protocol

from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.system import System


class Files(Protocol):
    """The part of a machine that is read here."""

    system: System

    def read(self, path: str) -> Reading:
        """A text file, without the white space around it."""


PLACES = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
ON = "y"  # what a Boolean without a value says


def name_of(text: str) -> str:
    """The name of a module or option, however it was spelled."""
    return text.replace("-", "_")


def words(line: str) -> list[tuple[str, str | None]]:
    """(name, value) of each word of a line of options; None: it has no value."""
    found, word, quoted = [], "", False
    for letter in f"{line} ":
        if letter == '"':
            quoted = not quoted
        elif letter.isspace() and not quoted:
            if word == "--":
                break
            if word:
                key, equals, value = word.partition("=")
                found.append((name_of(key), value if equals else None))
            word = ""
        else:
            word += letter
    return found


def is_true(value: str | None) -> bool:
    """What the kernel takes for true. It looks at no more than this."""
    text = ON if value is None else value.strip()
    return text[:1] in ("y", "Y", "t", "T", "1") or text[:2].lower() == "on"


def of_modprobe(host: Files, module: str, option: str) -> Reading | None:
    """The last that modprobe's files say of an option of a module, if they say anything."""
    lines = list(_lines(host))
    names = {name_of(module)}
    names |= {
        name_of(line[1]) for _, line in lines if line[0] == "alias" and len(line) > 2 and name_of(line[2]) in names
    }
    found = None
    for path, line in lines:
        if len(line) < 3 or name_of(line[1]) not in names or line[0] not in ("options", "install"):
            continue
        # The command of an install line may load the module with options of its own.
        for name, value in words(" ".join(line[2:])):
            if name == name_of(option):
                found = Reading(path, f"{option}={ON if value is None else value}")
    return found


def _lines(host: Files) -> Iterator[tuple[str, list[str]]]:
    """(file, words) of each line. A file hides those of the same name in later places."""
    files: dict[str, str] = {}
    for place in PLACES:
        for name in host.system.names(place):
            if name.endswith(".conf"):
                files.setdefault(name, f"{place}/{name}")
    paths = [files[name] for name in sorted(files)]
    for path in [*paths, "/etc/modprobe.conf"]:
        text = re.sub(r"\\\n", " ", host.read(path).value or "")
        for line in text.split("\n"):
            parts = line.split()
            if parts and not parts[0].startswith("#"):
                yield path, parts


def parameter_path(module: str, name: str) -> str:
    """Where a loaded module shows a parameter."""
    return posixpath.join("/sys/module", name_of(module), "parameters", name)
