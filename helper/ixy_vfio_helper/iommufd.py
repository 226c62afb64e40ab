"""The newer way into VFIO: a character device per device, and iommufd. Numbers and layouts: linux/iommufd.h.

Whoever holds the device's file descriptor can attach it to any address space of the same iommufd: each session
has an iommufd of its own, bound and attached before the descriptor is passed.
"""

import errno
import mmap
import os
import struct
from collections.abc import Sequence

from ixy_vfio_locks.calls import address_of

from ixy_vfio_helper.memory import Memory, Range
from ixy_vfio_helper.vfio import VFIO, KernelSession, control

DEVICE_BIND_IOMMUFD, DEVICE_ATTACH_IOMMUFD_PT = VFIO + 118, VFIO + 119
IOAS_ALLOC, IOAS_IOVA_RANGES, IOAS_MAP, IOAS_UNMAP, IOAS_MAP_FILE = 0x3B81, 0x3B84, 0x3B85, 0x3B86, 0x3B8F
FIXED_READ, WRITE = 5, 2  # IOMMU_IOAS_MAP_FIXED_IOVA | READABLE, WRITEABLE
MAX_RANGES = 64


class CdevSession(KernelSession):
    """By /dev/vfio/devices/vfioN and /dev/iommu."""

    def __init__(
        self, address: str, name: str, group: str, neighbours: Sequence[str] = (), twins: Sequence[str] = ()
    ) -> None:
        super().__init__(address, group, neighbours, twins)
        self._name = name
        self._iommufd = -1
        self._ioas = 0

    def open_device(self) -> int:
        """BIND_IOMMUFD, IOAS_ALLOC, ATTACH."""
        device = self.own(os.open(f"/dev/vfio/devices/{self._name}", os.O_RDWR | os.O_CLOEXEC))
        self._iommufd = self.own(os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC))
        try:
            control(device, DEVICE_BIND_IOMMUFD, "IiI", 0, self._iommufd, 0)
        except PermissionError:  # the kernel says the same to both
            other = f"another program has a device of IOMMU group {self.group} open, or "
            reason = "the IOMMU does not remap interrupts; turn that on in the firmware"
            raise OSError(errno.EPERM, other * bool(self.neighbours) + reason) from None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None  # it is bound: somebody has it open
        self._ioas = struct.unpack_from("=I", control(self._iommufd, IOAS_ALLOC, "II", 0, 0), 8)[0]
        control(device, DEVICE_ATTACH_IOMMUFD_PT, "II", 0, self._ioas)
        return device

    def usable(self) -> Sequence[Range]:
        """The IOVA ranges of the address space."""
        ranges = bytearray(16 * MAX_RANGES)
        info = control(self._iommufd, IOAS_IOVA_RANGES, "IIIQQ", self._ioas, MAX_RANGES, 0, address_of(ranges), 0)
        (count,) = struct.unpack_from("=I", info, 8)
        return [(first, last + 1) for first, last in struct.iter_unpack("=QQ", ranges[: 16 * count])]

    def map(self, memory: Memory, iova: int) -> None:
        """IOAS_MAP_FILE, or before Linux 6.13 IOAS_MAP. Both pin the pages."""
        rights = FIXED_READ | WRITE * memory.writable
        try:
            control(self._iommufd, IOAS_MAP_FILE, "IIiQQQ", rights, self._ioas, memory.fd, 0, memory.size, iova)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise
            with mmap.mmap(memory.fd, memory.size) as view:
                fields = (rights, self._ioas, 0, address_of(view), memory.size, iova)
                control(self._iommufd, IOAS_MAP, "IIIQQQ", *fields)

    def unmap(self, iova: int, size: int) -> None:
        """IOAS_UNMAP."""
        control(self._iommufd, IOAS_UNMAP, "IQQ", self._ioas, iova, size)
