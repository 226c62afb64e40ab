"""The vfio-user wire format: headers, commands, payload layouts, and file descriptors beside them.

Source: the vfio-user protocol specification (QEMU docs/interop/vfio-user.rst) and linux/vfio.h. Shared by the
client (`transport/vfio_user.py`) and the simulated NIC's server; it holds layouts, no behaviour.
"""

import os
import socket
import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum

from ixy_vfio.core.errors import DeviceError

VERSION_MAJOR = 0
VERSION_MINOR = 1
MAX_MESSAGE = 1 << 20
MAX_FDS = 16

HEADER = struct.Struct("<HHIII")  # message id, command, size with header, flags, error number
TYPE_MASK = 0xF
TYPE_COMMAND = 0
TYPE_REPLY = 1
NO_REPLY = 0x10
ERROR = 0x20


class Command(IntEnum):
    """Commands of the protocol that are used here."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13


VERSION = struct.Struct("<HH")  # major, minor, then a JSON string with a terminating NUL
DMA_MAP = struct.Struct("<IIQQQ")  # argsz, flags, offset in the fd, address (IOVA), size
DMA_MAP_READ, DMA_MAP_WRITE = 1, 2
DMA_UNMAP = struct.Struct("<IIQQ")  # argsz, flags, address (IOVA), size
DMA_UNMAP_ALL = 2
DEVICE_INFO = struct.Struct("<IIII")  # argsz, flags, regions, interrupt indices
DEVICE_FLAG_RESET, DEVICE_FLAG_PCI = 1, 2
REGION_INFO = struct.Struct("<IIIIQQ")  # argsz, flags, index, cap offset, size, offset in the fd
REGION_FLAG_READ, REGION_FLAG_WRITE, REGION_FLAG_MMAP, REGION_FLAG_CAPS = 1, 2, 4, 8
CAPABILITY = struct.Struct("<HHI")  # id, version, offset of the next
CAP_SPARSE_MMAP = 1
SPARSE_MMAP = struct.Struct("<II")  # areas, reserved; then the areas
SPARSE_AREA = struct.Struct("<QQ")  # offset, size
IRQ_INFO = struct.Struct("<IIII")  # argsz, flags, index, count
IRQ_FLAG_EVENTFD, IRQ_FLAG_MASKABLE, IRQ_FLAG_AUTOMASKED, IRQ_FLAG_NORESIZE = 1, 2, 4, 8
IRQ_SET = struct.Struct("<IIIII")  # argsz, flags, index, start, count; then data
IRQ_SET_DATA_NONE, IRQ_SET_DATA_BOOL, IRQ_SET_DATA_EVENTFD = 1, 2, 4
IRQ_SET_MASK, IRQ_SET_UNMASK, IRQ_SET_TRIGGER = 8, 16, 32
REGION_ACCESS = struct.Struct("<QII")  # offset, region, count; then data
DMA_ACCESS = struct.Struct("<QQ")  # address, count; then data

BAR0_REGION, CONFIG_REGION, PCI_REGIONS = 0, 7, 9  # linux/vfio.h VFIO_PCI_*_REGION_INDEX
INTX_IRQ, MSI_IRQ, MSIX_IRQ, ERR_IRQ, REQ_IRQ, PCI_IRQS = 0, 1, 2, 3, 4, 5  # VFIO_PCI_*_IRQ_INDEX

# Our own entry of the version's JSON capabilities: a connection that asked for it is served as the kernel serves
# a VFIO device file descriptor: it may not map or unmap DMA. The helper passes such a connection to its client.
DEVICE_ONLY = "ixy_device_only"


@dataclass(slots=True)
class Message:
    """One message; `fds` belong to whoever holds the message."""

    id: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: list[int]

    @property
    def is_reply(self) -> bool:
        """Whether it answers a command."""
        return self.flags & TYPE_MASK == TYPE_REPLY


def pack(message_id: int, command: int, payload: bytes = b"", flags: int = TYPE_COMMAND, error: int = 0) -> bytes:
    """The bytes of a message."""
    return HEADER.pack(message_id, command, HEADER.size + len(payload), flags, error) + payload


def send(connection: socket.socket, message: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send a whole message; the file descriptors go with its first byte. Raises OSError."""
    sent = socket.send_fds(connection, [message], fds) if fds else connection.send(message)
    if sent < len(message):
        connection.sendall(message[sent:])


def receive(connection: socket.socket) -> Message | None:
    """Receive one whole message from a blocking socket; None at the end of the stream.

    Received file descriptors are close-on-exec. Raises DeviceError on a malformed or torn message; nothing leaks.
    """
    fds: list[int] = []
    try:
        header = _receive_exactly(connection, HEADER.size, fds)
        if not header:
            return None
        message_id, command, size, flags, error = HEADER.unpack(header)
        if not HEADER.size <= size <= MAX_MESSAGE:
            raise DeviceError(f"vfio-user: a message of {size} bytes; {HEADER.size} to {MAX_MESSAGE} are allowed")
        payload = _receive_exactly(connection, size - HEADER.size, fds)
        if len(payload) < size - HEADER.size:
            raise DeviceError("vfio-user: the connection ended inside a message")
        return Message(message_id, command, flags, error, payload, fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _receive_exactly(connection: socket.socket, size: int, fds: list[int]) -> bytes:
    """`size` bytes, or fewer at the end of the stream (none at all, or torn: the caller tells them apart)."""
    data = bytearray()
    while len(data) < size:
        space = socket.CMSG_SPACE(MAX_FDS * array("i").itemsize)
        piece, ancillary, _, _ = connection.recvmsg(size - len(data), space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.extend(array("i", raw[: len(raw) - len(raw) % 4]))
        if not piece:
            if data and size == HEADER.size:
                raise DeviceError("vfio-user: the connection ended inside a message")
            break
        data += piece
    return bytes(data)
