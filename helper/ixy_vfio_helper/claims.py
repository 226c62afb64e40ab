"""What the helper writes down of its leases: who has which device, and for an audit what is mapped.

    LEASES/ADDRESS.lease    1000 4711                       user and process; a lock, which dies with that process
    LEASES/ADDRESS.ledger   0x1000000000 0x2000 rw rings    IOVA, size, rights of the device, purpose: a line a mapping

No file is ever removed, so that no two of one name can be in use.
"""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_helper.memory import Memory
from ixy_vfio_helper.protocol import Purpose

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (which must be 0)
_WHOLE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


@dataclass(frozen=True, slots=True)
class Claims:
    """Lock files in `directory`."""

    directory: Path

    def claim(self, address: str, uid: int) -> int | None:
        """Take a device; the file descriptor returned holds it until it is closed. None if somebody has it."""
        fd = _open(self.directory / f"{address}.lease", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE)
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
            fd = _open(self.directory / f"{address}.lease", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            if _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE))[0] == fcntl.F_UNLCK:
                return None
            uid, pid = (int(word) for word in [*os.read(fd, 64).split(), b"-1", b"-1"][:2])
            return uid, pid
        finally:
            os.close(fd)


class Ledger:
    """The mappings of one device. Opened when it is leased, for later nothing can be opened; blank afterwards."""

    def __init__(self, directory: Path, address: str) -> None:
        self._fd = _open(directory / f"{address}.ledger", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def add(self, iova: int, memory: Memory, purpose: int) -> None:
        """Write a line before the mapping is made."""
        rights = "rw" if memory.writable else "r"
        os.write(self._fd, f"{iova:#x} {memory.size:#x} {rights} {Purpose(purpose).name.lower()}\n".encode())

    def close(self) -> None:
        """Nothing is mapped any more."""
        os.pwrite(self._fd, b"\n" * os.lseek(self._fd, 0, os.SEEK_END), 0)
        os.close(self._fd)
