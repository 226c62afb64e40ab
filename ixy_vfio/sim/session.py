"""One vfio-user client of a simulated port: its commands, in the order of their numbers.

Protocol: QEMU docs/interop/vfio-user.rst. A command that cannot be done is answered with an errno; a message that
cannot be read ends the connection.
"""

import errno
import json
import os
import struct
from collections.abc import Callable
from typing import Any

from ixy_vfio.core.errors import UsageError
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim import config_space, msix
from ixy_vfio.sim.bar0 import QUEUE_PAGES
from ixy_vfio.sim.irqs import Irqs
from ixy_vfio.sim.nic import Nic
from ixy_vfio.sim.stream import ProtocolError, Refused, Stream
from ixy_vfio.sim.windows import Windows
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command

MSIX_REGION = config_space.MSIX_BAR_INDEX
REGION_SIZES = {
    wire.BAR0_REGION: ixgbe.BAR0_SIZE,
    MSIX_REGION: msix.BAR_SIZE,
    wire.CONFIG_REGION: config_space.SIZE,
}
MAX_TRANSFER = wire.MAX_MESSAGE - wire.HEADER.size - wire.REGION_ACCESS.size


class Session:
    """One connection. An owner maps memory and lends the device; a device-only client has the device alone."""

    def __init__(self, stream: Stream, nic: Nic, dma: Any, claim: Callable[["Session"], None]) -> None:
        self.stream = stream
        self.nic = nic
        self.negotiated = False
        self.device_only = False
        self.peer_fds = 1  # file descriptors that the client takes with a message, 1 unless it says so
        self.messages_dma = False  # the client serves DMA by message as well: it is told of misses
        self.windows = Windows(dma)
        self._claim = claim  # tells the server of the role; raises Refused
        self._next_id = 0
        self._asked: set[int] = set()  # ids of our own commands that wait for a reply
        self._irqs = Irqs(nic)
        self._commands: dict[int, Callable[[wire.Message], tuple[bytes, tuple[int, ...]]]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.DEVICE_RESET: self._reset,
        }

    def serve(self, limit: int) -> int:
        """Handle up to `limit` messages that are there; returns how many. Raises EOFError, ProtocolError, OSError."""
        self.stream.flush()
        for count in range(limit):
            if self.stream.blocked:
                return count
            message = self.stream.receive()
            if message is None:
                return count
            try:
                self._handle(message)
            finally:
                for fd in message.fds:  # a handler that keeps one takes it out of the list
                    os.close(fd)
        return limit

    def close(self) -> None:
        """Close the connection and all that came over it. Windows are dropped before the memory goes."""
        if self.negotiated and not self.device_only:
            self.windows.unmap_all()
        self._irqs.close()
        self.stream.close()

    def report_miss(self, iova: int, length: int, write: bool) -> None:
        """Repeat a DMA that no window allowed as a message, so that the client's own IOMMU refuses and logs it."""
        size = max(1, min(length, 64))
        payload = wire.DMA_ACCESS.pack(iova, size) + (bytes(size) if write else b"")
        self._next_id = (self._next_id + 1) & 0xFFFF
        self._asked.add(self._next_id)
        self.stream.send(wire.pack(self._next_id, Command.DMA_WRITE if write else Command.DMA_READ, payload))

    def _handle(self, message: wire.Message) -> None:
        if message.is_reply:
            if message.id not in self._asked:
                raise ProtocolError("a reply to nothing")
            self._asked.discard(message.id)
            return
        if message.flags & ~wire.NO_REPLY != wire.TYPE_COMMAND:
            raise ProtocolError(f"message flags {message.flags:#x}")
        if message.fds and message.command not in (Command.DMA_MAP, Command.DEVICE_SET_IRQS):
            raise ProtocolError("unexpected file descriptors")
        reply, error = b"", 0
        fds: tuple[int, ...] = ()
        try:
            if not self.negotiated:
                reply = self._version(message)
            elif message.command in self._commands:
                reply, fds = self._commands[message.command](message)
            else:
                raise Refused(errno.ENOTSUP)
        except struct.error as short:
            raise ProtocolError(f"command {message.command}: {len(message.payload)} bytes") from short
        except Refused as refused:
            error = refused.number
        if not message.flags & wire.NO_REPLY:
            flags = wire.TYPE_REPLY | (wire.ERROR if error else 0)
            self.stream.send(wire.pack(message.id, message.command, b"" if error else reply, flags, error), fds)
        if error and not self.negotiated:
            raise ProtocolError(f"refused: {os.strerror(error)}")

    def _version(self, message: wire.Message) -> bytes:
        if message.command != Command.VERSION:
            raise ProtocolError("the first message must be VERSION")
        major, minor = wire.VERSION.unpack_from(message.payload)
        text = message.payload[wire.VERSION.size :].rstrip(b"\0")
        try:
            offered = json.loads(text) if text else {}
            capabilities = offered.get("capabilities", {})
            self.device_only = capabilities.get(wire.DEVICE_ONLY) is True
            self.peer_fds = capabilities.get("max_msg_fds", 1)
            self.messages_dma = "max_dma_maps" in capabilities or "pgsizes" in capabilities
        except (ValueError, AttributeError, RecursionError) as bad:
            raise ProtocolError("VERSION: not a JSON object") from bad
        if type(self.peer_fds) is not int or self.peer_fds < 0:
            raise ProtocolError("VERSION: max_msg_fds is no number")
        if major != wire.VERSION_MAJOR:
            raise Refused(errno.ENOTSUP)
        self._claim(self)
        self.negotiated = True
        mine: dict[str, object] = {"max_msg_fds": wire.MAX_FDS, "max_data_xfer_size": MAX_TRANSFER}
        if self.device_only:
            mine[wire.DEVICE_ONLY] = True
        answer = json.dumps({"capabilities": mine}).encode() + b"\0"
        # A client leaves a server that answers with a newer minor version than its own (QEMU's is 0.0).
        return wire.VERSION.pack(wire.VERSION_MAJOR, min(minor, wire.VERSION_MINOR)) + answer

    def _dma_map(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        _, flags, offset, iova, size = wire.DMA_MAP.unpack(message.payload)
        if self.device_only:
            raise Refused(errno.EPERM)
        if len(message.fds) > 1:
            raise ProtocolError("DMA_MAP: one file descriptor at most")
        rights = bool(flags & wire.DMA_MAP_READ), bool(flags & wire.DMA_MAP_WRITE)
        try:
            if message.fds:
                self.windows.map(iova, size, message.fds[0], offset, *rights)
                self.nic.note("map", 1)
            else:
                self.windows.reserve(iova, size)
        except UsageError as wrong:
            raise Refused(errno.EINVAL) from wrong
        except OSError as wrong:
            raise Refused(wrong.errno or errno.EINVAL) from wrong
        return b"", ()

    def _dma_unmap(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        _, flags, iova, size = wire.DMA_UNMAP.unpack_from(message.payload)
        if self.device_only:
            raise Refused(errno.EPERM)
        everything = bool(flags)
        if flags & ~wire.DMA_UNMAP_ALL or (iova or size if everything else not size or iova + size > 1 << 64):
            raise Refused(errno.EINVAL)
        before = self.windows.reachable
        try:
            dropped = self.windows.unmap_all() if everything else self.windows.unmap(iova, size)
        except UsageError as cut:
            raise Refused(errno.EINVAL) from cut
        if not dropped and not everything:  # as libvfio-user and iommufd have it
            raise Refused(errno.ENOENT)
        if gone := before - self.windows.reachable:
            self.nic.note("unmap", gone)
        return message.payload[: wire.DMA_UNMAP.size], ()

    def _device_info(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        wire.DEVICE_INFO.unpack_from(message.payload.ljust(wire.DEVICE_INFO.size, b"\0"))
        flags = wire.DEVICE_FLAG_RESET | wire.DEVICE_FLAG_PCI
        return wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, flags, wire.PCI_REGIONS, wire.PCI_IRQS), ()

    def _region_info(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        room, _, index, *_ = wire.REGION_INFO.unpack_from(message.payload)
        if index >= wire.PCI_REGIONS:
            raise Refused(errno.EINVAL)
        size = REGION_SIZES.get(index, 0)
        flags = wire.REGION_FLAG_READ | wire.REGION_FLAG_WRITE if size else 0
        fd = self.nic.memory.fd
        if index != wire.BAR0_REGION or fd is None or not self.peer_fds:
            return wire.REGION_INFO.pack(wire.REGION_INFO.size, flags, index, 0, size, 0), ()
        flags |= wire.REGION_FLAG_MMAP | wire.REGION_FLAG_CAPS
        capability = wire.CAPABILITY.pack(wire.CAP_SPARSE_MMAP, 1, 0) + wire.SPARSE_MMAP.pack(len(QUEUE_PAGES), 0)
        capability += b"".join(wire.SPARSE_AREA.pack(*area) for area in QUEUE_PAGES)
        needed = wire.REGION_INFO.size + len(capability)
        # The client learns from the first reply that there are capabilities, and asks again with room for them.
        info = wire.REGION_INFO.pack(needed, flags, index, wire.REGION_INFO.size, size, 0)
        return (info + capability, (fd,)) if room >= needed else (info, ())

    def _irq_info(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        return self._irqs.info(wire.IRQ_INFO.unpack_from(message.payload)[2]), ()

    def _set_irqs(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        self._irqs.set(message)
        return b"", ()

    def _access(self, message: wire.Message) -> tuple[int, int, int]:
        offset, region, count = wire.REGION_ACCESS.unpack_from(message.payload)
        if region not in REGION_SIZES or not 0 < count <= MAX_TRANSFER or offset + count > REGION_SIZES[region]:
            raise Refused(errno.EINVAL)
        return offset, region, count

    def _region_read(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        offset, region, count = self._access(message)
        return message.payload[: wire.REGION_ACCESS.size] + self.nic.region_read(region, offset, count), ()

    def _region_write(self, message: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        offset, region, count = self._access(message)
        data = message.payload[wire.REGION_ACCESS.size :]
        if len(data) != count:
            raise ProtocolError(f"REGION_WRITE: {len(data)} bytes of data for a count of {count}")
        self.nic.region_write(region, offset, data)
        return message.payload[: wire.REGION_ACCESS.size], ()

    def _reset(self, _: wire.Message) -> tuple[bytes, tuple[int, ...]]:
        self.nic.full_reset()
        return b"", ()
