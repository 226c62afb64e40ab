"""Leases of simulated ports: the real helper's server, monitor and protocol over vfio-user instead of the kernel.

`python -m ixy_vfio.sim.lease --dir DIR --ports N` serves DIR/helper.sock to the user who runs it, for the ports
that listen on DIR/port0.sock and so on, and prints `ready`.
"""

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ixy_vfio_helper import server
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.logs import log_shown
from ixy_vfio_helper.memory import WINDOW, Memory, Range
from ixy_vfio_helper.monitor import Refusal, Session
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import Kind, Listed, State
from ixy_vfio_helper.sandbox import READ, RECORDS, SIMULATED, Sandbox
from ixy_vfio_locks import calls

from ixy_vfio.core.errors import DeviceError, UsageError
from ixy_vfio.core.guard import guarded
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.private import check_private
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command

DEADLINE = 10.0  # seconds for an answer of the simulated device
MEMORY = 4 << 30  # bytes that all leases together may have
LEASES = 16
CONFIG_COMMAND, BUS_MASTER = 4, 0x4  # PCI: command register, its bus master enable bit


def address(port: int) -> str:
    """The PCI address of a simulated port."""
    return f"8259:00:{port:02x}.0"


class Connection:
    """A vfio-user client, as much of one as the helper needs. Raises OSError and DeviceError."""

    def __init__(self, path: Path, capabilities: Mapping[str, object]) -> None:
        self._id = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(DEADLINE)
            self.socket.connect(str(path))
            text = json.dumps({"capabilities": dict(capabilities)}).encode() + b"\0"
            self.ask(Command.VERSION, wire.VERSION.pack(wire.VERSION_MAJOR, wire.VERSION_MINOR) + text)
        except BaseException:
            self.socket.close()
            raise

    def ask(self, command: Command, payload: bytes = b"", fds: tuple[int, ...] = ()) -> bytes:
        """Send a command and wait for its reply's payload. Raises DeviceError when the reply is an error."""
        self._id = (self._id + 1) & 0xFFFF
        wire.send(self.socket, wire.pack(self._id, command, payload), fds)
        while (reply := self.receive()) is None:
            pass
        if (reply.id, reply.command) != (self._id, command):
            raise DeviceError(f"vfio-user: a reply to {reply.command}/{reply.id}, not to {command}/{self._id}")
        if reply.flags & wire.ERROR:
            raise DeviceError(f"vfio-user: {command.name}: {os.strerror(reply.error)}")
        return reply.payload

    def receive(self) -> wire.Message | None:
        """One reply; a command of the server's is answered with an error, and None. Raises DeviceError at the end."""
        message = wire.receive(self.socket)
        if message is None:
            raise DeviceError("the simulated device closed the connection")
        for fd in message.fds:
            os.close(fd)
        if message.is_reply:
            return message
        if not message.flags & wire.NO_REPLY:
            flags = wire.TYPE_REPLY | wire.ERROR
            wire.send(self.socket, wire.pack(message.id, message.command, b"", flags, errno.ENOTSUP))
        return None


class PortSession:
    """One simulated port of one lease: `owner` maps and resets, the second connection is passed to the client."""

    kind = Kind.VFIO_USER
    group = ""
    neighbours: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner: Connection | None = None
        self._passed: Connection | None = None

    def _ask(self, command: Command, payload: bytes = b"", fds: tuple[int, ...] = ()) -> bytes:
        if self._owner is None:
            raise DeviceError("not open")
        return self._owner.ask(command, payload, fds)

    def open(self) -> int:
        """Connect twice; the second connection may do no DMA_MAP."""
        self._owner = Connection(self._path, {})
        self._passed = Connection(self._path, {wire.DEVICE_ONLY: True})
        self._passed.socket.setblocking(True)  # its file description is the client's from now on
        return self._passed.socket.fileno()

    def usable(self) -> Sequence[Range]:
        """Everything: there is no IOMMU with limits."""
        return (WINDOW,)

    def map(self, memory: Memory, iova: int) -> None:
        """DMA_MAP of the whole memfd."""
        flags = wire.DMA_MAP_READ | wire.DMA_MAP_WRITE * memory.writable
        self._ask(Command.DMA_MAP, wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, 0, iova, memory.size), (memory.fd,))

    def unmap(self, iova: int, size: int) -> None:
        """DMA_UNMAP."""
        self._ask(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, iova, size))

    def verify(self, recorded: str) -> None:
        """It is what its socket says."""

    def bus_master_off(self) -> None:
        """Clear the bit in the command register, and leave the others."""
        access = wire.REGION_ACCESS.pack(CONFIG_COMMAND, wire.CONFIG_REGION, 2)
        command = int.from_bytes(self._ask(Command.REGION_READ, access)[wire.REGION_ACCESS.size :], "little")
        self._ask(Command.REGION_WRITE, access + (command & ~BUS_MASTER & 0xFFFF).to_bytes(2, "little"))

    def close(self) -> None:
        """RESET, as the kernel does it, and close both connections; the server closes the client's with the owner's."""
        with contextlib.ExitStack() as stack:
            for connection in (self._passed, self._owner):
                if connection is not None:
                    stack.callback(connection.socket.close)
            if self._owner is not None:
                self._owner.ask(Command.DEVICE_RESET)
        self._passed = self._owner = None

    def watch(self) -> Sequence[int]:
        """The owner's connection."""
        return (self._owner.socket.fileno(),) if self._owner is not None else ()

    def trouble(self) -> str | None:
        """The simulator closes it when it ends."""
        try:
            if self._owner is not None and self._owner.receive() is not None:
                return "the simulated device sent a reply to nothing"
        except (DeviceError, OSError) as error:
            return f"the device is gone: {error}"
        return None


class Ports:
    """The ports of a simulator, by their sockets in `directory`."""

    def __init__(self, directory: Path, count: int) -> None:
        self._paths = {address(port): directory / f"port{port}.sock" for port in range(count)}

    def describe(self, address: str) -> Listed | None:
        """An 82599 while its socket is there."""
        if address not in self._paths or not self._paths[address].is_socket():
            return None
        return Listed(0, address, ixgbe.VENDOR_INTEL, 0x10FB, State.FREE, -1, "simulated 82599")

    def session(self, address: str) -> Session:
        """A session with the port."""
        if self.describe(address) is None:
            raise Refusal(f"{address}: no such simulated port is running")
        return PortSession(self._paths[address])


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ixy_vfio.sim.lease", description="Leases of simulated ports.")
    parser.add_argument("--dir", type=Path, required=True, help="where the ports' sockets are")
    parser.add_argument("--ports", type=int, required=True, help="how many")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this ends")
    arguments = parser.parse_args(argv)
    log_shown("helper[%(process)d]: %(message)s")
    if arguments.die_with_parent:
        calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGTERM)
    names = frozenset(address(port) for port in range(arguments.ports))
    policy = {os.getuid(): Grant(os.getuid(), names, MEMORY, LEASES)}
    try:
        check_private(arguments.dir)
        claims = Claims(arguments.dir / "leases")
        listener, lock = server.listen(arguments.dir / "helper.sock", 0o600)
    except (OSError, Refusal, UsageError) as error:
        print(f"simulated helper: {error}", file=sys.stderr)
        return 2
    backend = Ports(arguments.dir, arguments.ports)
    sandbox = Sandbox({arguments.dir: READ, arguments.dir / "leases": RECORDS}, SIMULATED)
    print("ready", flush=True)
    server.Server(listener, lambda: policy, backend, claims, sandbox, lock).run()
    return 0


if __name__ == "__main__":
    sys.exit(guarded("simulated helper", sys.argv, main))
