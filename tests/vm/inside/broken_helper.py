"""In the guest: makes the real helper have a fault, for attacking.py.

One of tests/broken.py, or noiommu: takes devices in VFIO's no-IOMMU mode, where their addresses are physical ones.

    broken_helper.py NAME FAULT WORD...     a helper that is sandboxed as the real one; NAME is for those who look

`beside` as above, or seals: its memory has none.
"""

import fcntl
import mmap
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ixy_vfio_helper import __main__ as program
from ixy_vfio_helper import kernel, memory
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.memory import HUGE, Memory, Range
from ixy_vfio_helper.vfio import GROUP_GET_DEVICE_FD, GROUP_SET_CONTAINER, SET_IOMMU, GroupSession

from ixy_vfio.core.memory import Mapping
from tests.broken import PAGE, Change, break_it, faults

KEPT = Path("/run/kept")
NOIOMMU_IOMMU = 8  # linux/vfio.h
placed: list[int] = []  # in no-IOMMU mode: where the youngest memory lies


class NoIommu(GroupSession):
    """A device that nothing holds back."""

    def open_device(self) -> int:
        self._container = self.own(os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC))
        group = self.own(os.open(f"/dev/vfio/noiommu-{self.group}", os.O_RDWR | os.O_CLOEXEC))
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


NOIOMMU: list[Change] = [
    (kernel.PciDevice, "refuse_without_iommu", lambda self: None),
    (kernel, "GroupSession", NoIommu),
    (memory, "allocate", allocate),
    (memory.Window, "take", take),
]


def break_it_as(fault: str) -> None:
    """Have the fault from now on."""
    break_it(*(faults(CdevSession, KEPT) | {"noiommu": NOIOMMU})[fault], (program, "lower", lambda: None))


SANDBOXED: dict[str, Change] = {
    "beside": faults(CdevSession, KEPT)["beside"][0],
    "seals": (memory, "SEALS", 0),
}

if __name__ == "__main__":
    setattr(*SANDBOXED[sys.argv[2]])
    sys.exit(program.run(sys.argv[3:]))
