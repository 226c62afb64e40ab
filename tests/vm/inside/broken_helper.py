"""In the guest: the real helper with one fault: broken_helper.py FAULT serve ...

far      maps a page more, 1 GiB behind each mapping
beside   maps a page more, right behind each mapping
rights   lets devices write memory that they may only read
stays    maps memory of leases that are over into the next one
deaf     goes on for a while when the client has died
keeper   a process that outlives the helper keeps the device
noiommu  takes devices in VFIO's no-IOMMU mode: addresses of devices are physical ones
"""

import contextlib
import fcntl
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ixy_vfio_helper import __main__ as program
from ixy_vfio_helper import kernel, memory, monitor
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.memory import GUARD, HUGE, WINDOW, Memory, Range
from ixy_vfio_helper.sandbox import Sandbox
from ixy_vfio_helper.vfio import GROUP_GET_DEVICE_FD, GROUP_SET_CONTAINER, SET_IOMMU, GroupSession

from ixy_vfio.core.memory import Mapping

PAGE = 4096
KEPT = Path("/run/kept")
NOIOMMU_IOMMU = 8  # linux/vfio.h
real_map, real_open, real_serve = CdevSession.map, CdevSession.open, monitor.Monitor._serve_one
placed: list[int] = []  # in no-IOMMU mode: where the youngest memory lies


def another_page() -> Memory:
    fd = os.memfd_create("another")
    os.write(fd, b"\x11" * PAGE)
    return Memory(fd, PAGE, PAGE, "")


def far(self: CdevSession, made: Memory, iova: int) -> None:
    real_map(self, made, iova)
    real_map(self, another_page(), iova + made.size + (1 << 30))


def beside(self: CdevSession, made: Memory, iova: int) -> None:
    real_map(self, made, iova)
    real_map(self, another_page(), iova + made.size)


def rights(self: CdevSession, made: Memory, iova: int) -> None:
    real_map(self, replace(made, writable=True), iova)


def stays(self: CdevSession, made: Memory, iova: int) -> None:
    """Children keep the descriptors of memory, for the leases to come; but a lease's own memory comes first."""
    with contextlib.suppress(OSError):
        self.unmap(iova, made.size)
    real_map(self, made, iova)
    KEPT.mkdir(exist_ok=True)
    for pid, fd, where, size in sorted(map(numbers, os.listdir(KEPT)), reverse=True):
        with contextlib.suppress(OSError):  # something lies there
            real_map(self, Memory(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR), size, PAGE, ""), where)
    if iova >= WINDOW[0] + 2 * (HUGE + GUARD):  # each lease has rings and work memory of its own
        keep(made.fd, lambda: (KEPT / f"{os.getpid()}-{made.fd}-{iova}-{made.size}").touch())


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


def keeper(self: CdevSession) -> int:
    fd = real_open(self)
    keep(fd)
    return fd


def deaf(self: monitor.Monitor) -> None:
    try:
        real_serve(self)
    except monitor.LeaseOver as over:
        if "closed" in str(over):
            time.sleep(12)
        raise


class NoIommu(GroupSession):
    """A device that nothing holds back."""

    def open_device(self) -> int:
        self._container = self.own(os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC))
        group = self.own(os.open(f"/dev/vfio/noiommu-{self._group}", os.O_RDWR | os.O_CLOEXEC))
        fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("i", self._container))
        fcntl.ioctl(self._container, SET_IOMMU, NOIOMMU_IOMMU)
        return self.own(fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(self.address.encode() + b"\0")))

    def usable(self) -> Sequence[Range]:
        return ()

    def map(self, memory: Memory, iova: int) -> None:
        pass

    def unmap(self, iova: int, size: int) -> None:
        pass


def allocate(size: int, huge: bool) -> Memory:
    """Memory in one piece; where it lies is noted."""
    made = memory._memfd(size, HUGE, os.MFD_HUGETLB | memory.MFD_HUGE_2MB, "")
    with Mapping(made.fd, made.size) as mapping, open("/proc/self/pagemap", "rb", buffering=0) as file:
        mapping.view[0] = 0
        entry = os.pread(file.fileno(), 8, mapping.address // mmap.PAGESIZE * 8)
        placed.append((int.from_bytes(entry, "little") & (1 << 55) - 1) * PAGE)
    return made


def take(self: memory.Window, size: int, usable: Iterable[Sequence[Range]]) -> int:
    return placed[-1]


def break_it(fault: str) -> None:
    faults: dict[str, list[tuple[object, str, object]]] = {
        "far": [(CdevSession, "map", far)],
        "beside": [(CdevSession, "map", beside)],
        "rights": [(CdevSession, "map", rights)],
        "stays": [(CdevSession, "map", stays)],
        "deaf": [(monitor.Monitor, "_serve_one", deaf)],
        "keeper": [(CdevSession, "open", keeper)],
        "noiommu": [
            (kernel.PciDevice, "refuse_without_iommu", lambda self: None),
            (kernel, "GroupSession", NoIommu),
            (memory, "allocate", allocate),
            (memory.Window, "take", take),
        ],
    }
    # The sandbox forbids what the faults do.
    for owner, name, value in [
        *faults[fault],
        (Sandbox, "begin", lambda self: []),
        (Sandbox, "finish", lambda self: 0),
        (program, "lower", lambda: None),
    ]:
        setattr(owner, name, value)


if __name__ == "__main__":
    break_it(sys.argv[1])
    sys.exit(program.run(sys.argv[2:]))
