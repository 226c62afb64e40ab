"""Who may have what: a TOML file that root owns, one table per user, and nothing for anybody else.

[user.1000]                      # a uid, or a login name
name = "alice"                   # optional: for people; nothing looks at it
devices = ["0000:03:00.0 8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10", "0000:04:00.0"]
memory_mib = 512                 # optional: 256, for all leases together
leases = 2                       # optional: 4, at one time

Behind an address may stand which device it must be (identity.py); without that, it may be any. A table that is not
understood gives its user nothing, and is a problem for the log; the others count.
"""

import errno
import logging
import os
import pwd
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ixy_vfio_helper.addresses import ADDRESS
from ixy_vfio_helper.protocol import MAX_DEVICES

PATH = Path("/etc/ixy_vfio/policy.toml")
RECORDED = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4} [0-9a-f]{4}:[0-9a-f]{4}( [0-9a-f]{2}(-[0-9a-f]{2}){7})?")  # identity.py
_LIMITS = {"memory_mib": (256, 1 << 20), "leases": (4, 64)}  # key -> (default, highest)


class PolicyError(ValueError):
    """The policy file, or a table of it, cannot be used; says where and why."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one user may have. `memory` is in bytes, for all leases of the user together."""

    uid: int
    devices: frozenset[str]
    memory: int
    leases: int
    recorded: Mapping[str, str] = field(default_factory=dict)  # address -> which device it must be


Policy = Mapping[int, Grant]  # by uid


def load(path: Path = PATH, owner: int = 0) -> Policy:
    """Read the policy, and log its problems. Raises PolicyError unless `owner` alone can write it and it is TOML.

    Raises OSError when this process, or the machine, has nothing left to open a file with.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            for what, found in ((path, os.fstat(file.fileno())), (path.parent, os.stat(path.parent))):
                if found.st_uid != owner or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise PolicyError(f"{what}: must belong to root, and nobody else may write it (chmod go-w)")
            policy, problems = parse(file.read().decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # that is not the policy's fault
        raise PolicyError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None
    for problem in problems:
        logging.getLogger("ixy_vfio_helper").error("policy: %s", problem)
    return policy


def parse(text: str, name: str) -> tuple[Policy, list[str]]:
    """The policy that `text` says, and what in it is not understood. Raises PolicyError if it is no TOML."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: {error}; until that is mended, nobody gets anything") from None
    users = document.pop("user", {})
    policy, twice = dict[int, Grant](), set[int]()
    strange = ["user"] * (not isinstance(users, dict)) + list(document)
    problems = [f"{name}: {other}: only [user.NAME] tables are known; it gives nothing" for other in strange]
    for user, table in users.items() if isinstance(users, dict) else ():
        try:
            where = f"{name}: user.{user}"
            grant = _grant(table, _uid(user, where), where)
            if grant.uid in policy or grant.uid in twice:
                twice.add(grant.uid)
                policy.pop(grant.uid, None)
                raise PolicyError(f"{where}: uid {grant.uid} stands there twice")
            policy[grant.uid] = grant
        except PolicyError as error:
            problems.append(f"{error}; this user gets nothing")
    return policy, problems


def _uid(user: str, where: str) -> int:
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # a name with a NUL, too
        raise PolicyError(f"{where}: there is no such user") from None


def _grant(table: Any, uid: int, where: str) -> Grant:
    if not isinstance(table, dict):
        raise PolicyError(f"{where}: must be a table")
    for key in table:
        if key not in ("name", "devices", *_LIMITS):
            raise PolicyError(f"{where}.{key}: unknown key; there are name, devices, {', '.join(_LIMITS)}")
    devices = table.get("devices", [])
    if not isinstance(devices, list) or len(devices) > MAX_DEVICES:
        raise PolicyError(f"{where}.devices: must be a list of at most {MAX_DEVICES} PCI addresses")
    recorded: dict[str, str] = {}
    for device in devices:
        address, _, what = device.partition(" ") if isinstance(device, str) else ("", "", "")
        if not ADDRESS.fullmatch(address) or (what and not RECORDED.fullmatch(what)) or address in recorded:
            raise PolicyError(
                f'{where}.devices: {device!r} is not a PCI address like "0000:03:00.0", alone or with what setup '
                "writes behind it, once"
            )
        recorded[address] = what
    limits = {}
    for key, (default, highest) in _LIMITS.items():
        value = limits[key] = table.get(key, default)
        if type(value) is not int or not 0 < value <= highest:
            raise PolicyError(f"{where}.{key}: must be a whole number from 1 to {highest}")
    known = {address: what for address, what in recorded.items() if what}
    return Grant(uid, frozenset(recorded), limits["memory_mib"] << 20, limits["leases"], known)
