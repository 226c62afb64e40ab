"""Edits the helper's policy file, as long as nobody else did: a file that people wrote is theirs."""

import contextlib
import json
import os
import pwd
import re
import tomllib
from typing import Any

from ixy_vfio_helper import policy

HEADER = """\
# Which user may lease which device, and how much memory for all leases together. Read again for each lease.
# scripts/setup of ixy_vfio writes this file, until somebody edits it.
"""
Tables = dict[str, dict[str, Any]]


def render(tables: Tables) -> str:
    """The policy file."""
    lines = [HEADER]
    for user, table in sorted(tables.items()):
        name = user if re.fullmatch(r"[A-Za-z0-9_-]+", user) else json.dumps(user)
        lines.append(f"[user.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    return "\n".join(lines)


def parse(text: str | None) -> Tables | None:
    """The tables of a policy file; None when it is not as `render` writes it. Raises PolicyError."""
    if text is None:
        return {}
    policy.parse(text, str(policy.PATH))
    tables: Tables = tomllib.loads(text).get("user", {})
    return tables if render(tables) == text else None


def granted(text: str | None, uid: int, device: str, what: str, memory: int | None) -> bool:
    """Whether the policy gives this device to the user already (with this much memory, if that is asked for)."""
    grant = policy.parse(text or "", str(policy.PATH))[0].get(uid)
    if grant is None or device not in grant.devices or memory not in (None, grant.memory >> 20):
        return False
    known = grant.recorded.get(device, "")
    edited = parse(text) is None  # then people decide whether it must be a certain device
    unread = os.geteuid() != 0 and known.startswith(f"{what} ")  # a serial number is root's to read
    return known == what or unread or (edited and not known)


def table_of(tables: Tables, uid: int) -> str:
    """What the table of a user is called: by the uid, for an account may go, or by the name in older files."""
    for key in tables:
        with contextlib.suppress(KeyError):
            if not key.isdigit() and pwd.getpwnam(key).pw_uid == uid:
                return key
    return str(uid)


def _without(devices: list[str], device: str) -> list[str]:
    return [entry for entry in devices if entry.partition(" ")[0] != device]


def add(tables: Tables, uid: int, name: str, device: str, what: str, memory: int | None) -> Tables:
    """The tables with a grant more; `memory` in MiB (None: as it is, or the helper's default)."""
    key = table_of(tables, uid)
    table = tables.get(key, ({"name": name} if name != str(uid) else {}) | {"devices": [], "memory_mib": 256})
    devices = sorted([*_without(table["devices"], device), f"{device} {what}".strip()])
    return tables | {key: table | {"devices": devices} | ({"memory_mib": memory} if memory else {})}


def remove(tables: Tables, user: str, device: str) -> Tables:
    """The tables without a grant; a user who has nothing left goes."""
    if user not in tables:
        return tables
    left = _without(tables[user]["devices"], device)
    rest = {name: table for name, table in tables.items() if name != user}
    return tables | {user: tables[user] | {"devices": left}} if left else rest
