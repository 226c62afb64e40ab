"""What control and a worker say to each other: messages of one size over a SOCK_SEQPACKET socketpair.

Control trusts nothing that a worker says: a message of another size or kind is an error, a counter is only shown. Nor
does it trust a worker to read: a message that finds no room is an error, and nobody waits for it.
"""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from ixy_vfio.core.errors import WorkerError
from ixy_vfio.datapath.queue import PortCounters

SIZE = 512
_HEADER = struct.Struct("<II")  # kind, length of the text
TEXT = SIZE - _HEADER.size


class Kind(IntEnum):
    """Of a message."""

    READY = 1  # worker: sealed, and how (`sandbox.Seal`); waiting for GO
    GO = 2  # control: packets may come
    ASK = 3  # control: send STATISTICS
    STATISTICS = 4  # worker
    STOP = 5  # control: end
    DONE = 6  # worker: ended, as told; the last statistics
    ERROR = 7  # worker: ended; a line that says why
    GIVE_BACK = 8  # control: half of what you may still receive; answered by STATISTICS
    GRANT = 9  # control: so many packets may come in all (`NUMBER`), but for what was given back


NUMBER = struct.Struct("<Q")
_PORT = len(PortCounters.__slots__)
_STATISTICS = struct.Struct(f"<{3 + 2 * _PORT}Q")


@dataclass(frozen=True, slots=True)
class Statistics:
    """A worker's totals. `first_packet` is CLOCK_MONOTONIC in nanoseconds, 0 when there was none yet.

    Of the packets that it was granted it has `taken` so many, and has `returned` so many to be granted to others.
    """

    first_packet: int = 0
    ports: tuple[PortCounters, PortCounters] = (PortCounters(), PortCounters())
    taken: int = 0
    returned: int = 0

    def pack(self) -> bytes:
        """As a message's payload."""
        words = [getattr(port, name) for port in self.ports for name in PortCounters.__slots__]
        return _STATISTICS.pack(self.first_packet, self.taken, self.returned, *words)

    @classmethod
    def unpack(cls, payload: bytes) -> "Statistics":
        """From a message's payload. WorkerError unless it has the length of one."""
        if len(payload) != _STATISTICS.size:
            raise WorkerError(f"malformed statistics: {len(payload)} bytes, not {_STATISTICS.size}")
        first, taken, returned, *words = _STATISTICS.unpack(payload)
        return cls(first, (PortCounters(*words[:_PORT]), PortCounters(*words[_PORT:])), taken, returned)


def send(connection: socket.socket, kind: Kind, payload: bytes = b"") -> None:
    """Send one message; a text that is too long is cut. Raises OSError when the other side is gone.

    BlockingIOError when the other side does not read; TimeoutError, and later, on a socket with a timeout.
    """
    payload = payload[:TEXT]
    connection.send((_HEADER.pack(kind, len(payload)) + payload).ljust(SIZE, b"\0"), socket.MSG_DONTWAIT)


def receive(connection: socket.socket, *, wait: bool = True) -> tuple[Kind, bytes] | None:
    """One message; None when the other side is gone. Without `wait`, BlockingIOError when there is none now."""
    data = connection.recv(SIZE + 1, 0 if wait else socket.MSG_DONTWAIT)
    if not data:
        return None
    if len(data) != SIZE:
        raise WorkerError(f"a message of {len(data)} bytes between control and worker; every one has {SIZE}")
    kind, length = _HEADER.unpack_from(data)
    if kind not in Kind.__members__.values() or length > TEXT:
        raise WorkerError(f"a malformed message between control and worker: kind {kind}, length {length}")
    return Kind(kind), data[_HEADER.size : _HEADER.size + length]
