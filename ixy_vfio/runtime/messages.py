"""What control and a worker say to each other: messages of one size over a SOCK_SEQPACKET socketpair.

What a worker counts stands in a page of its own (`page.Page`); nobody asks for it.

Control trusts nothing that a worker says: a message of another size or kind is an error, a number is only shown. Nor
does it trust a worker to read: a message that finds no room is an error, and nobody waits for it.
"""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from ixy_vfio.core.errors import WorkerError

SIZE = 512
_HEADER = struct.Struct("<II")  # kind, length of the text
TEXT = SIZE - _HEADER.size


class Kind(IntEnum):
    """Of a message."""

    READY = 1  # worker: sealed, and how (`sandbox.Seal`); waiting for GO
    GO = 2  # control: packets may come
    SHARE = 3  # worker: what became of the packets that it was granted (`Share`): unasked when all of them have come
    GIVE_BACK = 4  # control: half of what you may still receive; answered by SHARE
    GRANT = 5  # control: so many packets may come in all (`NUMBER`), but for what was given back
    STOP = 6  # control: end
    DONE = 7  # worker: ended, as told
    ERROR = 8  # worker: ended; a line that says why


NUMBER = struct.Struct("<Q")
_SHARE = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Share:
    """Of the packets that a worker was granted it has `taken` so many, and has `returned` so many, for others."""

    taken: int = 0
    returned: int = 0

    def pack(self) -> bytes:
        """As a message's payload."""
        return _SHARE.pack(self.taken, self.returned)

    @classmethod
    def unpack(cls, payload: bytes) -> "Share":
        """From a message's payload. WorkerError unless it has the length of one."""
        if len(payload) != _SHARE.size:
            raise WorkerError(f"a malformed share: {len(payload)} bytes, not {_SHARE.size}")
        return cls(*_SHARE.unpack(payload))


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
