"""Landlock: which paths a process may use, and no TCP port, abstract socket or process outside. linux/landlock.h."""

import contextlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from ixy_vfio_locks.calls import syscall

# Rights on files.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, MAKE_REG, TRUNCATE, IOCTL_DEV = (1 << bit for bit in (0, 1, 2, 3, 8, 14, 15))
READ = READ_FILE | READ_DIR
ABSTRACT, SIGNAL = 0b01, 0b10  # scopes: abstract Unix sockets, signals

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH = 1
_VERSION = 1  # flag: answer with the version of the interface
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # since version: how many rights on files it knows
_OF_NO_DIRECTORY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
SINCE = {"landlock": 1, "landlock-network": 4, "landlock-scope": 6}  # layer -> version of the interface
_NETWORK = 0b11  # bind and connect TCP


def version() -> int:
    """The version of the kernel's interface. Raises OSError where there is none."""
    return syscall("landlock_create_ruleset", _CREATE_RULESET, 0, 0, _VERSION)


def restrict(paths: Mapping[Path, int], scope: int = ABSTRACT | SIGNAL) -> tuple[list[str], list[str]]:
    """Allow this process these rights below these paths, as far as they are there, and no others, for good.

    Returns what was applied and what this kernel lacks. Raises OSError where there is no Landlock at all. Needs
    no_new_privs.
    """
    known = version()
    handled = (1 << max(count for since, count in _FILE_RIGHTS.items() if since <= known)) - 1
    words, applied, lacks = [handled], ["landlock"], []
    for name, bits in (("landlock-network", _NETWORK), ("landlock-scope", scope)):
        if known >= SINCE[name]:
            words.append(bits)
            applied.append(name)
        else:
            lacks.append(f"{name}: needs Landlock {SINCE[name]}, this kernel has {known}")
    attributes = struct.pack(f"<{len(words)}Q", *words)
    ruleset = syscall("landlock_create_ruleset", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in paths.items():
            with contextlib.suppress(FileNotFoundError):
                _allow(ruleset, path, rights & handled)
        syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return applied, lacks


def _allow(ruleset: int, path: Path, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("<Qi", rights if path.is_dir() else rights & _OF_NO_DIRECTORY, beneath)
        syscall("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)
