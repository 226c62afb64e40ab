"""A small vfio-user client for the tests of the server: raw messages, nothing hidden."""

import json
import os
import socket
from array import array
from pathlib import Path
from typing import Any

from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command


class Client:
    """One blocking connection; `fds` holds the descriptors of the last reply."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.fds: list[int] = []
        self._id = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.drop_fds()
        self.socket.close()

    def drop_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def send(self, command: int, payload: bytes = b"", fds: list[int] | None = None, flags: int = 0) -> int:
        self._id = (self._id + 1) & 0xFFFF
        message = wire.pack(self._id, command, payload, flags)
        sent = socket.send_fds(self.socket, [message], array("i", fds or []))
        if sent < len(message):  # sending nothing to a closed connection is an error, too
            self.socket.sendall(message[sent:])
        return self._id

    def receive(self) -> wire.Message | None:
        return wire.receive(self.socket)

    def call(self, command: int, payload: bytes = b"", fds: list[int] | None = None) -> bytes:
        """A command and its reply's payload. Raises OSError with the errno of an error reply."""
        sent = self.send(command, payload, fds)
        reply = self.receive()
        assert reply is not None, "the server closed the connection"
        assert (reply.id, reply.command, reply.is_reply) == (sent, command, True)
        self.drop_fds()
        self.fds = reply.fds
        if reply.flags & wire.ERROR:
            raise OSError(reply.error, os.strerror(reply.error))
        return reply.payload

    def version(self, **capabilities: Any) -> dict[str, Any]:
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        reply = self.call(Command.VERSION, wire.VERSION.pack(0, 1) + text)
        assert wire.VERSION.unpack_from(reply) == (0, 1)
        assert reply.endswith(b"\0")
        answer: dict[str, Any] = json.loads(reply[wire.VERSION.size : -1])
        return answer

    def read(self, offset: int, size: int = 4, region: int = wire.BAR0_REGION) -> int:
        header = wire.REGION_ACCESS.pack(offset, region, size)
        reply = self.call(Command.REGION_READ, header)
        assert reply[: wire.REGION_ACCESS.size] == header
        data = reply[wire.REGION_ACCESS.size :]
        assert len(data) == size
        return int.from_bytes(data, "little")

    def write(self, offset: int, value: int, size: int = 4, region: int = wire.BAR0_REGION) -> None:
        header = wire.REGION_ACCESS.pack(offset, region, size)
        reply = self.call(Command.REGION_WRITE, header + value.to_bytes(size, "little"))
        assert reply == header

    def post(self, offset: int, value: int) -> None:
        data = wire.REGION_ACCESS.pack(offset, wire.BAR0_REGION, 4) + value.to_bytes(4, "little")
        self.send(Command.REGION_WRITE, data, flags=wire.NO_REPLY)

    def set_irqs(self, flags: int, index: int, start: int, count: int, fds: list[int] | None = None) -> None:
        assert self.call(Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, flags, index, start, count), fds) == b""
