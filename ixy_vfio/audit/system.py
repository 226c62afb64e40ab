"""Everything that the audit reads of a machine goes through a `System`."""

import fcntl
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ACL = "system.posix_acl_access"  # linux/posix_acl_xattr.h: a version, then (tag, rights, id) for each entry
ACL_USER, ACL_GROUP_OWNER, ACL_GROUP, ACL_MASK = 2, 4, 8, 16


class Denied(Exception):
    """This user may not read it; the argument is the path."""


class Unknown(Exception):
    """It cannot be known here; the argument says why, for a SKIP."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who owns a file, and what others may do with it. `kind` as in `ls -l`: one of -dcbsp.

    `acl` has what a POSIX ACL gives to further users (u) and groups (g) and to the file's group, masked:
    `u1000=6,g15=4,g=0`. Then the group's bits of `mode` are the mask.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    acl: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.mode:04o} {self.uid} {self.gid} {self.acl}".rstrip()


class System(Protocol):
    """A machine to look at. All paths are absolute; what is not there is None or empty. Raises Denied."""

    uid: int  # of who looks

    def data(self, path: str) -> bytes | None:
        """What a file says."""

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted."""

    def target(self, path: str) -> str | None:
        """What a symbolic link says."""

    def resolve(self, path: str) -> str | None:
        """The path with all links followed; None unless something is there."""

    def node(self, path: str) -> Node | None:
        """Owner and mode, of what a link points to."""

    def device(self, path: str) -> str | None:
        """Which device a node is, like `c 10:196`, whatever its name and wherever it lies; None: it is no node.

        For /proc/PID/fd/N: what is open there.
        """

    def seals(self, path: str) -> int | None:
        """The seals of a memfd (F_GET_SEALS), by a path in /proc that leads to it; None: it has none to ask for."""

    def lacks(self) -> Mapping[str, str] | None:
        """Layers of a worker's sandbox that the kernel does not offer, and why (core/layers.py); None: not known."""


def parse_acl(data: bytes) -> str:
    """What an ACL gives to others than owner and everybody (`Node.acl`)."""
    entries = list(struct.iter_unpack("<HHI", data[4 : len(data) - (len(data) - 4) % 8]))
    mask = next((rights for tag, rights, _ in entries if tag == ACL_MASK), 7)
    names = {ACL_USER: "u{}", ACL_GROUP: "g{}", ACL_GROUP_OWNER: "g"}
    if not any(tag in (ACL_USER, ACL_GROUP) for tag, _, _ in entries):
        return ""
    return ",".join(f"{names[tag].format(who)}={rights & mask}" for tag, rights, who in entries if tag in names)


class LiveSystem:
    """The machine that this process runs on, or one whose files lie below `root`."""

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self.uid = os.geteuid()

    def data(self, path: str) -> bytes | None:
        """See `System`."""
        try:
            return Path(self._root + path).read_bytes()
        except PermissionError:
            raise Denied(path) from None
        except OSError:  # not there, or a process or device that went away
            return None

    def names(self, path: str) -> list[str]:
        """See `System`."""
        try:
            return sorted(os.listdir(self._root + path))
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return []

    def target(self, path: str) -> str | None:
        """See `System`."""
        try:
            return os.readlink(self._root + path)
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return None

    def resolve(self, path: str) -> str | None:
        """See `System`."""
        try:
            return os.path.realpath(self._root + path, strict=True).removeprefix(self._root)
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return None

    def node(self, path: str) -> Node | None:
        """See `System`."""
        try:
            found = os.stat(self._root + path)
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return None
        kind, mode = stat.filemode(found.st_mode)[0], stat.S_IMODE(found.st_mode)
        return Node(kind, mode, found.st_uid, found.st_gid, self._acl(path) if mode & 0o070 else "")

    def _acl(self, path: str) -> str:
        try:
            data = os.getxattr(self._root + path, ACL)
        except OSError:  # it has none
            return ""
        return parse_acl(data)

    def device(self, path: str) -> str | None:
        """See `System`."""
        try:
            found = os.stat(self._root + path)
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return None
        kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(found.st_mode))
        return f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if kind else None

    def seals(self, path: str) -> int | None:
        """See `System`."""
        try:
            fd = os.open(self._root + path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            raise Denied(path) from None
        except OSError:
            return None
        try:
            return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            return None
        finally:
            os.close(fd)

    def lacks(self) -> Mapping[str, str] | None:
        """See `System`."""
        if self._root:
            return None
        try:
            from ixy_vfio.core import layers
        except ImportError:  # it needs cffi, which the rest of an audit does without
            return None
        return layers.missing()
