"""A lease: the connection to the privileged helper that devices and DMA memory come from.

    with Lease() as lease:
        device = lease.attach("0000:03:00.0")
        rings = lease.memory(size, [device], Purpose.RINGS)
        packets = lease.memory(size, [device, other], Purpose.PACKETS)
        lease.seal()                  # from here on nothing more can be asked for

When the lease ends, by `close` or because this process died, the helper turns bus mastering off, unmaps the
memory and lets go of the devices.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import Kind, ProtocolError, Purpose, State

from ixy_vfio.core import libc
from ixy_vfio.core.errors import LeaseError, RefusedError, UsageError
from ixy_vfio.core.memory import DmaMemory, Mapping
from ixy_vfio.core.options import pci_address
from ixy_vfio.transport.base import Device

__all__ = ["DEFAULT_SOCKET", "ENVIRONMENT", "DeviceInfo", "Lease", "Purpose", "State"]

DEFAULT_SOCKET = "/run/ixy_vfio/helper.sock"
ENVIRONMENT = "IXY_VFIO_HELPER"
DEADLINE = 30.0  # seconds for an answer; gigabytes must be zeroed and pinned, a slow device reset

_Answer = TypeVar("_Answer", bound=protocol.Message)


class _HelperEnded(LeaseError):
    """The helper said Ended."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that the helper would lease to this user."""

    address: str
    vendor: int
    device: int
    driver: str  # what it is bound to
    state: State
    numa: int  # NUMA node, -1: unknown


