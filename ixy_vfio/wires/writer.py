"""Writes pcapng files (draft-ietf-opsawg-pcapng) that say where, by what and in which direction packets were seen.

What is in the file is whole at every `flush`: when a disk is full, the part of a block that it took is cut off again.
"""

import contextlib
import os
import platform
import struct
from typing import NamedTuple, Self

from ixy_vfio.wires.files import is_regular, open_to_write

SNAPLEN = 1 << 18  # bytes; Wireshark's limit, never reached
_SECTION, _INTERFACE, _STATISTICS, _ENHANCED = 0x0A0D0D0A, 1, 5, 6
_END = bytes(4)  # opt_endofopt
_PACKET = struct.Struct("<IIIIIIII")  # type, total length, interface, stamp (high, low), captured, length
_FLAGS = struct.Struct("<HHI")  # the option epb_flags


class Recorded(NamedTuple):
    """An interface whose packets are written."""

    name: str
    description: str
    hardware: str
    speed: int  # bits a second


class CaptureWriter:
    """A capture file with one interface."""

    def __init__(self, path: str, interface: Recorded, application: str) -> None:
        """Open the file; `begin` overwrites what is in it. Raises CaptureError."""
        self.path = path
        self._interface, self._application = interface, application
        self._fd, self._made = open_to_write(path)
        self._blocks: list[bytes] = []
        self._whole = 0  # bytes of the file up to which it is whole
        self.packets = 0  # written, or about to be
        self._started = 0  # ns; 0 before `begin`

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd

    @property
    def begun(self) -> bool:
        """Whether the file is ours: what was in it is gone."""
        return self._started > 0

    def begin(self, now: int) -> None:
        """Empty the file, and write what it is; `now` in ns since 1970. Raises OSError."""
        self._started = now
        if is_regular(self._fd):
            os.ftruncate(self._fd, 0)
        system = f"{platform.system()} {platform.release()}"
        self._block(
            _SECTION,
            struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
            + _text(2, platform.machine()) + _text(3, system) + _text(4, self._application) + _END,
        )  # fmt: skip
        one = self._interface
        self._block(
            _INTERFACE,
            struct.pack("<HHI", 1, 0, SNAPLEN)
            + _text(2, one.name) + _text(3, one.description) + _option(8, one.speed.to_bytes(8, "little"))
            + _option(9, b"\x09") + _text(12, system) + _text(15, one.hardware) + _END,
        )  # fmt: skip
        self.flush()

    def packet(self, frame: bytes, now: int, direction: int) -> None:
        """Add a packet, seen at `now` (ns since 1970), INBOUND or OUTBOUND; `flush` writes it."""
        length = len(frame)
        padding = bytes(-length % 4)
        total = _PACKET.size - 4 + length + len(padding) + _FLAGS.size + 4 + 4
        head = _PACKET.pack(_ENHANCED, total, 0, now >> 32, now & 0xFFFF_FFFF, length, length, 0)[:-4]
        self._blocks += (head, frame, padding, _FLAGS.pack(2, 4, direction), _END, total.to_bytes(4, "little"))
        self.packets += 1

    def statistics(self, now: int, dropped: int) -> None:
        """Add how many packets there were, and how many of them the file lacks; `flush` writes it."""
        stamps = _option(2, _stamp(self._started)) + _option(3, _stamp(now))
        seen = _option(4, (self.packets + dropped).to_bytes(8, "little"))
        lost = _option(5, dropped.to_bytes(8, "little"))
        kept = _option(8, self.packets.to_bytes(8, "little"))
        self._block(_STATISTICS, bytes(4) + _stamp(now) + stamps + seen + lost + kept + _END)

    def flush(self) -> None:
        """Write what was added. Raises OSError; the file is whole then, without what was added."""
        data = memoryview(b"".join(self._blocks))
        self._blocks.clear()
        size = len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._whole)
            raise
        self._whole += size

    def close(self) -> None:
        """Close the file; one that was made for nothing is removed. Idempotent."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._made and not self.begun:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block(self, kind: int, body: bytes) -> None:
        total = struct.pack("<I", 12 + len(body))
        self._blocks += (struct.pack("<I", kind), total, body, total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode("utf-8", "replace")[:1024])


def _stamp(now: int) -> bytes:
    return struct.pack("<II", now >> 32, now & 0xFFFF_FFFF)
