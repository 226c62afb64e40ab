"""Capture files to read, whatever program wrote them: pcapng, pcap, and either of them compressed by gzip.

No package on PyPI does what is needed here. Given cut, damaged and unusual files, dpkt leaves out simple packet blocks
and takes every section and interface for the first; python-pcapng takes a block of length 0 for the end, believes
packets of interfaces that are not there, and knows no pcap; scapy takes a cut file for a whole one.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Self

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires import pcap, pcapng
from ixy_vfio.wires.files import open_to_read
from ixy_vfio.wires.packets import BrokenCapture, Packet, ethernet_frame
from ixy_vfio.wires.source import Source, refuse


def packets(file: BinaryIO) -> Iterator[Packet]:
    """All packets of a capture, from its beginning.

    Raises CaptureError: at the first one when this is no capture that can be read, BrokenCapture where it ends early.
    Memory is bounded by the largest block (16 MiB) and 65,536 interfaces, time by the (decompressed) length.
    """
    source = Source(file)
    magic = source.upto(4)
    if magic == pcapng.MAGIC:
        return pcapng.read(source, magic)
    if magic in pcap.MAGICS:
        return pcap.read(source, magic)
    raise refuse(magic)


class Contents(NamedTuple):
    """What `Capture.check` has found."""

    packets: int
    ends_early: str  # why, or ""


class Capture:
    """A capture file to be replayed."""

    def __init__(self, path: str) -> None:
        """Open it. Raises CaptureError, also for what is no regular file: a capture is read twice."""
        self._file: BinaryIO = os.fdopen(open_to_read(path), "rb", buffering=1 << 16)
        self.path = path

    def fileno(self) -> int:
        """The file descriptor."""
        return self._file.fileno()

    def __iter__(self) -> Iterator[Packet]:
        """The packets from the first one on. Raises CaptureError."""
        return packets(self._file)

    def frames(self) -> Iterator[bytes]:
        """The Ethernet frames from the first one on. Raises CaptureError."""
        return map(ethernet_frame, self)

    def check(self) -> Contents:
        """Read it from beginning to end. Raises CaptureError when a packet cannot be replayed as it was, or none is."""
        count = 0
        try:
            for _ in self.frames():
                count += 1
        except BrokenCapture as broken:
            if not count:
                raise CaptureError(f"{self.path}: {broken}") from None
            return Contents(count, str(broken))
        except CaptureError as error:
            raise CaptureError(f"{self.path}: {error}") from None
        return Contents(count, "")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
