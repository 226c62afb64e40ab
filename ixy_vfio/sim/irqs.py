"""Interrupts as a vfio-user client sets them up: information, eventfds, masks, triggers.

Protocol: QEMU docs/interop/vfio-user.rst; what it leaves open is answered as by the kernel (linux/vfio.h). One thing is
not: the line is not unmasked by an eventfd (ENOTTY), for which clients have the message.
"""

import errno
import os

from ixy_vfio.sim import msix
from ixy_vfio.sim.msix import signal
from ixy_vfio.sim.nic import Nic
from ixy_vfio.sim.stream import ProtocolError, Refused
from ixy_vfio.transport import wire

COUNTS = {wire.INTX_IRQ: 1, wire.MSI_IRQ: 1, wire.MSIX_IRQ: msix.VECTORS, wire.ERR_IRQ: 1, wire.REQ_IRQ: 1}
FLAGS = {  # beside EVENTFD
    wire.INTX_IRQ: wire.IRQ_FLAG_MASKABLE | wire.IRQ_FLAG_AUTOMASKED,
    wire.MSI_IRQ: wire.IRQ_FLAG_NORESIZE,
    wire.MSIX_IRQ: 0,
    wire.ERR_IRQ: wire.IRQ_FLAG_NORESIZE,
    wire.REQ_IRQ: wire.IRQ_FLAG_NORESIZE,
}
DATA = wire.IRQ_SET_DATA_NONE | wire.IRQ_SET_DATA_BOOL | wire.IRQ_SET_DATA_EVENTFD
ACTIONS = wire.IRQ_SET_MASK | wire.IRQ_SET_UNMASK | wire.IRQ_SET_TRIGGER


class Irqs:
    """The interrupts of a port as one client has them."""

    def __init__(self, nic: Nic) -> None:
        self._nic = nic
        self._kinds = nic.signals.kinds
        self._eventfds: dict[int, int] = {}  # ERR and REQ: each client has its own

    def close(self) -> None:
        """Close the client's eventfds for errors and requests. Those for interrupts are the port's."""
        for fd in self._eventfds.values():
            os.close(fd)
        self._eventfds.clear()

    def info(self, index: int) -> bytes:
        """The reply to DEVICE_GET_IRQ_INFO. Raises Refused."""
        if index not in COUNTS:
            raise Refused(errno.EINVAL)
        return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, wire.IRQ_FLAG_EVENTFD | FLAGS[index], index, COUNTS[index])

    def set(self, message: wire.Message) -> None:
        """DEVICE_SET_IRQS. Takes file descriptors that it keeps out of the message. Raises Refused, ProtocolError."""
        _, flags, index, start, count = wire.IRQ_SET.unpack_from(message.payload)
        data, action = flags & DATA, flags & ACTIONS
        if flags & ~(DATA | ACTIONS) or data.bit_count() != 1 or action.bit_count() != 1:
            raise Refused(errno.EINVAL)
        vectors = COUNTS.get(index, 0)
        if start >= vectors or start + count > vectors or (data != wire.IRQ_SET_DATA_NONE and not count):
            raise Refused(errno.EINVAL)
        if action != wire.IRQ_SET_TRIGGER and (index != wire.INTX_IRQ or data == wire.IRQ_SET_DATA_EVENTFD):
            raise Refused(errno.ENOTTY)
        if data == wire.IRQ_SET_DATA_EVENTFD:
            if len(message.fds) not in (0, count):
                raise ProtocolError(f"SET_IRQS: {len(message.fds)} file descriptors for {count} vectors")
            self._assign(index, start, count, message)
            return
        if message.fds:
            raise ProtocolError("SET_IRQS: file descriptors without DATA_EVENTFD")
        wanted = message.payload[wire.IRQ_SET.size :] if data == wire.IRQ_SET_DATA_BOOL else b"\1" * count
        if len(wanted) != count:
            raise Refused(errno.EINVAL)
        if action == wire.IRQ_SET_TRIGGER:
            self._trigger(index, start, wanted)
        else:
            self._mask(wanted, action == wire.IRQ_SET_MASK)

    def _assign(self, index: int, start: int, count: int, message: wire.Message) -> None:
        if any(kind.assigned for other, kind in self._kinds.items() if other != index and index in self._kinds):
            raise Refused(errno.EINVAL)  # a device has one kind of interrupt at a time
        fds = list(message.fds)
        message.fds.clear()  # they are kept
        if index in self._kinds:
            if fds:
                self._nic.config.enable(index, True)
            self._kinds[index].assign(start, fds or [None] * count)
            return
        if index in self._eventfds:
            os.close(self._eventfds.pop(index))
        if fds:
            self._eventfds[index] = fds[0]

    def _trigger(self, index: int, start: int, wanted: bytes) -> None:
        """Signal eventfds by hand, whatever the device masks; none at all turns the whole index off."""
        if index in self._kinds:
            kind = self._kinds[index]
            if not wanted:
                kind.release()
                self._nic.config.enable(index, False)
            elif not kind.assigned:
                raise Refused(errno.EINVAL)
            for vector, fire in enumerate(wanted, start):
                if fire:
                    kind.signal(vector)
        elif index in self._eventfds:
            if not wanted:
                os.close(self._eventfds.pop(index))
            elif wanted[0]:
                signal(self._eventfds[index])

    def _mask(self, wanted: bytes, on: bool) -> None:
        intx = self._nic.signals.intx
        if not intx.assigned or not wanted:
            raise Refused(errno.EINVAL)
        if wanted[0]:
            intx.mask(on)
