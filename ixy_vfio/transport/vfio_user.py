"""A device behind a vfio-user socket: the simulated NIC, reached without a kernel or root.

Source: the vfio-user protocol specification (QEMU docs/interop/vfio-user.rst). The helper has negotiated VERSION
on the connection before it passed it on.

A register is always accessed by message, in order, also where its page can be mapped: the server then applies read
side effects. Writes to BAR0 are posted (no reply); the next read is answered after them, as on PCIe. The server has
REPLY_WITHIN seconds for an answer. A connection that ended is a device that is gone.
"""

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ixy_vfio.core.errors import DeviceError, DeviceGone, UsageError
from ixy_vfio.core.memory import Mapping
from ixy_vfio.core.mmio import ALL_ONES
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command

REPLY_WITHIN = 5.0  # seconds
PAGE = 4096


class _Channel:
    """Commands and their replies on a stream socket, one at a time."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self._connection = connection
        self._address = address
        self._next_id = 0
        self._broken = ""
        self._closed = False
        connection.settimeout(REPLY_WITHIN)

    def command(self, command: Command, payload: bytes = b"", fds: Sequence[int] = ()) -> wire.Message:
        """Send a command; its reply, with file descriptors that are the caller's to close."""
        try:
            message_id = self._send(command, payload, wire.TYPE_COMMAND, fds)
            reply = self._receive()
        except (KeyboardInterrupt, SystemExit):  # a signal: its answer is still to come
            self._broken = "an answer of it was not waited for"
            raise
        try:
            if not reply.is_reply or (reply.id, reply.command) != (message_id, command):
                raise self._end(f"{command.name} was answered by something else")
            if reply.flags & wire.ERROR:
                raise DeviceError(f"{self._address}: the device refused {command.name}: {os.strerror(reply.error)}")
        except DeviceError:
            _close(reply.fds)
            raise
        return reply

    def post(self, command: Command, payload: bytes) -> None:
        """Send a command that is not answered."""
        self._send(command, payload, wire.TYPE_COMMAND | wire.NO_REPLY)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._closed = True
        self._connection.close()

    def _send(self, command: Command, payload: bytes, flags: int, fds: Sequence[int] = ()) -> int:
        if self._closed:
            raise UsageError(f"{self._address}: the device was closed")
        if self._broken:
            raise self._gone()
        self._next_id = (self._next_id + 1) & 0xFFFF
        try:
            wire.send(self._connection, wire.pack(self._next_id, command, payload, flags), tuple(fds))
        except OSError as error:
            raise self._end(f"sending failed ({error.strerror or error})") from error
        return self._next_id

    def _receive(self) -> wire.Message:
        try:
            reply = wire.receive(self._connection)
        except TimeoutError:
            raise self._end(f"it gave no answer within {REPLY_WITHIN:g} s") from None
        except (OSError, DeviceError) as error:
            raise self._end(str(error)) from error
        if reply is None:
            raise self._end("it has ended the connection")
        return reply

    def _end(self, reason: str) -> DeviceGone:
        """After an error the stream is out of step: nothing more is read from it."""
        self._broken = reason
        return self._gone()

    def _gone(self) -> DeviceGone:
        return DeviceGone(f"{self._address}: the simulated device is gone: {self._broken}")


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Region:
    """What DEVICE_GET_REGION_INFO told; `areas` are the (offset, size) that can be mapped from `fd`."""

    size: int
    fd_offset: int
    areas: tuple[tuple[int, int], ...]
    fd: int | None


def _region(channel: _Channel, index: int) -> _Region:
    request = wire.REGION_INFO.pack(PAGE, 0, index, 0, 0, 0)
    reply = channel.command(Command.DEVICE_GET_REGION_INFO, request)
    try:
        _, flags, _, capabilities, size, fd_offset = wire.REGION_INFO.unpack_from(reply.payload)
        areas: tuple[tuple[int, int], ...] = ()
        if flags & wire.REGION_FLAG_MMAP:
            areas = ((0, size),)
            if flags & wire.REGION_FLAG_CAPS:
                areas = _sparse_areas(reply.payload, capabilities, areas)
        if len(reply.fds) != (1 if areas else 0):
            raise DeviceError(f"it came with {len(reply.fds)} file descriptors")
        if any(offset % PAGE or area % PAGE or offset + area > size for offset, area in areas):
            raise DeviceError("it has an area that is not whole pages inside it")
    except (struct.error, DeviceError) as error:
        _close(reply.fds)
        raise DeviceError(f"vfio-user: region {index}: {error}") from error
    return _Region(size, fd_offset, areas, reply.fds[0] if areas else None)


