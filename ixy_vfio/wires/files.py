"""Opens files that are read and written while ports run, and sees that nobody writes what another needs."""

import os
import stat

from ixy_vfio.core.errors import CaptureError, UsageError

FileId = tuple[int, int]  # device, inode: the same by whatever name
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe without a far end shall not stop us


def file_id(fd: int) -> FileId:
    """What tells whether two descriptors, opened by different names, are the same file. Raises OSError."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def is_regular(fd: int) -> bool:
    """Whether a file descriptor is an ordinary file. Raises OSError."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | _FLAGS, 0o666)
    except FileExistsError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CaptureError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def open_to_read(path: str) -> int:
    """A descriptor of a file that can be read twice. Raises CaptureError."""
    fd = _open(path, os.O_RDONLY)
    if not is_regular(fd):
        os.close(fd)
        raise CaptureError(f"{path}: is no ordinary file: a capture is read twice, first to see that all of it is good")
    return fd


def open_to_write(path: str) -> tuple[int, bool]:
    """(descriptor, whether the file was made now) of a file to be overwritten, nothing of which is touched yet.

    Raises CaptureError: also for pipes and devices, whose reader could keep us waiting. /dev/null is taken.
    """
    try:
        fd, made = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), True
    except FileExistsError:
        fd, made = _open(path, os.O_WRONLY | os.O_CREAT), False  # a link may lead to a file that is to be made
    if not is_regular(fd) and not os.path.samestat(os.fstat(fd), os.stat(os.devnull)):
        os.close(fd)
        raise CaptureError(f"{path}: is no ordinary file: whoever reads it could keep the ports waiting")
    return fd, made


class Files:
    """The files that one process reads and writes at a time: nobody may write one that another needs."""

    def __init__(self) -> None:
        self._uses: list[tuple[FileId, str, bool]] = []  # file, user, whether it writes

    def claim(self, fd: int, path: str, user: str, *, writes: bool) -> None:
        """Note a use of an open file. Raises UsageError where one of two users of a file writes it."""
        if not is_regular(fd):
            return
        file = file_id(fd)
        for other, name, written in self._uses:
            if other == file and (writes or written):
                raise UsageError(f"{path} is also {'written' if written else 'read'} by {name}")
        self._uses.append((file, user, writes))

    def release(self, user: str) -> None:
        """Forget what `user` uses."""
        self._uses = [use for use in self._uses if use[1] != user]
