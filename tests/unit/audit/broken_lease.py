"""A simulated helper with one fault: python -m tests.unit.audit.broken_lease FAULT --dir DIR --ports N

far      maps a page more, 1 GiB behind each mapping
beside   maps a page more, right behind each mapping
rights   lets devices write memory that they may only read
stays    maps memory of leases that are over into the next one
mute     lets devices write nothing
deaf     goes on for a while when the client has died
keeper   a process that outlives the helper keeps the device
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ixy_vfio_helper import monitor
from ixy_vfio_helper.memory import GUARD, HUGE, WINDOW, Memory
from ixy_vfio_helper.sandbox import Sandbox

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.sim import lease
from ixy_vfio.sim.lease import PortSession

PAGE = 4096
real_map, real_open, real_serve = PortSession.map, PortSession.open, monitor.Monitor._serve_one


def another_page() -> Memory:
    fd = os.memfd_create("another")
    os.write(fd, b"\x11" * PAGE)
    return Memory(fd, PAGE, PAGE, "")


def far(self: PortSession, memory: Memory, iova: int) -> None:
    real_map(self, memory, iova)
    real_map(self, another_page(), iova + memory.size + (1 << 30))


def beside(self: PortSession, memory: Memory, iova: int) -> None:
    real_map(self, memory, iova)
    real_map(self, another_page(), iova + memory.size)


def rights(self: PortSession, memory: Memory, iova: int) -> None:
    real_map(self, replace(memory, writable=True), iova)


def mute(self: PortSession, memory: Memory, iova: int) -> None:
    real_map(self, replace(memory, writable=False), iova)


def stays(self: PortSession, memory: Memory, iova: int) -> None:
    """Children keep the descriptors of memory, for the leases to come; but a lease's own memory comes first."""
    self.unmap(iova, memory.size)
    real_map(self, memory, iova)
    folder = Path(sys.argv[sys.argv.index("--dir") + 1]) / "kept"
    folder.mkdir(exist_ok=True)
    for pid, fd, where, size in sorted(map(numbers, os.listdir(folder)), reverse=True):
        with contextlib.suppress(DeviceError):  # something lies there
            real_map(self, Memory(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR), size, PAGE, ""), where)
    if iova >= WINDOW[0] + 2 * (HUGE + GUARD):  # each lease has rings and work memory of its own
        keep(memory.fd, lambda: (folder / f"{os.getpid()}-{memory.fd}-{iova}-{memory.size}").touch())


def numbers(name: str) -> list[int]:
    return [int(word) for word in name.split("-")]


def keep(fd: int, ready: Callable[[], None] = lambda: None) -> None:
    """A child holds the descriptor, and nothing else, while the server lives."""
    server = os.getppid()
    if not os.fork():
        os.closerange(0, fd)
        os.closerange(fd + 1, 1024)
        ready()
        while os.path.exists(f"/proc/{server}"):
            time.sleep(0.1)
        os._exit(0)


def deaf(self: monitor.Monitor) -> None:
    try:
        real_serve(self)
    except monitor.LeaseOver as over:
        if "closed" in str(over):
            time.sleep(12)
        raise


def keeper(self: PortSession) -> int:
    fd = real_open(self)
    assert self._owner is not None
    keep(self._owner.socket.fileno())
    return fd


if __name__ == "__main__":
    fault = sys.argv.pop(1)
    Sandbox.begin = lambda self: []  # type: ignore[method-assign]  # it forbids what the faults do
    Sandbox.finish = lambda self: None  # type: ignore[method-assign]
    if fault in ("far", "beside", "rights", "mute", "stays"):
        PortSession.map = {"far": far, "beside": beside, "rights": rights, "mute": mute, "stays": stays}[fault]  # type: ignore[method-assign]
    elif fault == "deaf":
        monitor.Monitor._serve_one = deaf  # type: ignore[method-assign]
    elif fault == "keeper":
        PortSession.open = keeper  # type: ignore[method-assign]
    sys.exit(lease.main())
