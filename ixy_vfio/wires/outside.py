"""Cables to outside: one port, one file descriptor or file, frame by frame in Python."""

import errno
import os

import numpy as np

from ixy_vfio.wires.cable import Cable, Plane

BATCH = 64  # frames in and out per step, at most: system calls take far longer than the rest of a step
LARGEST = 16124  # bytes of a frame without CRC: the largest MAXFRS
_NOT_NOW = {errno.EAGAIN, errno.ENOBUFS, errno.EINTR}
_GONE = {errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EBADFD, errno.EIO, errno.EBADF}


class OutsideCable(Cable):
    """Frames in by `read`, out by `write`; both raise OSError, BlockingIOError when there is nothing to be done now."""

    outside = True
    shortest = 0  # bytes to which a frame from outside is padded

    def __init__(self, spec: str, port: int) -> None:
        super().__init__(spec, port)
        self.buffer = np.zeros(1 << 16, np.uint8)
        self.view = self.buffer.data
        self._out = np.zeros(1 << 16, np.uint8)
        self._out_view = self._out.data
        self._waiting = 0  # bytes of a frame in _out that could not be written yet
        self.received = self.sent = self.dropped = self.oversize = 0

    def read(self) -> int:
        """Read one frame into `buffer`; its length, or 0 for one that is to be ignored."""
        raise BlockingIOError

    def write(self, frame: memoryview) -> None:
        """Send one frame."""

    def failed(self, error: OSError) -> None:
        """What is no passing state ends the cable, never the simulator, and is told unless the far end just went."""
        if error.errno in _NOT_NOW:
            return
        self.alive = False
        if error.errno not in _GONE:
            self.tell(f"{error.strerror or error}: the cable is dead")

    def bring(self, plane: Plane, budget: int) -> int:
        """Frames from outside into the port's packet buffer."""
        for count in range(min(budget, BATCH) if self.alive else 0):
            try:
                length = self.read()
            except OSError as error:
                self.failed(error)
                return count
            if 0 < length < self.shortest:
                self.buffer[length : self.shortest] = 0
                length = self.shortest
            if length > LARGEST:
                self.oversize += 1
            elif length and plane.push(self.ports[0], self.buffer, length):
                self.received += 1
            elif length:
                self.dropped += 1
        return min(budget, BATCH) if self.alive else 0

    def take(self, plane: Plane, budget: int) -> int:
        """Frames that the port has sent; one that cannot be sent now is kept, a dead cable takes them all."""
        for count in range(min(budget, BATCH)):
            length = self._waiting or plane.pop(self.ports[0], self._out)
            if length < 0:
                return count
            self._waiting = 0
            if not self.alive:
                self.dropped += 1
                continue
            try:
                self.write(self._out_view[:length])
                self.sent += 1
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self.oversize += 1
                    continue
                self.failed(error)
                self._waiting = length
                return count
        return min(budget, BATCH)

    def status(self) -> dict[str, object]:
        """Frames in and out; `oversize` are those that an end could not represent."""
        names = ("received", "sent", "dropped", "oversize")
        return super().status() | {name: getattr(self, name) for name in names}


class FdCable(OutsideCable):
    """A cable on a file descriptor that it owns. Linux leaves it to the NIC to pad a frame to Ethernet's minimum."""

    shortest = 60  # without CRC

    def __init__(self, spec: str, port: int, fd: int) -> None:
        super().__init__(spec, port)
        self.fd = fd
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)

    def filenos(self) -> list[int]:
        """The file descriptor, while the far end lives."""
        return [self.fd] if self.alive and self.fd >= 0 else []

    def close(self) -> None:
        """Close the file descriptor."""
        self.alive = False
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
