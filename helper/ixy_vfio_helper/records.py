"""What the helper writes down for an audit: the ledger of a leased device, `LEASES/ADDRESS.ledger`.

    0x1000000000 0x2000 rw rings        IOVA, size, rights of the device, purpose: a line for each mapping

It is opened when the device is leased, for later nothing can be opened, and blank when the lease is over.
"""

import os
from pathlib import Path

from ixy_vfio_helper.memory import Memory
from ixy_vfio_helper.protocol import Purpose


class Ledger:
    """The mappings of one device of one lease."""

    def __init__(self, directory: Path, address: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(directory / f"{address}.ledger", flags, 0o644)
        self._size = 0

    def add(self, iova: int, memory: Memory, purpose: int) -> None:
        """Write a line before the mapping is made."""
        line = f"{iova:#x} {memory.size:#x} {'rw' if memory.writable else 'r'} {Purpose(purpose).name.lower()}\n"
        self._size += os.pwrite(self._fd, line.encode(), self._size)

    def close(self) -> None:
        """Nothing is mapped any more."""
        os.pwrite(self._fd, b"\n" * self._size, 0)
        os.close(self._fd)
