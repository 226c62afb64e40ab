"""Locks of root's processes. Each is on a file of its own that nobody else can open.

Whoever can open a file can lock it: for a shared lock, the right to read is enough. So a lock file is mode 0600, lies
in a directory of root's, and holds nothing but who has the lock. What others may read lies in other files.
"""

import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path

DEADLINE = 30.0  # seconds to wait for a lock; a bind takes a few
_UID = os.geteuid()  # asked now: the sandbox of a lease does not let it be asked
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (which must be 0)
_WHOLE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Held(Exception):
    """Somebody has the lock; says who."""


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with exactly this mode, if it is not there. Raises OSError if it is somebody else's."""
    try:
        path.mkdir(mode)
        path.chmod(mode)  # whatever the umask
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != _UID or found.st_mode & ~mode & 0o077:
            raise PermissionError(
                errno.EPERM, f"must be a directory of uid {_UID}, mode {mode:o}; remove it", str(path)
            ) from None


def _open(path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != _UID or found.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(errno.EPERM, "others can open this lock; remove it", str(path))
    return fd


def take(path: Path, who: str) -> int | None:
    """Take a lock; the file descriptor returned holds it until it is closed. None if somebody has it.

    `who` is what others are told meanwhile.
    """
    while True:
        fd = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{who}\n".encode(), 0)
            if os.fstat(fd).st_nlink:  # else it was removed while we came
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def holder(path: Path) -> str | None:
    """What the holder of a lock wrote; None if nobody has it."""
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE))[0] == fcntl.F_UNLCK:
            return None
        return os.read(fd, 256).decode(errors="replace").strip()
    finally:
        os.close(fd)


def wait(path: Path, who: str, deadline: float = DEADLINE) -> int:
    """Take a lock, or raise Held when the deadline has passed; says who has it."""
    end = time.monotonic() + deadline
    while (fd := take(path, who)) is None:
        if time.monotonic() >= end:
            raise Held(f"{path}: held by {holder(path) or 'another process'}; that must end first")
        time.sleep(min(0.1, deadline))
    return fd
