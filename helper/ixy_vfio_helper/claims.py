"""Who has which device: one lock file per device, which dies with the process that holds it."""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (which must be 0)


@dataclass(frozen=True, slots=True)
class Claims:
    """Lock files in `directory`, named by PCI address. A lock file is never removed, so that no two can exist."""

    directory: Path

    def claim(self, address: str, uid: int) -> int | None:
        """Take a device; the file descriptor returned holds it until it is closed. None if somebody has it."""
        fd = os.open(self.directory / f"{address}.lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d %d\n" % (uid, os.getpid()), 0)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def holder(self, address: str) -> tuple[int, int] | None:
        """User and process id of the lease that has the device; None if it is free."""
        try:
            fd = os.open(self.directory / f"{address}.lease", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK:
                return None
            uid, pid = (int(word) for word in [*os.read(fd, 64).split(), b"-1", b"-1"][:2])
            return uid, pid
        finally:
            os.close(fd)
