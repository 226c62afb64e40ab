"""MSI-X: the table and the pending bits in BAR3, and the eventfds that stand for the messages.

PCI 3.0, section 6.8.2. BAR3 of the 82599 is 16 KiB: table at 0, pending bits at 0x2000.
"""

import contextlib
import os
from collections.abc import Callable, Sequence

VECTORS = 64
BAR_SIZE = 0x4000
PBA_OFFSET = 0x2000
ENTRY_SIZE = 16
MASKED = 1


def signal(fd: int) -> None:
    """Signal an eventfd. Where its counter is full, or it is none, nobody is waiting."""
    with contextlib.suppress(OSError):
        os.eventfd_write(fd, 1)


class Msix:
    """The MSI-X function of one port. `usable()` is whether MSI-X is enabled, and its function mask clear."""

    def __init__(self, usable: Callable[[], bool], violate: Callable[[str], None]) -> None:
        self._usable = usable
        self._violate = violate
        self._eventfds: list[int | None] = [None] * VECTORS
        self._table = [[0, 0, 0, MASKED] for _ in range(VECTORS)]
        self._pending = 0
        self.sent = [0] * VECTORS  # messages by vector, for tests and the control socket

    def reset(self) -> None:
        """Function level reset: all masked, none pending. Eventfds belong to the client and stay."""
        for vector, entry in enumerate(self._table):
            entry[:] = [0, 0, 0, MASKED if self._eventfds[vector] is None else 0]
        self._pending = 0

    def assign(self, start: int, fds: Sequence[int | None]) -> None:
        """Take over eventfds for vectors from `start`; None takes one away. Unmasks, as the kernel's VFIO does."""
        for vector, fd in enumerate(fds, start):
            old, self._eventfds[vector] = self._eventfds[vector], fd
            if old is not None:
                os.close(old)
            self._table[vector][3] = MASKED if fd is None else 0
        self.flush()

    def release(self) -> None:
        """Give up every eventfd."""
        self.assign(0, [None] * VECTORS)

    @property
    def assigned(self) -> int:
        """How many vectors have an eventfd."""
        return sum(fd is not None for fd in self._eventfds)

    def trigger(self, vector: int) -> None:
        """Send the message of a vector, or leave it pending while that is masked."""
        fd = self._eventfds[vector]
        if fd is None or self._table[vector][3] & MASKED or not self._usable():
            self._pending |= 1 << vector
            return
        self._pending &= ~(1 << vector)
        self.sent[vector] += 1
        signal(fd)

    def signal(self, vector: int) -> None:
        """Signal the eventfd of a vector as if its message had come: masks and pending bits are not asked."""
        fd = self._eventfds[vector]
        if fd is not None:
            signal(fd)

    def storm(self) -> None:
        """Send the messages of all vectors, whatever masks them: for a hostile device."""
        for fd in self._eventfds:
            if fd is not None:
                signal(fd)

    def flush(self) -> None:
        """Send what is pending and no longer masked."""
        pending, vector = self._pending, 0
        while pending:
            if pending & 1:
                self.trigger(vector)
            pending >>= 1
            vector += 1

    def read(self, offset: int, size: int) -> bytes:
        """Read of BAR3: dwords and quadwords, aligned."""
        if size not in (4, 8) or offset % size:
            self._violate(f"MSI-X BAR: read of {size} bytes at {offset:#x}")
            return bytes(size)
        return b"".join(self._dword(at).to_bytes(4, "little") for at in range(offset, offset + size, 4))

    def _dword(self, offset: int) -> int:
        if offset < VECTORS * ENTRY_SIZE:
            return self._table[offset // ENTRY_SIZE][offset % ENTRY_SIZE // 4]
        if PBA_OFFSET <= offset < PBA_OFFSET + VECTORS // 8:
            return self._pending >> 8 * (offset - PBA_OFFSET) & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, data: bytes) -> None:
        """Write to BAR3."""
        if len(data) not in (4, 8) or offset % len(data):
            self._violate(f"MSI-X BAR: write of {len(data)} bytes at {offset:#x}")
            return
        for at in range(0, len(data), 4):
            value = int.from_bytes(data[at : at + 4], "little")
            where = offset + at
            if where >= VECTORS * ENTRY_SIZE:
                self._violate(f"MSI-X BAR: write of {value:#010x} at {where:#x}, outside the table")
                continue
            self._table[where // ENTRY_SIZE][where % ENTRY_SIZE // 4] = value
        self.flush()
