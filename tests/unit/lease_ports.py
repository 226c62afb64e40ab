"""What stands for simulated ports, and a real helper process that leases them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command

ZERO, ONE = "8259:00:00.0", "8259:00:01.0"
IOVA = 0x10_0000_0000


# What a client asks of its device before anything else: a PCI device, 64 vectors, a BAR that cannot be mapped.
INFORMATION: dict[int, bytes] = {
    Command.DEVICE_GET_INFO: wire.DEVICE_INFO.pack(16, 3, wire.PCI_REGIONS, wire.PCI_IRQS),
    Command.DEVICE_GET_IRQ_INFO: wire.IRQ_INFO.pack(16, wire.IRQ_FLAG_EVENTFD, wire.MSIX_IRQ, 64),
    Command.DEVICE_GET_REGION_INFO: wire.REGION_INFO.pack(32, 3, wire.BAR0_REGION, 0, 0x80000, 0),
}


class Port:
    """Listens like a simulated port. `log` has what its owner did; the command register starts as 0x0107."""

    def __init__(self, path: Path) -> None:
        self.log: list[str] = []
        self.command = 0x0107
        self.failing = 0  # a command that is answered with EIO
        self.memory: list[int] = []  # descriptors of what was mapped
        self._owner: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threads.append(threading.Thread(target=self._serve, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join(10)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while (message := wire.receive(connection)) is not None:
                error, payload = self._answer(connection, message)
                flags = wire.TYPE_REPLY | (wire.ERROR if error else 0)
                if not message.flags & wire.NO_REPLY:
                    wire.send(connection, wire.pack(message.id, message.command, payload, flags, error))
        if connection is self._owner:
            self._owner = None
            self.log.append("close")

    def _answer(self, connection: socket.socket, message: wire.Message) -> tuple[int, bytes]:
        if message.command == Command.VERSION:
            text = message.payload[wire.VERSION.size :]
            assert text.endswith(b"\0")
            if not json.loads(text[:-1])["capabilities"].get(wire.DEVICE_ONLY):
                if self._owner is not None:
                    return 16, b""  # EBUSY
                self._owner = connection
                self.log.append("owner")
            else:
                self.log.append("device only")
            return 0, message.payload
        if message.command in INFORMATION:
            return 0, INFORMATION[message.command]
        assert connection is self._owner
        if message.command == self.failing:
            self.log.append(f"{Command(message.command).name} fails")
            return 5, b""
        match message.command:
            case Command.DMA_MAP:
                size, flags, offset, iova, length = wire.DMA_MAP.unpack(message.payload)
                assert (size, flags, offset, len(message.fds)) == (32, 3, 0, 1)
                assert os.fstat(message.fds[0]).st_size == length
                self.memory += message.fds
                self.log.append(f"map {iova:#x} {length:#x}")
            case Command.DMA_UNMAP:
                assert wire.DMA_UNMAP.unpack(message.payload)[:2] == (24, 0)
                self.log.append("unmap {2:#x} {3:#x}".format(*wire.DMA_UNMAP.unpack(message.payload)))
            case Command.REGION_READ:
                assert wire.REGION_ACCESS.unpack(message.payload) == (4, wire.CONFIG_REGION, 2)
                return 0, message.payload + self.command.to_bytes(2, "little")
            case Command.REGION_WRITE:
                assert wire.REGION_ACCESS.unpack_from(message.payload) == (4, wire.CONFIG_REGION, 2)
                self.command = int.from_bytes(message.payload[-2:], "little")
                self.log.append(f"command {self.command:#06x}")
                return 0, message.payload[:-2]
            case Command.DEVICE_RESET:
                self.log.append("reset")
            case _:
                return 95, b""
        return 0, b""

    def hang_up(self) -> None:
        """Close every connection, as a simulator that died does."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(10)
        assert not self._thread.is_alive()
        for fd in self.memory:
            os.close(fd)


def helper_command(directory: Path, ports: int) -> list[str]:
    return [sys.executable, "-m", "ixy_vfio.sim.lease", "--dir", str(directory), "--ports", str(ports)]


class Helper:
    """A simulated helper for two ports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "helper.sock")
        self.ports = [Port(directory / f"port{number}.sock") for number in range(2)]
        self.process = subprocess.Popen(
            helper_command(directory, 2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; returns its log, without the process ids."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        log = self.process.communicate(timeout=20)[1]
        return "\n".join(line.partition("]: ")[2] for line in log.splitlines())


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


CHILD = """
import sys, time
from ixy_vfio.transport.lease import Lease, Purpose
lease = Lease(sys.argv[1])
device = lease.attach(sys.argv[2])
memory = lease.memory(8192, [device], Purpose.RINGS)
print("up", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def client(helper: Helper, address: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process with a lease of one port."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, helper.path, address], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)
