"""A running server, and what its tests do to it."""

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ixy_vfio.sim.server import Server
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command
from tests.sim.vfio_client import Client

CONFIG = wire.CONFIG_REGION


class Running:
    """A server in a thread of the test."""

    def __init__(self, ports: int = 2, **options: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ixy-sim-"))
        self.server = Server(self.directory, ports, **options)
        self.server.turn()
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.idle_fds = open_fds()  # of the process, while nobody is connected

    def client(self, port: int = 0) -> Client:
        return Client(self.directory / f"port{port}.sock")

    def control(self, **request: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(self.directory / "control.sock"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
            return answer

    def eventually(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < end
            time.sleep(0.001)

    def nothing_is_left(self, extra: int = 0) -> None:
        """All connections are gone, with every descriptor that came over them; the test has `extra` of its own."""
        self.eventually(lambda: not self.server.sessions and open_fds() == self.idle_fds + extra)

    def close(self) -> None:
        self.server.stopping = True
        self._thread.join()
        self.server.close()
        shutil.rmtree(self.directory)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory(size: int) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd


def dma_map(client: Client, iova: int, size: int, fds: list[int], offset: int = 0) -> bytes:
    return client.call(Command.DMA_MAP, wire.DMA_MAP.pack(wire.DMA_MAP.size, 3, offset, iova, size), fds)