def _sparse_areas(payload: bytes, offset: int, default: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The areas of the sparse mmap capability, or `default`; each capability lies behind the one before it."""
    while offset:
        kind, _, following = wire.CAPABILITY.unpack_from(payload, offset)
        if kind == wire.CAP_SPARSE_MMAP:
            count, _ = wire.SPARSE_MMAP.unpack_from(payload, offset + wire.CAPABILITY.size)
            start = offset + wire.CAPABILITY.size + wire.SPARSE_MMAP.size
            area = payload[start : start + count * wire.SPARSE_AREA.size]
            if len(area) != count * wire.SPARSE_AREA.size:
                raise DeviceError("the sparse mmap capability is cut off")
            return tuple(wire.SPARSE_AREA.iter_unpack(area))
        if following and following <= offset:
            raise DeviceError("the capabilities form a loop")
        offset = following
    return default


class VfioUserBar:
    """BAR0, by message; pages of it by mapping. Implements `base.Bar`."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._region = _region(channel, wire.BAR0_REGION)
        self.size = self._region.size

    def _check(self, offset: int) -> None:
        if offset % 4 or not 0 <= offset <= self.size - 4:
            raise UsageError(f"register offset {offset:#x}: not a multiple of 4 below {self.size:#x}")

    def read32(self, offset: int) -> int:
        """Read a register; all posted writes have arrived before."""
        self._check(offset)
        return _read(self._channel, wire.BAR0_REGION, offset, 4)

    def write32(self, offset: int, value: int) -> None:
        """Write a register; posted."""
        self._check(offset)
        if not 0 <= value <= ALL_ONES:
            raise UsageError(f"value {value:#x} does not fit in a 32-bit register")
        access = wire.REGION_ACCESS.pack(offset, wire.BAR0_REGION, 4)
        self._channel.post(Command.REGION_WRITE, access + value.to_bytes(4, "little"))

    def map(self, offset: int, size: int) -> Mapping:
        """Map whole pages; UsageError unless the server offers all of them."""
        inside = any(start <= offset and offset + size <= start + length for start, length in self._region.areas)
        if offset % PAGE or size % PAGE or size <= 0 or not inside or self._region.fd is None:
            raise UsageError(f"BAR0 {offset:#x} to {offset + size:#x}: the device does not let this be mapped")
        return Mapping(self._region.fd, size, self._region.fd_offset + offset)

    def close(self) -> None:
        """Close the file descriptor behind the mappings; the mappings stay."""
        if self._region.fd is not None:
            os.close(self._region.fd)
            self._region = _Region(self.size, 0, (), None)


def _read(channel: _Channel, region: int, offset: int, size: int) -> int:
    reply = channel.command(Command.REGION_READ, wire.REGION_ACCESS.pack(offset, region, size))
    if len(reply.payload) != wire.REGION_ACCESS.size + size or reply.fds:
        _close(reply.fds)
        raise DeviceError(f"vfio-user: a read of {size} bytes was answered by {len(reply.payload)} bytes")
    return int.from_bytes(reply.payload[wire.REGION_ACCESS.size :], "little")


class VfioUserDevice:
    """A device reached by vfio-user. Implements `base.Device`. Owns `connection`."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        """Ask the server what it is. DeviceError when it is no PCI device, DeviceGone when it does not answer."""
        self.address = address
        self._channel = _Channel(connection, address)
        try:
            info = self._ask(Command.DEVICE_GET_INFO, wire.DEVICE_INFO, wire.DEVICE_INFO.size, 0, 0, 0)
            if not info[1] & wire.DEVICE_FLAG_PCI or info[2] < wire.PCI_REGIONS or info[3] < wire.PCI_IRQS:
                raise DeviceError(f"{address}: the server behind this address offers no PCI device")
            irqs = self._ask(Command.DEVICE_GET_IRQ_INFO, wire.IRQ_INFO, wire.IRQ_INFO.size, 0, wire.MSIX_IRQ, 0)
            self._msix_vectors = irqs[3]
            self.bar0 = VfioUserBar(self._channel)
        except BaseException:
            self._channel.close()
            raise

    def _ask(self, command: Command, layout: struct.Struct, *values: int) -> tuple[int, ...]:
        reply = self._channel.command(command, layout.pack(*values))
        _close(reply.fds)
        if len(reply.payload) < layout.size or reply.fds:
            raise DeviceError(f"vfio-user: {command.name} was answered by {len(reply.payload)} bytes")
        return layout.unpack_from(reply.payload)

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        self._check_config(offset, size)
        return _read(self._channel, wire.CONFIG_REGION, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; it has arrived when this returns."""
        self._check_config(offset, size)
        if not 0 <= value < 1 << 8 * size:
            raise UsageError(f"value {value:#x} does not fit in {size} bytes")
        access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, size)
        _close(self._channel.command(Command.REGION_WRITE, access + value.to_bytes(size, "little")).fds)

    @staticmethod
    def _check_config(offset: int, size: int) -> None:
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < PAGE:
            raise UsageError(f"configuration space: {size} bytes at {offset:#x}: not 1, 2 or 4 bytes, aligned")

    @property
    def msix_vectors(self) -> int:
        """How many MSI-X vectors the device has."""
        return self._msix_vectors

    def set_interrupts(self, eventfds: Sequence[int]) -> None:
        """Signal eventfds[i] for vector i; an empty sequence turns all off. As many a message as it may carry."""
        if len(eventfds) > self._msix_vectors:
            raise UsageError(f"{len(eventfds)} eventfds: the device has {self._msix_vectors} MSI-X vectors")
        self._set_irqs(wire.IRQ_SET_DATA_NONE, 0, ())
        for start in range(0, len(eventfds), wire.MAX_FDS):
            self._set_irqs(wire.IRQ_SET_DATA_EVENTFD, start, eventfds[start : start + wire.MAX_FDS])

    def _set_irqs(self, data: int, start: int, eventfds: Sequence[int]) -> None:
        flags = data | wire.IRQ_SET_TRIGGER
        request = wire.IRQ_SET.pack(wire.IRQ_SET.size, flags, wire.MSIX_IRQ, start, len(eventfds))
        _close(self._channel.command(Command.DEVICE_SET_IRQS, request, eventfds).fds)

    def reset(self) -> None:
        """Reset the device."""
        _close(self._channel.command(Command.DEVICE_RESET).fds)

    def close(self) -> None:
        """Close the connection and the file descriptor of BAR0."""
        self.bar0.close()
        self._channel.close()
