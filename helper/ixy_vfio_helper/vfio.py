"""Devices of the kernel's VFIO: what is common to both ways in, and the older one (group and container, type1).

Numbers and layouts: linux/vfio.h. Each device has a container, so an IOMMU domain, of its own.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence

from ixy_vfio_locks.calls import address_of

from ixy_vfio_helper import identity
from ixy_vfio_helper.kernel_log import WANTED, KernelLog
from ixy_vfio_helper.memory import WINDOW, Memory, Range
from ixy_vfio_helper.monitor import Refusal, log
from ixy_vfio_helper.protocol import Kind

VFIO = 0x3B00  # _IO(';', number)
SET_IOMMU, GROUP_GET_STATUS, GROUP_SET_CONTAINER, GROUP_GET_DEVICE_FD = VFIO + 102, VFIO + 103, VFIO + 104, VFIO + 106
DEVICE_GET_REGION_INFO, DEVICE_SET_IRQS = VFIO + 108, VFIO + 110
IOMMU_GET_INFO, IOMMU_MAP_DMA, IOMMU_UNMAP_DMA = VFIO + 112, VFIO + 113, VFIO + 114
TYPE1V2_IOMMU, GROUP_VIABLE, CAP_IOVA_RANGE = 3, 1, 1
MAP_READ, MAP_WRITE = 1, 2
CONFIG_REGION, ERR_IRQ, REQ_IRQ = 7, 3, 4
EVENTFD_TRIGGER = 0x24  # VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
PCI_COMMAND, MEMORY_SPACE, BUS_MASTER = 4, 0x2, 0x4


def control(fd: int, number: int, layout: str, *fields: int, room: int = 0) -> bytearray:
    """An ioctl on a structure that begins with its own size; returns it as the kernel left it. Raises OSError."""
    size = struct.calcsize("=I" + layout) + room
    data = bytearray(struct.pack("=I" + layout, size, *fields).ljust(size, b"\0"))
    fcntl.ioctl(fd, number, data)
    return data


class KernelSession:
    """A device of vfio-pci. Subclasses open it, alone in an IOMMU domain, and map."""

    kind = Kind.VFIO
    found: identity.Device  # what sysfs shows of it
    _log: KernelLog  # from `open` on

    def __init__(self, address: str, group: str, neighbours: Sequence[str] = (), twins: Sequence[str] = ()) -> None:
        self.address = address
        self.group, self.neighbours = group, neighbours
        self._twins = twins  # devices of the same number in other PCI segments
        self._fds = contextlib.ExitStack()  # closed together; mappings are gone by then
        self._device = self._request = self._error = -1
        self._config = 0

    def own(self, fd: int) -> int:
        """Close this file descriptor when the session is closed."""
        self._fds.callback(os.close, fd)
        return fd

    def open_device(self) -> int:
        """The device's file descriptor, attached to a domain of its own."""
        raise NotImplementedError

    def open(self) -> int:
        """Take the device, and ask to be told when the kernel wants it back or it has a fatal error."""
        if self._twins:
            twins = ", ".join(self._twins)
            log.warning("%s: a fault logged without a PCI segment ends no lease: it may be %s's", self.address, twins)
        self._log = KernelLog(self.address, self._twins)
        self.own(self._log.fd)
        device = self.open_device()
        self._device, self._config = device, self._region(device, CONFIG_REGION)
        self._request, self._error = (self.own(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)) for _ in range(2))
        control(self._device, DEVICE_SET_IRQS, "IIIIi", EVENTFD_TRIGGER, REQ_IRQ, 0, 1, self._request)
        with contextlib.suppress(OSError):  # a device without PCI Express error reporting has no such interrupt
            control(self._device, DEVICE_SET_IRQS, "IIIIi", EVENTFD_TRIGGER, ERR_IRQ, 0, 1, self._error)
        return self._device

    def _region(self, device: int, index: int) -> int:
        """Where a region of the device begins in its file."""
        info = control(device, DEVICE_GET_REGION_INFO, "IIIQQ", 0, index, 0, 0, 0)
        return int(struct.unpack_from("=Q", info, 24)[0])

    def verify(self, recorded: str) -> None:
        """Refuse another device than the one that is recorded, and one that the IOMMU does not hold back."""

        def read(offset: int, size: int) -> bytes:
            with contextlib.suppress(OSError):  # a device without extended configuration space ends before
                return os.pread(self._device, size, self._config + offset)
            return b""

        if recorded and (found := identity.identity(self.found, read)) != recorded:
            raise Refusal(f"{self.address}: the policy gives {recorded}, but {found} is there now; run setup again")
        if identity.is_virtio(self.found):
            where = identity.common_configuration(read)
            identity.refuse_past_iommu(self.found, where is not None and self._offers_access_platform(*where))

    def _offers_access_platform(self, bar: int, offset: int) -> bool:
        """Bit 33 of what a virtio function offers: bit 1 of device_feature, when device_feature_select is 1."""
        command, base = self._config + PCI_COMMAND, self._region(self._device, bar) + offset
        before = os.pread(self._device, 2, command)
        os.pwrite(self._device, (int.from_bytes(before, "little") | MEMORY_SPACE).to_bytes(2, "little"), command)
        try:
            os.pwrite(self._device, (identity.ACCESS_PLATFORM // 32).to_bytes(4, "little"), base)
            word = int.from_bytes(os.pread(self._device, 4, base + 4), "little")
        finally:
            os.pwrite(self._device, before, command)
        return bool(word >> identity.ACCESS_PLATFORM % 32 & 1)

    def bus_master_off(self) -> None:
        """Clear the bit in the command register, and leave the others."""
        if self._device < 0:
            return
        command = int.from_bytes(os.pread(self._device, 2, self._config + PCI_COMMAND), "little")
        if command != 0xFFFF:  # else the device is gone
            os.pwrite(self._device, (command & ~BUS_MASTER).to_bytes(2, "little"), self._config + PCI_COMMAND)

    def close(self) -> None:
        """Close everything that is held of the device. Whose descriptor is the last one, lets the kernel reset it."""
        self._fds.close()
        self._device = -1

    def watch(self) -> Sequence[int]:
        """The device's own requests, and the kernel log: whoever holds the device can take these interrupts away."""
        return self._request, self._error, self._log.fd

    def trouble(self) -> str | None:
        """Why the lease must end."""
        for eventfd, reason in ((self._request, WANTED), (self._error, "it reported a fatal error")):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(eventfd)
                return f"{self.address}: {reason}"
        logged = self._log.trouble()
        return f"{self.address}: {logged}" if logged else None


class GroupSession(KernelSession):
    """By /dev/vfio/GROUP and a container."""

    _container = -1

    def open_device(self) -> int:
        """SET_CONTAINER, SET_IOMMU, GET_DEVICE_FD."""
        self._container = self.own(os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC))
        group = self.own(os.open(f"/dev/vfio/{self.group}", os.O_RDWR | os.O_CLOEXEC))  # EBUSY: somebody has it
        if not struct.unpack_from("=I", control(group, GROUP_GET_STATUS, "I", 0), 4)[0] & GROUP_VIABLE:
            raise OSError(errno.EPERM, f"IOMMU group {self.group} has a device that another driver uses")
        fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("i", self._container))
        try:
            fcntl.ioctl(self._container, SET_IOMMU, TYPE1V2_IOMMU)
        except PermissionError:
            raise OSError(errno.EPERM, "the IOMMU does not remap interrupts; turn that on in the firmware") from None
        return self.own(fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(self.address.encode() + b"\0")))

    def usable(self) -> Sequence[Range]:
        """The IOVA ranges of the container."""
        info = control(self._container, IOMMU_GET_INFO, "IQII", 0, 0, 0, 0, room=4072)
        (offset,) = struct.unpack_from("=I", info, 16)
        while offset:
            kind, _, following = struct.unpack_from("=HHI", info, offset)
            if kind == CAP_IOVA_RANGE:
                (count,) = struct.unpack_from("=I", info, offset + 8)
                ranges = struct.iter_unpack("=QQ", info[offset + 16 : offset + 16 + 16 * count])
                return [(first, last + 1) for first, last in ranges]
            offset = following
        return (WINDOW,)  # a kernel before 5.4 does not tell

    def map(self, memory: Memory, iova: int) -> None:
        """MAP_DMA. It pins the pages, so that this process need not keep them mapped."""
        rights = MAP_READ | MAP_WRITE * memory.writable
        with mmap.mmap(memory.fd, memory.size) as view:
            control(self._container, IOMMU_MAP_DMA, "IQQQ", rights, address_of(view), iova, memory.size)

    def unmap(self, iova: int, size: int) -> None:
        """UNMAP_DMA."""
        control(self._container, IOMMU_UNMAP_DMA, "IQQ", 0, iova, size)
