"""Edits the helper's policy file, as long as nobody else did: a file that people wrote is theirs."""

import json
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


def granted(text: str | None, uid: int, device: str, memory: int | None) -> bool:
    """Whether the policy gives the device to the user already (with this much memory, if that is asked for)."""
    grant = policy.parse(text or "", str(policy.PATH)).get(uid)
    return grant is not None and device in grant.devices and memory in (None, grant.memory >> 20)


def add(tables: Tables, user: str, device: str, memory: int | None) -> Tables:
    """The tables with a grant more; `memory` in MiB (None: as it is, or the helper's default)."""
    table = tables.get(user, {"devices": [], "memory_mib": 256})
    changed = table | {"devices": sorted({*table["devices"], device})} | ({"memory_mib": memory} if memory else {})
    return tables | {user: changed}


def remove(tables: Tables, user: str, device: str) -> Tables:
    """The tables without a grant; a user who has nothing left goes."""
    if user not in tables:
        return tables
    left = [other for other in tables[user]["devices"] if other != device]
    rest = {name: table for name, table in tables.items() if name != user}
    return tables | {user: tables[user] | {"devices": left}} if left else rest
