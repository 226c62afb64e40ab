"""What every cable is."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixy_vfio.sim.dataplane import DataPlane


class Cable:
    """Something that ports are plugged into. `cables.parse_cable` makes them."""

    outside = False  # whether `bring` and `take` are to be called at each step

    def __init__(self, spec: str, *ports: int) -> None:
        self.spec = spec
        self.ports = ports  # numbers of the ports at its ends: one, or two back to back
        self.alive = True  # False once the far end is gone for good: no carrier
        self.plane: DataPlane | None = None  # where it is plugged in
        self.notes: list[str] = []  # what it had to tell

    def tell(self, text: str) -> None:
        """Let the people who run the simulator know `text`, one line."""
        self.notes.append(text)
        if self.plane is not None:
            self.plane.notes.append(f"cable {self.spec}: {text}")

    def attach(self, plane: "DataPlane") -> None:
        """The ports are there and free: take hold of what is needed. Raises UsageError."""

    def bring(self, plane: "DataPlane", budget: int) -> int:
        """Push up to `budget` frames from outside into the port's packet buffer; returns how many."""
        return 0

    def take(self, plane: "DataPlane", budget: int) -> int:
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
