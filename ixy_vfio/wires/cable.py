"""What every cable is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.wires.files import Files


class Plane(Protocol):
    """What ports belong to, as a cable sees it."""

    notes: list[str]  # what is to be told to people, a line each
    files: Files  # which files are being read and written

    def push(self, port: int, frame: NDArray[np.uint8], length: int) -> bool:
        """A frame arrives at a port; False when its packet buffer has no room."""

    def pop(self, port: int, into: NDArray[np.uint8]) -> int:
        """The next frame that a port has sent; its length, or -1."""

    def waiting(self, port: int) -> int:
        """Frames in a port's packet buffer."""

    def receives(self, port: int) -> bool:
        """Whether a port has a link and a queue that receives."""


class Cable:
    """Something that ports are plugged into. `cables.parse_cable` makes them."""

    outside = False  # whether `bring` and `take` are to be called at each step

    def __init__(self, spec: str, *ports: int) -> None:
        self.spec = spec
        self.ports = ports  # numbers of the ports at its ends: one, or two back to back
        self.alive = True  # False once the far end is gone for good: no carrier
        self.plane: Plane | None = None  # where it is plugged in
        self.notes: list[str] = []  # what it had to tell

    def tell(self, text: str) -> None:
        """Let the people who run the simulator know `text`, one line."""
        self.notes.append(text)
        if self.plane is not None:
            self.plane.notes.append(f"cable {self.spec}: {text}")

    def attach(self, plane: Plane) -> None:
        """The ports are there and free: take hold of what is needed. Raises UsageError."""

    def bring(self, plane: Plane, budget: int) -> int:
        """Push up to `budget` frames from outside into the port's packet buffer; returns how many."""
        return 0

    def take(self, plane: Plane, budget: int) -> int:
        """Send up to `budget` of the frames that the port has sent; returns how many."""
        return 0

    def filenos(self) -> list[int]:
        """File descriptors that turn readable when a frame has come from outside."""
        return []

    def status(self) -> dict[str, object]:
        """What the control socket shows of it: counters, and the state of a generator and its sink."""
        return {"spec": self.spec, "alive": self.alive, "notes": list(self.notes)}

    def close(self) -> None:
        """Give up every file descriptor. Idempotent."""
