"""Landlock: no path, no TCP port, no abstract socket and no signal to anybody outside. Control may read its program.

A worker is refused all of it by the system-call filter, too: there this layer holds where that one cannot be had, or
has a gap.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from ixy_vfio.core import libc

# linux/landlock.h; the numbers of the system calls are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_READ = 0b1100  # files and directories
_VERSION = 1  # flag: answer with the version of the interface
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # since version: how many rights on files it knows
_NETWORK_SINCE, _SCOPE_SINCE = 4, 6
_NETWORK = 0b11  # bind and connect TCP
ABSTRACT, SIGNAL = 0b01, 0b10  # scopes: abstract Unix sockets, signals


def restrict(readable: Iterable[Path] = (), scope: int = ABSTRACT | SIGNAL) -> tuple[list[str], list[str]]:
    """Allow this process only to read below these paths, for good; what was applied and what this kernel lacks.

    Raises OSError where there is no Landlock at all. Needs no_new_privs.
    """
    version = libc.syscall("landlock_create_ruleset", _CREATE_RULESET, 0, 0, _VERSION)
    rights = (1 << max(count for since, count in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = [rights]
    applied, lacks = ["landlock"], []
    for name, since, bits in (("landlock-network", _NETWORK_SINCE, _NETWORK), ("landlock-scope", _SCOPE_SINCE, scope)):
        if version >= since:
            attributes.append(bits)
            applied.append(name)
        else:
            lacks.append(f"{name}: needs Landlock {since}, this kernel has {version}")
    data = struct.pack(f"<{len(attributes)}Q", *attributes)
    fd = libc.syscall("landlock_create_ruleset", _CREATE_RULESET, data, len(data), 0)
    try:
        for path in readable:
            _allow(fd, path)
        libc.syscall("landlock_restrict_self", _RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)
    return applied, lacks


def _allow(ruleset: int, path: Path) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rule = struct.pack("<Qi", _READ, beneath)
        libc.syscall("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)
