"""Landlock with nothing allowed: no path, no TCP port, no abstract socket and no signal to anybody outside.

All of it is refused by the system-call filter, too. This layer holds where that one cannot be had, or has a gap.
"""

import os
import struct

from ixy_vfio.core import libc

# linux/landlock.h; the numbers of the system calls are the same on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1  # flag: answer with the version of the interface
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # since version: how many rights on files it knows
_NETWORK_SINCE, _SCOPE_SINCE = 4, 6
_NETWORK, _SCOPE = 0b11, 0b11  # bind and connect TCP; abstract Unix sockets and signals


def restrict() -> tuple[list[str], list[str]]:
    """Allow this process nothing, for good; returns what was applied and what this kernel lacks.

    Raises OSError where there is no Landlock at all. Needs no_new_privs.
    """
    version = libc.syscall("landlock_create_ruleset", _CREATE_RULESET, 0, 0, _VERSION)
    rights = (1 << max(count for since, count in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = [rights]
    applied, lacks = ["landlock"], []
    for name, since, bits in (("landlock-network", _NETWORK_SINCE, _NETWORK), ("landlock-scope", _SCOPE_SINCE, _SCOPE)):
        if version >= since:
            attributes.append(bits)
            applied.append(name)
        else:
            lacks.append(f"{name}: needs Landlock {since}, this kernel has {version}")
    data = struct.pack(f"<{len(attributes)}Q", *attributes)
    fd = libc.syscall("landlock_create_ruleset", _CREATE_RULESET, data, len(data), 0)
    try:
        libc.syscall("landlock_restrict_self", _RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)
    return applied, lacks
