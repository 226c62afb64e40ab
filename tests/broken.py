"""Helpers with one fault each, for attacks that must get through: what takes the place of parts of a sound one.

far      maps a page more, 1 GiB behind each mapping
beside   maps a page more, right behind each mapping
rights   lets devices write memory that they may only read
mute     lets devices write nothing
stays    maps memory of leases that are over into the next one
deaf     goes on for a while when the client has died
keeper   a process that outlives the helper keeps the device
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ixy_vfio_helper import monitor
from ixy_vfio_helper.memory import GUARD, HUGE, WINDOW, Memory
from ixy_vfio_helper.sandbox import Sandbox

from ixy_vfio.core.errors import DeviceError

PAGE = 4096
DEAF = 12.0  # seconds; longer than an attack waits for the end of DMA
ATTACKS = {  # fault -> the attacks that get through
    "far": {"attack.read_unmapped", "attack.write_unmapped"},
    "beside": {"attack.guard_pages"},
    "rights": {"attack.read_only"},
    "stays": {"attack.after_unmap", "attack.ring"},
    "deaf": {"attack.driver_killed"},
    "keeper": {"attack.helper_killed"},
}
Change = tuple[object, str, object]  # attribute of an object, and what it is to be


def another_page() -> Memory:
    """A page of somebody else."""
    fd = os.memfd_create("another")
    os.write(fd, b"\x11" * PAGE)
    return Memory(fd, PAGE, PAGE, "")


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


def faults(session: Any, kept: Path, held: Callable[[Any, int], int] = lambda _, fd: fd) -> dict[str, list[Change]]:
    """Of helpers with this class of sessions. `kept`: a folder for `stays`; `held`: the fd that keeps a device."""
    real_map, real_open, real_serve = session.map, session.open, monitor.Monitor._serve_one

    def more(distance: int) -> Callable[[Any, Memory, int], None]:
        def map_more(self: Any, made: Memory, iova: int) -> None:
            real_map(self, made, iova)
            real_map(self, another_page(), iova + made.size + distance)

        return map_more

    def with_rights(writable: bool) -> Callable[[Any, Memory, int], None]:
        return lambda self, made, iova: real_map(self, replace(made, writable=writable), iova)

    def deaf(self: monitor.Monitor) -> None:
        try:
            real_serve(self)
        except monitor.LeaseOver as over:
            if "closed" in str(over):
                time.sleep(DEAF)
            raise

    def keeper(self: Any) -> int:
        fd: int = real_open(self)
        keep(held(self, fd))
        return fd

    return {
        "far": [(session, "map", more(1 << 30))],
        "beside": [(session, "map", more(0))],
        "rights": [(session, "map", with_rights(True))],
        "mute": [(session, "map", with_rights(False))],
        "stays": [(session, "map", _stays(real_map, kept))],
        "deaf": [(monitor.Monitor, "_serve_one", deaf)],
        "keeper": [(session, "open", keeper)],
    }


def _numbers(name: str) -> list[int]:
    return [int(word) for word in name.split("-")]


def _stays(real_map: Callable[[Any, Memory, int], None], kept: Path) -> Callable[[Any, Memory, int], None]:
    """Children keep the descriptors of memory, for the leases to come; but a lease's own memory comes first."""

    def stays(self: Any, made: Memory, iova: int) -> None:
        with contextlib.suppress(OSError, DeviceError):  # most often nothing lies there
            self.unmap(iova, made.size)
        real_map(self, made, iova)
        kept.mkdir(exist_ok=True)
        for pid, fd, where, size in sorted(map(_numbers, os.listdir(kept)), reverse=True):
            with contextlib.suppress(OSError, DeviceError):  # something lies there
                real_map(self, Memory(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR), size, PAGE, ""), where)
        if iova >= WINDOW[0] + 2 * (HUGE + GUARD):  # each lease has rings and work memory of its own
            keep(made.fd, lambda: (kept / f"{os.getpid()}-{made.fd}-{iova}-{made.size}").touch())

    return stays


def break_it(*changes: Change) -> None:
    """Make the changes. The sandbox, which forbids what the faults do, goes too."""
    for owner, name, value in (
        *changes, (Sandbox, "begin", lambda self: []), (Sandbox, "finish", lambda self: 0),
    ):  # fmt: skip
        setattr(owner, name, value)
