"""What keeps other users of the machine away: who may drive the simulated ports makes the simulator write files.

Three layers, each for the case that another fails: nobody else can put names into the directory, or move it; nobody
else can open the sockets in it, whatever the umask; and who connects all the same is asked for by the kernel.
"""

import grp
import os
import pwd
import socket
import stat
import struct
from pathlib import Path

from ixy_vfio.core.errors import UsageError

SO_PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


def private_directory(path: Path) -> None:
    """Make `path` for this user alone, or see that it is. Raises UsageError with what to do."""
    mask = os.umask(0o077)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    check_private(path)


def check_private(path: Path) -> None:
    """See that nobody else can change what is in a directory. Raises UsageError with what to do."""
    try:
        reason = _why_not(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    if reason:
        raise UsageError(f"{reason}: give a directory that only you can write to")


def _why_not(path: Path) -> str:
    """How somebody else could change what is in `path`, or put another in its place; "" if nobody can."""
    real = path.resolve()
    found = real.stat()
    if found.st_uid != os.geteuid():
        return f"{path} belongs to {_user(found.st_uid)}"
    if _writers(found):
        return f"{_writers(found)} may write to {path}"
    trusted = {0, os.geteuid(), *_unmapped()}
    for above in real.parents:
        found = above.stat()
        if found.st_uid not in trusted:
            return f"{above}, above {path}, belongs to {_user(found.st_uid)}"
        if _writers(found) and not found.st_mode & stat.S_ISVTX:  # in /tmp others can add names, not take ours
            return f"{_writers(found)} may write to {above}, above {path}"
    return ""


def _writers(found: os.stat_result) -> str:
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and _members(found.st_gid) - {0, os.geteuid()}:
        return f"group {found.st_gid}"
    return ""


def _members(gid: int) -> set[int]:
    """The users of a group, by uid: that of a user alone may write what is the user's."""
    if gid == 0:
        return set()
    found = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    try:
        names = grp.getgrgid(gid).gr_mem
    except KeyError:
        return found | {-1}  # a group without a name: who is in it cannot be known
    return found | {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in names}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _unmapped() -> set[int]:
    """In a user namespace: the uid that stands for everybody outside, root among them, who is not of this machine."""
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return set() if whole else {int(Path("/proc/sys/kernel/overflowuid").read_text())}


def bind_private(listener: socket.socket, path: Path) -> None:
    """Bind to a name that only this user can open, whatever the umask. Raises OSError."""
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)


def stranger(connection: socket.socket) -> str:
    """Who is at the other end, if that is neither this user nor root; "" otherwise."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, SO_PEERCRED.size)
    _, uid, _ = SO_PEERCRED.unpack(peer)
    return "" if uid in (0, os.geteuid()) else _user(uid)
