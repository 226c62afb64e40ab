"""What an attack needs of a device: that it reads, or writes, 64 bytes of memory where it is told."""

import time
from collections.abc import Callable
from typing import Protocol

BLOCK = 64  # bytes of one DMA
WORK = 16384  # bytes of memory beside the rings, of which an engine uses the first half
LANDED, FORGED = 8192, 12288  # where in it controls write to and read from, and where they put descriptors
DEADLINE = 20.0  # seconds for what must happen: as long as an emulated processor takes that others use as well
GRACE = 0.3  # seconds for what must not happen, after the device said that it is done: at least, see `grace_after`


class Engine(Protocol):
    """A device that can be told where to do DMA. `work` is memory of its own: the first WORK bytes."""

    def start(self) -> None:
        """Reset the device, and set it up so that it does DMA only when told. Raises DeviceError."""

    def write(self, iova: int, nonce: bytes) -> bytes:
        """Let the device write BLOCK bytes to `iova`; returns what they should be, with `nonce` (8 bytes) inside.

        A nonce of BLOCK bytes is written as it is; to a NIC it is a frame.
        """

    def read(self, iova: int, grace: float) -> bytes | None:
        """Let the device read BLOCK bytes at `iova`: what it gave out again, within `grace` seconds after."""

    def fetch(self, iova: int, grace: float) -> bool:
        """Let the device fetch `forged()` descriptors from `iova`: whether it acted on them within `grace` seconds."""

    def forged(self) -> bytes:
        """Descriptors for `fetch`; none where the device has none."""

    def kick(self, iova: int) -> None:
        """As `write`, but does not wait."""

    def close(self) -> None:
        """Unmap what it has mapped of the device, which is open as long as that is."""


def grace_after(control: float, least: float = GRACE) -> float:
    """Seconds to wait for what must not happen, if the same took `control` seconds where it had to happen.

    On a slow machine an attack that gets through is slow as well.
    """
    return max(least, 4 * control)


def wait(ready: Callable[[], bool], seconds: float = DEADLINE) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True
