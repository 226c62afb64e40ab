"""A cable to capture files: the port receives the frames of one, and what it sends goes into the other."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import dpkt
import numpy as np

from ixy_vfio.core.errors import UsageError
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.outside import LARGEST, OutsideCable

if TYPE_CHECKING:
    from ixy_vfio.sim.dataplane import DataPlane

_RXCTRL = ixgbe.RXCTRL.offset() // 4
_KEPT = 64  # frames in the packet buffer at which the capture waits


class CaptureCable(OutsideCable):
    """A capture in, a capture out. Stamps of the one out are the time of day, in ns."""

    def __init__(self, spec: str, port: int, files: str) -> None:
        super().__init__(spec, port)
        source, comma, target = files.partition(",")
        if not comma:
            raise UsageError(f"cable {spec}: write IN,OUT; either may be empty")
        self._source: BinaryIO | None = None
        self._target: BinaryIO | None = None
        self._frames: Iterator[tuple[float, bytes]] = iter(())
        try:
            if source:
                self._source = open(source, "rb")  # noqa: SIM115  # closed by `close`
                self._frames = iter(dpkt.pcapng.Reader(self._source))
            if target:
                self._target = open(target, "wb")  # noqa: SIM115
                interface = dpkt.pcapng.InterfaceDescriptionBlockLE(
                    snaplen=LARGEST,
                    opts=[
                        dpkt.pcapng.PcapngOptionLE(code=dpkt.pcapng.PCAPNG_OPT_IF_TSRESOL, data=b"\x09"),
                        dpkt.pcapng.PcapngOptionLE(),
                    ],
                )
                self._writer = dpkt.pcapng.Writer(self._target, idb=interface)
                self._target.flush()
        except (OSError, ValueError, dpkt.Error) as error:
            self.close()
            raise UsageError(f"cable {spec}: {error}") from None
        self.done = not source

    def bring(self, plane: "DataPlane", budget: int) -> int:
        """The next frames, as soon as the port receives and has room: a capture is not lost for being early."""
        port = plane.ports[self.ports[0]]
        room = _KEPT - int(plane.fifos[port.number]["frames"])
        ready = (
            port.link_up
            and int(port.registers[_RXCTRL]) & 1
            and plane.ports_state[port.number]["receive_enabled"].any()
        )
        return super().bring(plane, min(budget, room)) if ready and room > 0 and not self.done else 0

    def read(self) -> int:
        """The next frame of the capture."""
        try:
            _, frame = next(self._frames)
        except StopIteration:
            self.done = True
            raise BlockingIOError(11, "the capture is at its end") from None
        self.buffer[: len(frame)] = np.frombuffer(frame, np.uint8)
        return len(frame)

    def write(self, frame: memoryview) -> None:
        """Append a frame."""
        if self._target is not None:
            now = time.time_ns()
            block = dpkt.pcapng.EnhancedPacketBlockLE(
                ts_high=now >> 32,
                ts_low=now & 0xFFFF_FFFF,
                caplen=len(frame),
                pkt_len=len(frame),
                pkt_data=bytes(frame),
            )
            self._target.write(bytes(block))

    def take(self, plane: "DataPlane", budget: int) -> int:
        """Write, and let others see it."""
        taken = super().take(plane, budget)
        if taken and self._target is not None:
            self._target.flush()
        return taken

    def status(self) -> dict[str, object]:
        """Adds whether the capture is at its end."""
        return super().status() | {"done": self.done}

    def close(self) -> None:
        """Close both files."""
        for file in (self._source, self._target):
            if file is not None:
                file.close()
        self.alive = False
