"""Who could change the code that root is about to run and install. Looks at owners and modes, up to /."""

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


def uid_name(uid: int) -> str:
    """How people call a user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def members(gid: int) -> set[int]:
    """The users of a group, by uid."""
    found = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    try:
        names = grp.getgrgid(gid).gr_mem
    except KeyError:
        names = []
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue  # a member that was deleted
    return found


def _has_list(path: Path) -> bool:
    """Whether an access control list says more than the mode does; then the mode's group bits are its mask."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except OSError:  # none, or a file system without
        return False


def stranger(path: Path, trusted: frozenset[int], parent: bool = False) -> str:
    """Who else than `trusted` can change this file or directory; "" if nobody can.

    In a sticky directory (/tmp) others can add names, not take ours: that does for a parent.
    """
    found = path.lstat()
    if found.st_uid not in trusted:
        return f"{path} belongs to {uid_name(found.st_uid)}"
    if stat.S_ISLNK(found.st_mode):
        return "" if parent else f"{path} is a symbolic link"
    if parent and found.st_mode & stat.S_ISVTX:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write {path}"
    if found.st_mode & stat.S_IWGRP and _has_list(path):
        return f"an access control list lets others write {path}"
    if found.st_mode & stat.S_IWGRP and members(found.st_gid) - trusted:
        return f"group {found.st_gid} may write {path}"
    return ""


def strangers(paths: Iterable[Path], trusted: frozenset[int], top: Path = Path("/")) -> str:
    """The first way in which somebody else can change one of `paths`, what is in them, or the way to them from `top`.

    What does not exist is nobody's.
    """
    paths = list(paths)
    for path in paths:
        for part in (path, *(sorted(path.rglob("*")) if path.is_dir() else ())):
            if os.path.lexists(part) and (found := stranger(part, trusted)):
                return found
    return strangers_to((path.parent for path in paths), trusted, top)


def _way(directory: Path, top: Path) -> Iterator[Path]:
    """Each directory and each link that is passed from `top` to a directory, it too, as far as they are there."""
    steps, links = [*reversed(directory.relative_to(top).parts)], 0
    at = top
    yield at
    while steps:
        step = steps.pop()
        at = at.parent if step == ".." else at / step
        if not os.path.lexists(at):
            return
        yield at
        if at.is_symlink():
            links += 1
            if links > 40:  # as many as the kernel follows
                return
            target = Path(os.readlink(at))
            steps += reversed(target.parts[target.is_absolute() :])
            at = Path("/") if target.is_absolute() else at.parent
            yield at


def strangers_to(directories: Iterable[Path], trusted: frozenset[int], top: Path = Path("/")) -> str:
    """The first way in which somebody else can change what one of `directories` is; what is in them does not matter.

    Links on the way are followed, and so is the way to where they lead.
    """
    for directory in directories:
        for part in _way(directory, top if top in (directory, *directory.parents) else Path("/")):
            if found := stranger(part, trusted, parent=True):
                return found
    return ""
