"""Everything that the audit reads of a machine goes through a `System`."""

import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Denied(Exception):
    """This user may not read it; the argument is the path."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who owns a file, and what others may do with it. `kind` as in `ls -l`: one of -dcbsp."""

    kind: str
    mode: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.kind} {self.mode:04o} {self.uid} {self.gid}"


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

    def seals(self, path: str) -> int | None:
        """The seals of a memfd (F_GET_SEALS), by a path in /proc that leads to it; None: it has none to ask for."""

    def lacks(self) -> Mapping[str, str] | None:
        """Layers of a worker's sandbox that the kernel does not offer, and why (core/layers.py); None: not known."""


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
        return Node(stat.filemode(found.st_mode)[0], stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

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
