"""The messages between the helper and its clients: SOCK_SEQPACKET, one size, one layout each, no idle byte.

A client never names an IOVA, an address of memory, a path or a file descriptor: there is no field for it.
Magic and version keep their place in every version, so that each side can tell the other what it speaks.
"""

import os
import socket
import struct
from array import array
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any, ClassVar, dataclass_transform

from ixy_vfio_helper.addresses import ADDRESS

MAGIC = 0x48595849  # "IXYH"
VERSION = 1
SIZE = 256
HEADER = struct.Struct("<IHHI")  # magic, version, type, sequence number; then the body, then zeros
TEXT = 160  # bytes of a one-line reason
MAX_DEVICES = 32  # bits of Memory.devices
_FDS = 16  # room for descriptors nobody asked for, so that they can be closed here


class ProtocolError(ValueError):
    """The other side sent something that it may not send."""


class Kind(IntEnum):
    """What a device's file descriptor is."""

    VFIO = 1  # a VFIO device of the kernel
    VFIO_USER = 2  # a vfio-user connection, version negotiated


class State(IntEnum):
    """What a listed device is doing."""

    FREE = 0
    YOURS = 1  # leased by the same user
    LEASED = 2
    UNBOUND = 3  # not bound to vfio-pci, so that it cannot be leased


class Purpose(IntEnum):
    """What memory is for: rings are one device's alone, packets may be shared by the devices of a lease."""

    RINGS = 1
    PACKETS = 2
    READ_ONLY = 3  # packets that are only sent: devices cannot write them


@dataclass_transform(frozen_default=True)
class Message:
    """What is sent. A class of it says its type, the layout of its body, and the file descriptors beside it."""

    code: ClassVar[int]
    layout: ClassVar[struct.Struct]
    fds: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, code: int, layout: str = "", fds: int = 0) -> None:
        cls.code, cls.layout, cls.fds = code, struct.Struct("<" + layout), fds
        dataclass(frozen=True)(cls)


class Hello(Message, code=1):
    """First message; says the version."""


class List(Message, code=2, layout="I"):
    """Ask for one device of those that this user may have."""

    index: int


class Attach(Message, code=3, layout="16s"):
    """Ask for a device by its PCI address."""

    address: str

    def __post_init__(self) -> None:
        if not ADDRESS.fullmatch(self.address):
            raise ProtocolError("not a PCI address")


class Memory(Message, code=4, layout="QII"):
    """Ask for zeroed memory, mapped for the devices whose bit (1 << Attached.device) is set."""

    size: int
    devices: int
    purpose: int

    def __post_init__(self) -> None:
        if not self.size or not self.devices or self.purpose not in tuple(Purpose):
            raise ProtocolError("memory without a size, a device or a purpose")


class Seal(Message, code=5):
    """Give up the right to ask for anything more; only End is permitted from now on."""


class End(Message, code=6):
    """End the lease; the answer, Ended, comes when everything is undone."""


class Welcome(Message, code=0x101, layout="QI"):
    """Answers Hello with the limits of this lease."""

    memory: int
    devices: int


class Listed(Message, code=0x102, layout="I16sHHIi32s"):
    """Answers List: how many devices there are, and device `index` (an empty address when there is none)."""

    count: int
    address: str
    vendor: int
    device: int
    state: int
    numa: int  # -1: unknown
    driver: str


class Attached(Message, code=0x103, layout="II", fds=1):
    """Answers Attach; the device's file descriptor is beside it."""

    device: int
    kind: int


class Allocated(Message, code=0x104, layout=f"QQQ{TEXT}s", fds=1):
    """Answers Memory; the sealed memfd is beside it. `size` was rounded up to whole pages."""

    iova: int
    size: int
    page_size: int
    note: str


class Sealed(Message, code=0x105):
    """Answers Seal."""


class Refused(Message, code=0x106, layout=f"{TEXT}s"):
    """Answers any request: nothing was done, and why. The lease goes on."""

    reason: str


class Ended(Message, code=0x107, layout=f"{TEXT}s"):
    """The lease is over, everything is undone; sent at any time, with sequence number 0."""

    reason: str


Kinds = dict[int, type[Message]]  # by type
REQUESTS: Kinds = {kind.code: kind for kind in (Hello, List, Attach, Memory, Seal, End)}
REPLIES: Kinds = {kind.code: kind for kind in (Welcome, Listed, Attached, Allocated, Sealed, Refused, Ended)}


def one_line(text: str) -> str:
    """`text` as it fits a message: printable ASCII, one line, cut at the end."""
    line = " ".join(text.split()).encode("ascii", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in line)[:TEXT]


def encode(message: Message, sequence: int) -> bytes:
    """The bytes of a message. Raises ProtocolError on a value that does not fit."""
    values = [value.encode("ascii") if isinstance(value, str) else value for value in astuple(message)]
    try:
        # struct cuts a string that is too long without a word; decoding shows it.
        header = HEADER.pack(MAGIC, VERSION, message.code, sequence)
        data = (header + message.layout.pack(*values)).ljust(SIZE, b"\0")
    except struct.error as error:
        raise ProtocolError(f"{type(message).__name__}: {error}") from None
    if decode(data, {message.code: type(message)}) != (sequence, message):
        raise ProtocolError(f"{type(message).__name__}: a text is too long")
    return data


def decode(data: bytes, kinds: Kinds) -> tuple[int, Message]:
    """Sequence number and message. Raises ProtocolError unless every single byte is as it must be."""
    if len(data) != SIZE:
        raise ProtocolError(f"a message of {'more than ' * (len(data) > SIZE)}{min(len(data), SIZE)} bytes, not {SIZE}")
    magic, version, code, sequence = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError("not a message of this protocol")
    if version != VERSION:
        raise ProtocolError(f"the other side speaks version {version}, this one {VERSION}: install the same version")
    if code not in kinds:
        raise ProtocolError(f"unknown message type {code:#x}")
    kind = kinds[code]
    if any(data[HEADER.size + kind.layout.size :]):
        raise ProtocolError(f"{kind.__name__}: non-zero padding")
    values = kind.layout.unpack_from(data, HEADER.size)
    return sequence, kind(*(_text(value) if isinstance(value, bytes) else value for value in values))


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0")
    if any(not 0x20 <= byte <= 0x7E for byte in text):
        raise ProtocolError("a text that is not printable ASCII")
    return text.decode("ascii")


def send(connection: socket.socket, message: Message, sequence: int = 0, fds: Sequence[int] = ()) -> None:
    """Send one message without waiting. Raises OSError, BlockingIOError when the other side does not read."""
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    connection.sendmsg([encode(message, sequence)], rights, flags)


def receive(connection: socket.socket, kinds: Kinds) -> tuple[int, Message, list[int]] | None:
    """One message and its file descriptors (close-on-exec); None at the end of the connection.

    Raises ProtocolError on anything that is not exactly a message of `kinds` with the descriptors that belong
    to it; descriptors that came with it are closed.
    """
    space = socket.CMSG_SPACE(_FDS * array("i").itemsize)
    data, ancillary, flags, _ = connection.recvmsg(SIZE + 1, space, socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    try:
        if not data and not fds:
            return None
        sequence, message = decode(data, kinds)
        if len(fds) != message.fds or flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"{type(message).__name__}: unexpected file descriptors")
    except ProtocolError:
        for fd in fds:
            os.close(fd)
        raise
    return sequence, message, list(fds)
