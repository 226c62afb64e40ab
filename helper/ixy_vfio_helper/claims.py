"""What the helper writes down of its leases: who has which device, and for an audit what is mapped.

    LEASES/locks/ADDRESS    1000 4711                       user and process; a lock, which dies with that process
    LEASES/ADDRESS.lease    1000 4711                       the same for everybody to read
    LEASES/ADDRESS.ledger   0x1000000000 0x2000 rw rings    IOVA, size, rights of the device, purpose: a line a mapping

Nobody but root can open what is in `locks`. No file is ever removed, so that no two of one name can be in use.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_helper import locks
from ixy_vfio_helper.memory import Memory
from ixy_vfio_helper.protocol import Purpose


def _publish(path: Path) -> int:
    """A file that everybody may read, empty."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who has which device. Makes its directories; raises OSError if they are there and somebody else's."""

    directory: Path

    def __post_init__(self) -> None:
        """Nothing can be made later: the process of a lease may write files here, and make no directory."""
        locks.make_directory(self.directory, 0o755)
        locks.make_directory(self.directory / "locks", 0o700)

    def claim(self, address: str, uid: int) -> int | None:
        """Take a device; the file descriptor returned holds it until it is closed. None if somebody has it."""
        who = f"{uid} {os.getpid()}"
        if (fd := locks.take(self.directory / "locks" / address, who)) is None:
            return None
        try:
            published = _publish(self.directory / f"{address}.lease")
            os.write(published, f"{who}\n".encode())
            os.close(published)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def holder(self, address: str) -> tuple[int, int] | None:
        """User and process id of the lease that has the device; None if it is free."""
        who = locks.holder(self.directory / "locks" / address)
        if who is None:
            return None
        uid, pid = (int(word) for word in [*who.split(), "-1", "-1"][:2])
        return uid, pid


class Ledger:
    """The mappings of one device. Opened when it is leased, for later nothing can be opened; blank afterwards."""

    def __init__(self, directory: Path, address: str) -> None:
        self._fd = _publish(directory / f"{address}.ledger")

    def add(self, iova: int, memory: Memory, purpose: int) -> None:
        """Write a line before the mapping is made."""
        rights = "rw" if memory.writable else "r"
        os.write(self._fd, f"{iova:#x} {memory.size:#x} {rights} {Purpose(purpose).name.lower()}\n".encode())

    def close(self) -> None:
        """Nothing is mapped any more."""
        os.pwrite(self._fd, b"\n" * os.lseek(self._fd, 0, os.SEEK_END), 0)
        os.close(self._fd)
