"""A cable to capture files: the port receives the frames of one, and what it sends goes into the other."""

import time
from collections.abc import Iterator

import numpy as np

from ixy_vfio.core.errors import CaptureError, UsageError
from ixy_vfio.wires.cable import Plane
from ixy_vfio.wires.capture import Capture
from ixy_vfio.wires.files import file_id
from ixy_vfio.wires.outside import LARGEST, FdCable, OutsideCable
from ixy_vfio.wires.packets import OUTBOUND
from ixy_vfio.wires.writer import CaptureWriter, Recorded

_KEPT = 64  # frames in the packet buffer at which the capture waits
_SPEED = 10_000_000_000


class CaptureCable(OutsideCable):
    """A capture in, a capture out. Stamps of the one out are the time of day, in ns.

    What cannot be replayed as it was is refused before anything starts. A capture that ends early is replayed up to
    there, and said to. Nothing in a file, and no full disk, ends more than the replay, or the recording, of that file.
    """

    shortest = FdCable.shortest

    def __init__(self, spec: str, port: int, files: str) -> None:
        super().__init__(spec, port)
        source, comma, target = files.partition(",")
        if not comma:
            raise UsageError(f"cable {spec}: write IN,OUT; either may be empty")
        self._source: Capture | None = None
        self._writer: CaptureWriter | None = None
        self._frames: Iterator[bytes] = iter(())
        interface = Recorded(f"port{port}", f"what port {port} of ixy-vfio sim has sent", "simulated 82599", _SPEED)
        try:
            self._source = Capture(source) if source else None
            self._writer = CaptureWriter(target, interface, "ixy-vfio sim") if target else None
            if self._source is not None:
                if self._writer is not None and file_id(self._source.fileno()) == file_id(self._writer.fileno()):
                    raise CaptureError("IN and OUT are the same file")
                self._source.check()
                self._frames = self._source.frames()
        except CaptureError as error:
            self.close()
            raise UsageError(f"cable {spec}: {error}") from None
        self.done = not source

    def attach(self, plane: Plane) -> None:
        """Nothing else in this simulator may write what is read here, or read or write what is written here."""
        for file, writes in ((self._source, False), (self._writer, True)):
            if file is not None:
                try:
                    plane.files.claim(file.fileno(), file.path, self.spec, writes=writes)
                except UsageError as error:
                    plane.files.release(self.spec)
                    raise UsageError(f"cable {self.spec}: {error}") from None

    def bring(self, plane: Plane, budget: int) -> int:
        """The next frames, as soon as the port receives and has room: a capture is not lost for being early."""
        self._begin()
        room = 0 if self.done else _KEPT - plane.waiting(self.ports[0])
        ready = room > 0 and plane.receives(self.ports[0])
        return super().bring(plane, min(budget, room)) if ready else 0

    def read(self) -> int:
        """The next frame of the capture; the length alone of one that is too long for the port."""
        try:
            frame = next(self._frames, None)
        except CaptureError as error:
            frame = None
            self._end(f" ends early: {error}")
        if frame is None:
            if not self.done:
                self._end("")
            raise BlockingIOError(11, "the capture is at its end")
        if len(frame) <= LARGEST:
            self.buffer[: len(frame)] = np.frombuffer(frame, np.uint8)
        return len(frame)

    def _end(self, why: str) -> None:
        self.done = True
        if why or self.oversize:
            assert self._source is not None
            long = f", {self.oversize} longer than {LARGEST} bytes left out" if self.oversize else ""
            self.tell(f"{self._source.path}{why or ' is at its end'}; {self.received} frames received{long}")

    def _begin(self) -> None:
        """Overwrite the file at the first step: until then the command may be refused, and nothing shall be lost."""
        if self._writer is not None and not self._writer.begun:
            try:
                self._writer.begin(time.time_ns())
            except OSError as error:
                self._give_up(self._writer, error)

    def write(self, frame: memoryview) -> None:
        """Record a frame."""
        if self._writer is not None:
            self._writer.packet(bytes(frame), time.time_ns(), OUTBOUND)

    def take(self, plane: Plane, budget: int) -> int:
        """Record, and let others see it."""
        taken = super().take(plane, budget)
        if taken and self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(self._writer, error)
        return taken

    def _give_up(self, writer: CaptureWriter, error: OSError) -> None:
        """The file takes no more: the port goes on sending, and nobody records it."""
        self._writer = None
        self.tell(f"{writer.path}: {error.strerror or error}: no more frames are recorded")
        writer.close()

    def status(self) -> dict[str, object]:
        """Adds whether the capture is at its end."""
        return super().status() | {"done": self.done}

    def close(self) -> None:
        """Complete the file out with its statistics, and close both."""
        self.alive = False
        if self._source is not None:
            self._source.close()
        if self._writer is not None:
            writer = self._writer
            try:
                if writer.begun:
                    writer.statistics(time.time_ns(), self.dropped)
                    writer.flush()
            except OSError as error:
                self._give_up(writer, error)
            writer.close()
            self._writer = None
