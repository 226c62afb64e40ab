"""Netlink (rtnetlink(7)). Messages are kept as the kernel gave them, with attributes that nobody here knows."""

import os
import socket
import struct
from collections.abc import Iterable
from typing import Self

ERROR, DONE = 2, 3  # linux/netlink.h
REQUEST, ACK, DUMP = 1, 4, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NESTED = 0x8000
SOL_NETLINK, CAP_ACK, EXT_ACK = 270, 10, 11
HEADER = struct.Struct("=IHHII")
SIZE = 1 << 20  # bytes read at once: the kernel never sends a longer message
Attributes = list[tuple[int, bytes]]


def padded(data: bytes) -> bytes:
    """`data`, with zeros up to the next multiple of 4 bytes."""
    return data + bytes(-len(data) % 4)


def pack(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes, one after the other."""
    return b"".join(padded(struct.pack("=HH", 4 + len(value), kind) + value) for kind, value in attributes)


def unpack(data: bytes) -> Attributes:
    """The attributes in `data`: type, without flags, and value. Raises ValueError."""
    found = []
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            raise ValueError("a netlink attribute is longer than its message")
        found.append((kind & 0x3FFF, data[4:length]))
        data = data[length + 3 & ~3 :]
    return found


class Netlink:
    """A socket of one netlink family. A request is answered before the next is made."""

    def __init__(self, protocol: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(30.0)
        for option in (CAP_ACK, EXT_ACK):  # answers do not repeat the request, and say more than a number
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The messages of all objects that the request names, without the netlink header. Raises OSError."""
        return self._ask(kind, REQUEST | DUMP, body)

    def ask(self, kind: int, body: bytes) -> list[bytes]:
        """The messages of one object. Raises OSError."""
        return self._ask(kind, REQUEST | ACK, body)

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Make, change or remove an object. Raises OSError with the kernel's own words."""
        self._ask(kind, REQUEST | ACK | flags, body)

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        self._sequence += 1
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        found: list[bytes] = []
        while True:
            data = self._socket.recv(SIZE)
            while data:
                length, answer, _, sequence, _ = HEADER.unpack_from(data)
                message, data = data[HEADER.size : length], data[length + 3 & ~3 :]
                if sequence != self._sequence:
                    continue  # the answer to a request that timed out
                if answer in (ERROR, DONE):
                    _raise(message, answer == ERROR)
                    return found
                found.append(message)


def _raise(message: bytes, error: bool) -> None:
    """Raise OSError if the last message of an answer has an error number. `error`: it is of type ERROR, not DONE."""
    number = struct.unpack_from("=i", message)[0] if len(message) >= 4 else 0
    if number == 0:
        return
    said = os.strerror(-number)
    words = dict(unpack(message[20:])).get(1, b"") if error else b""  # after the number and the request's header
    raise OSError(-number, f"{said}: {words.rstrip(bytes(1)).decode(errors='replace')}" if words else said)