class Lease:
    """One lease. Raises UsageError when there is no helper at `path`, RefusedError when it wants no client."""

    def __init__(self, path: str | None = None) -> None:
        """Connect to the helper at `path` (else $IXY_VFIO_HELPER, else /run/ixy_vfio/helper.sock)."""
        self.path = path or os.environ.get(ENVIRONMENT) or DEFAULT_SOCKET
        self.notes: list[str] = []  # what the helper did, but not as well as it could have been done
        self._sequence = 0
        self._devices: dict[str, tuple[int, Device]] = {}
        self._over: str | None = None
        self._connection = self._connect()
        try:
            welcome = self._hello()
        except BaseException:
            self._connection.close()
            raise
        self.memory_limit = welcome.memory

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(DEADLINE)
        end = time.monotonic() + DEADLINE
        try:
            while True:
                try:
                    connection.connect(self.path)
                    break
                except BlockingIOError:  # its queue is full: a blocking connect would wait, one with a timeout does not
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)
        except OSError as error:
            connection.close()
            if isinstance(error, BlockingIOError):
                text = f"the helper took no connection in {DEADLINE:g} s, as too many others wait for it; try again"
                raise LeaseError(f"{self.path}: {text}") from None
            if isinstance(error, PermissionError):
                raise UsageError(f"{self.path}: you may not connect to the helper; ask the administrator") from None
            if error.errno is None or "too long" in str(error):
                raise UsageError(f"{self.path}: too long for the path of a socket") from None
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise UsageError(
                    f"{self.path}: no helper is running there; start ixy-vfio-helper (or ixy-vfio sim), "
                    f"or name its socket with --helper or ${ENVIRONMENT}"
                ) from None
            raise UsageError(f"{self.path}: not the socket of a helper ({error.strerror})") from None
        return connection

    def _hello(self) -> protocol.Welcome:
        try:
            return self._ask(protocol.Hello(), protocol.Welcome)[0]
        except _HelperEnded as ended:
            raise RefusedError(ended.reason) from None
        except LeaseError as error:
            raise UsageError(f"{self.path}: {error}") from None

    def _ask(self, request: protocol.Message, answer: type[_Answer]) -> tuple[_Answer, list[int]]:
        """Send a request; its answer, and the file descriptors beside it."""
        if self._over is not None:
            raise LeaseError(self._over)
        self._sequence += 1
        with contextlib.suppress(OSError):  # the reason waits to be read; else receiving shows it
            protocol.send(self._connection, request, self._sequence)
        sequence, reply, fds = self._receive()
        if isinstance(reply, answer) and sequence == self._sequence:
            return reply, fds
        for fd in fds:
            os.close(fd)
        if isinstance(reply, protocol.Refused) and sequence == self._sequence:
            raise RefusedError(reply.reason)
        raise self._lost(f"the helper answered {type(reply).__name__} to {type(request).__name__}")

    def _lost(self, text: str) -> LeaseError:
        """From now on every request fails with this text."""
        self._over = text
        return LeaseError(text)

    def _receive(self) -> tuple[int, protocol.Message, list[int]]:
        try:
            try:
                received = protocol.receive(self._connection, protocol.REPLIES)
            except ConnectionResetError:
                # It closed with a request of ours unread. The error is reported once; what it said comes after.
                received = protocol.receive(self._connection, protocol.REPLIES)
        except TimeoutError:
            raise self._lost(f"the helper did not answer in {DEADLINE:.0f} s") from None
        except (ProtocolError, OSError) as error:
            raise self._lost(f"what answers there is no helper of this version: {error}") from None
        if received is None:
            raise self._lost("the helper closed the connection; its log says why")
        if isinstance(received[1], protocol.Ended):
            self._over = f"the helper ended the lease: {received[1].reason}"
            raise _HelperEnded(self._over, received[1].reason)
        return received

    def devices(self) -> list[DeviceInfo]:
        """The devices that the helper's policy gives to this user, by address."""
        found: list[DeviceInfo] = []
        while True:
            listed, _ = self._ask(protocol.List(len(found)), protocol.Listed)
            if len(found) >= listed.count:
                return found
            state = State(listed.state)
            found.append(DeviceInfo(listed.address, listed.vendor, listed.device, listed.driver, state, listed.numa))

    def attach(self, address: str) -> Device:
        """Lease a device; the domain `0000:` may be left out. RefusedError says why not."""
        name = pci_address(address)
        attached, fds = self._ask(protocol.Attach(name), protocol.Attached)
        device = _open(Kind(attached.kind), fds[0], name)
        self._devices[name] = (attached.device, device)
        return device

    def memory(self, size: int, devices: Sequence[Device], purpose: Purpose) -> DmaMemory:
        """Zeroed memory of at least `size` bytes that `devices` of this lease reach, at one IOVA in all of them.

        RefusedError when the policy's limit is reached, or there is no memory.
        """
        mask = 0
        for device in devices:
            if device.address not in self._devices:
                raise UsageError(f"{device.address}: not a device of this lease")
            mask |= 1 << self._devices[device.address][0]
        if not 0 < size < 1 << 63 or not mask:
            raise UsageError(f"memory of {size} bytes for {len(devices)} devices")
        allocated, fds = self._ask(protocol.Memory(size, mask, purpose), protocol.Allocated)
        try:
            with libc.needed():
                mapping = Mapping(fds[0], allocated.size)
        finally:
            os.close(fds[0])
        if allocated.note and allocated.note not in self.notes:
            self.notes.append(allocated.note)
        return DmaMemory(mapping, allocated.iova, allocated.size, allocated.page_size)

    def seal(self) -> None:
        """Give up the right to ask for devices and memory; the lease goes on until it is closed."""
        self._ask(protocol.Seal(), protocol.Sealed)

    def fileno(self) -> int:
        """Readable when the helper said something: call `check`."""
        return self._connection.fileno()

    def check(self, wait: float = 0.0) -> None:
        """Raise LeaseError when the helper has ended the lease, or is gone, or does or is within `wait` seconds."""
        if self._over is not None:
            raise LeaseError(self._over)
        if not select.select([self._connection], [], [], wait)[0]:
            return
        _, message, fds = self._receive()
        for fd in fds:
            os.close(fd)
        raise self._lost(f"the helper sent {type(message).__name__} without being asked")

    def close(self) -> None:
        """End the lease, and wait until the helper has undone everything: the devices are free then. Idempotent.

        Closes the devices' file descriptors first. Memory stays mapped in this process.
        """
        if self._connection.fileno() < 0:
            return
        for _, device in self._devices.values():
            device.close()
        with contextlib.suppress(LeaseError):  # Ended is the answer hoped for
            self._ask(protocol.End(), protocol.Ended)
        self._connection.close()
        self._over = "the lease is over: it was closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(kind: Kind, fd: int, address: str) -> Device:
    """The device behind a file descriptor that the helper passed, which is closed if this fails."""
    if kind is Kind.VFIO_USER:
        from ixy_vfio.transport.vfio_user import VfioUserDevice

        connection = socket.socket(fileno=fd)
        try:
            return VfioUserDevice(connection, address)
        except BaseException:
            connection.close()
            raise
    from ixy_vfio.transport.vfio import VfioDevice

    try:
        return VfioDevice(fd, address)
    except BaseException:
        os.close(fd)
        raise
