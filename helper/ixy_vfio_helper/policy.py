"""Who may have what: a TOML file that root owns, one table per user, and nothing for anybody else.

[user.alice]                     # a login name, or a uid in quotes
devices = ["0000:03:00.0"]
memory_mib = 512                 # optional: 256, for all leases together
leases = 2                       # optional: 4, at one time
"""

import errno
import os
import pwd
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixy_vfio_helper.protocol import ADDRESS, MAX_DEVICES

PATH = Path("/etc/ixy_vfio/policy.toml")
_LIMITS = {"memory_mib": (256, 1 << 20), "leases": (4, 64)}  # key -> (default, highest)


class PolicyError(ValueError):
    """The policy file cannot be used; says where and why."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one user may have. `memory` is in bytes, for all leases of the user together."""

    uid: int
    devices: frozenset[str]
    memory: int
    leases: int


Policy = Mapping[int, Grant]  # by uid


def load(path: Path = PATH, owner: int = 0) -> Policy:
    """Read the policy. Raises PolicyError unless `owner` alone can write it and every line is understood.

    Raises OSError when this process, or the machine, has nothing left to open a file with.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            for what, found in ((path, os.fstat(file.fileno())), (path.parent, os.stat(path.parent))):
                if found.st_uid != owner or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise PolicyError(f"{what}: must belong to root, and nobody else may write it (chmod go-w)")
            return parse(file.read().decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # that is not the policy's fault
        raise PolicyError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


def parse(text: str, name: str) -> Policy:
    """The policy that `text` says. Raises PolicyError, which names the line or the key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: {error}") from None
    users = document.pop("user", {})
    if document or not isinstance(users, dict):
        raise PolicyError(f"{name}: {next(iter(document), 'user')}: only [user.NAME] tables are known")
    policy: dict[int, Grant] = {}
    for user, table in users.items():
        grant = _grant(table, _uid(user, f"{name}: user.{user}"), f"{name}: user.{user}")
        if grant.uid in policy:
            raise PolicyError(f"{name}: user.{user}: the same user stands there twice")
        policy[grant.uid] = grant
    return policy


def _uid(user: str, where: str) -> int:
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise PolicyError(f"{where}: there is no such user") from None


def _grant(table: Any, uid: int, where: str) -> Grant:
    if not isinstance(table, dict):
        raise PolicyError(f"{where}: must be a table")
    for key in table:
        if key not in ("devices", *_LIMITS):
            raise PolicyError(f"{where}.{key}: unknown key; there are devices, {', '.join(_LIMITS)}")
    devices = table.get("devices", [])
    if not isinstance(devices, list) or len(devices) > MAX_DEVICES:
        raise PolicyError(f"{where}.devices: must be a list of at most {MAX_DEVICES} PCI addresses")
    for device in devices:
        if not isinstance(device, str) or not ADDRESS.fullmatch(device):
            raise PolicyError(f'{where}.devices: {device!r} is not a PCI address like "0000:03:00.0"')
    limits = {}
    for key, (default, highest) in _LIMITS.items():
        value = limits[key] = table.get(key, default)
        if type(value) is not int or not 0 < value <= highest:
            raise PolicyError(f"{where}.{key}: must be a whole number from 1 to {highest}")
    return Grant(uid, frozenset(devices), limits["memory_mib"] << 20, limits["leases"])
