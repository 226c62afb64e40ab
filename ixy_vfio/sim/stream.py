"""Messages over a non-blocking stream socket: whole ones in, whole ones out, file descriptors beside them."""

import os
import socket
from array import array
from collections import deque

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.transport import wire


class ProtocolError(DeviceError):
    """The client does not keep to the protocol: its connection ends."""


class Refused(Exception):
    """A command that is answered with an errno; the connection goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class Stream:
    """One end of a vfio-user connection. Header and payload are read apart: descriptors stay with their message."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._in = bytearray()
        self._wanted = wire.HEADER.size
        self._fds: list[int] = []
        self._out: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """Whether replies wait for the client to read: no more of its messages are taken until then."""
        return bool(self._out)

    def receive(self) -> wire.Message | None:
        """The next whole message, None when there is none yet. Raises EOFError at the end, ProtocolError, OSError."""
        while True:
            while len(self._in) < self._wanted:
                if not self._fill():
                    return None
            if len(self._in) == wire.HEADER.size:
                size = wire.HEADER.unpack_from(self._in)[2]
                if not wire.HEADER.size <= size <= wire.MAX_MESSAGE:
                    raise ProtocolError(f"a message of {size} bytes")
                self._wanted = size
                if size > wire.HEADER.size:
                    continue
            return self._take()

    def _take(self) -> wire.Message:
        message_id, command, _, flags, error = wire.HEADER.unpack_from(self._in)
        payload = bytes(self._in[wire.HEADER.size :])
        fds, self._fds = self._fds, []
        self._in.clear()
        self._wanted = wire.HEADER.size
        return wire.Message(message_id, command, flags, error, payload, fds)

    def _fill(self) -> bool:
        """Read what is missing of header or payload; False when nothing is there."""
        space = socket.CMSG_SPACE(wire.MAX_FDS * array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                self._wanted - len(self._in), space, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(array("i", raw[: len(raw) - len(raw) % 4]))
        if flags & socket.MSG_CTRUNC or len(self._fds) > wire.MAX_FDS:
            raise ProtocolError("too many file descriptors")
        if not data:
            raise EOFError
        self._in += data
        return True

    def send(self, message: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send, or queue what does not fit; the descriptors must live until it is sent. Raises OSError."""
        self._out.append((message, fds))
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the client takes it."""
        while self._out:
            message, fds = self._out[0]
            try:
                sent = socket.send_fds(self._socket, [message], fds) if fds else self._socket.send(message)
            except BlockingIOError:
                return
            if sent == len(message):
                self._out.popleft()
            else:
                self._out[0] = (message[sent:], ())

    def close(self) -> None:
        """Close the socket, and the descriptors of a message that never became whole."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._out.clear()
        self._socket.close()
