"""Asks `ixy-vfio in-use` who uses the NIC. It comes from the tree's .venv, so root never runs it.

It runs as the user who called sudo (else as nobody), without privileges, once in each network namespace. What it
says is read as data from a stranger.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup.system import PATH

NOBODY = (65534, 65534)
DEADLINE = 120.0
MAX_NAMESPACES = 32  # others than ours that are looked into


@dataclass(slots=True)
class Found:
    """Reasons not to take the NIC, and what cannot be given back to it afterwards, one line each."""

    reasons: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def caller() -> tuple[int, int]:
    """(uid, gid) of who runs the check: who called sudo, else nobody; without root, this user."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    uid, gid = os.environ.get("SUDO_UID", "0"), os.environ.get("SUDO_GID", "0")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() and uid != "0" else NOBODY


def ssh_connection() -> str:
    """$SSH_CONNECTION, of us or of the nearest ancestor that has it: sudo drops it."""
    pid = os.getpid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return ""
        for entry in environment:
            if entry.startswith(b"SSH_CONNECTION="):
                return entry.partition(b"=")[2].decode(errors="replace")
    return ""


def namespaces() -> list[tuple[str, str]]:
    """The network namespaces other than ours, as (path, what people call it)."""
    seen = {os.stat("/proc/self/ns/net").st_ino}
    found = []
    named = [(path, path.name) for path in sorted(Path("/run/netns").glob("*"))]
    processes = [(path / "ns/net", f"that of process {path.name}") for path in sorted(Path("/proc").glob("[1-9]*"))]
    for path, name in [*named, *processes]:
        try:
            inode = path.stat().st_ino
        except OSError:  # not ours to see, or gone
            continue
        if inode not in seen:
            seen.add(inode)
            found.append((str(path), name))
    return found


def look(tree: Path, address: str) -> Found:
    """Who uses the NIC, here and in other network namespaces. Raises Refusal when that cannot be found out."""
    python = tree / ".venv/bin/python"
    if not python.exists():
        raise Refusal(
            f"{python} is missing, and with it the check who uses the NIC; run scripts/venv first, not as root"
        )
    command = [str(python), "-I", "-B", "-m", "ixy_vfio.apps.inuse", address, "--json"]
    found = Found()
    indexes: list[int] = []
    here = _ask(command)
    _read(here, found, indexes, "")
    if os.geteuid() != 0:
        return found  # other namespaces are root's to enter
    others = namespaces()
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        below = [word for index in indexes for word in ("--below", str(index))]
        for path, name in others[:MAX_NAMESPACES]:
            _read(_ask([*command, "--home", str(home), *below], path, home), found, [], name)
    finally:
        os.close(home)
    if len(others) > MAX_NAMESPACES:
        found.reasons.append(f"there are {len(others)} more network namespaces; {MAX_NAMESPACES} were looked into")
    if any(" is in network namespace " in reason for reason in found.reasons):  # then that is the reason
        found.reasons = [reason for reason in found.reasons if "is in another network namespace" not in reason]
    return found


def _ask(command: Sequence[str], namespace: str = "", fd: int = -1) -> dict[str, Any]:
    uid, gid = caller()
    # env starts it when the privileges are gone: setpriv itself could still open what that user may not
    drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
            "--bounding-set=-all", "--", "env"] if os.geteuid() == 0 else []  # fmt: skip
    enter = ["nsenter", f"--net={namespace}", "--"] if namespace else []
    try:
        result = subprocess.run(
            [*enter, *drop, *command], capture_output=True, text=True, timeout=DEADLINE, check=False, cwd="/",
            stdin=subprocess.DEVNULL, pass_fds=[fd] if fd >= 0 else [],
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "SSH_CONNECTION": "" if namespace else ssh_connection()},
        )  # fmt: skip
        said = json.loads(result.stdout)
        if result.returncode not in (0, 2) or not isinstance(said, dict):
            raise ValueError
        return said
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
        if isinstance(error, ValueError):
            lines = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()
            why = clean(lines[-1])
        raise Refusal(
            f"cannot find out who uses the NIC, as uid {uid}: {why}; can that user read {command[0]}?"
        ) from None


def clean(text: str) -> str:
    """Text of a stranger for the terminal: one line, nothing but printable characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]


def _read(said: dict[str, Any], found: Found, indexes: list[int], namespace: str) -> None:
    """Take what was said, as far as it has the right form. Raises Refusal if not."""
    try:
        for reason in said["reasons"]:
            where = f" (in network namespace {namespace})" if namespace else ""
            found.reasons.append(clean(str(reason["text"])) + where)
        found.lost += [clean(str(line)) for line in said["lost"]]
        for interface in said["interfaces"]:
            indexes.append(int(interface["index"]))
            if namespace:
                found.reasons.append(f"{clean(str(interface['name']))} is in network namespace {namespace}")
    except (KeyError, TypeError, ValueError):
        raise Refusal("cannot find out who uses the NIC: `ixy-vfio in-use` said nothing that makes sense") from None
