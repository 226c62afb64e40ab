"""VFIO with the standard library alone: an independent reading of linux/vfio.h and linux/iommufd.h, for guests."""

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

PCI = Path("/sys/bus/pci")
PAGE = 4096
READ, WRITE = 1, 2


def _ioctl(fd: int, number: int, layout: str, *fields: int) -> tuple[int, ...]:
    """An ioctl whose structure begins with its own size (argsz); returns the fields after that."""
    size = struct.calcsize("=I" + layout)
    data = bytearray(struct.pack("=I" + layout, size, *fields))
    fcntl.ioctl(fd, 0x3B00 + number, data)
    return struct.unpack("=I" + layout, data)[1:]


def group_of(address: str) -> str:
    """The IOMMU group of a PCI device."""
    return os.path.basename(os.readlink(PCI / "devices" / address / "iommu_group"))


def driver_of(address: str) -> str:
    """The driver that has the device, "" for none."""
    link = PCI / "devices" / address / "driver"
    return os.path.basename(os.readlink(link)) if link.exists() else ""


def bind(address: str, driver: str) -> None:
    """Give the device to `driver` by driver_override ("" lets the kernel choose)."""
    device = PCI / "devices" / address
    if driver_of(address):
        (device / "driver/unbind").write_text(address)
    (device / "driver_override").write_text(driver + "\n")
    (PCI / "drivers_probe").write_text(address)


class Page:
    """A page of this process that a device may get to see."""

    def __init__(self, fill: bytes) -> None:
        self.memory = mmap.mmap(-1, PAGE)
        self.memory[:] = fill * (PAGE // len(fill))
        self.address = _address_of(self.memory)


def _address_of(memory: mmap.mmap) -> int:
    import ctypes

    view = ctypes.c_char.from_buffer(memory)
    return ctypes.addressof(view)


class Device:
    """An open VFIO device in a DMA domain of its own."""

    fd: int

    def map(self, page: Page, iova: int) -> None:
        raise NotImplementedError

    def region(self, index: int) -> tuple[int, int]:
        """Offset in the device fd, and size (VFIO_DEVICE_GET_REGION_INFO)."""
        _, _, _, size, offset = _ioctl(self.fd, 0x6C, "IIIQQ", 0, index, 0, 0, 0)
        return offset, size

    def write(self, region: int, offset: int, value: int) -> None:
        os.pwrite(self.fd, value.to_bytes(4, "little"), self.region(region)[0] + offset)

    def read(self, region: int, offset: int) -> int:
        return int.from_bytes(os.pread(self.fd, 4, self.region(region)[0] + offset), "little")

    def bus_master(self, on: bool) -> None:
        """Config space is region 7; COMMAND has memory enable in bit 1, bus master in bit 2."""
        command = self.read(7, 4) & 0xFFFF | 2
        self.write(7, 4, command | 4 if on else command & ~4)


class LegacyDevice(Device):
    """By container and group (VFIO type1); in the container of another one if that is given."""

    def __init__(self, address: str, container: int | None = None) -> None:
        self.container = os.open("/dev/vfio/vfio", os.O_RDWR) if container is None else container
        self.group = os.open(f"/dev/vfio/{group_of(address)}", os.O_RDWR)
        fcntl.ioctl(self.group, 0x3B68, struct.pack("i", self.container))  # GROUP_SET_CONTAINER
        if container is None:
            fcntl.ioctl(self.container, 0x3B66, 3)  # SET_IOMMU, type1 v2
        self.fd = fcntl.ioctl(self.group, 0x3B6A, bytearray(address.encode() + b"\0"))  # GROUP_GET_DEVICE_FD

    def map(self, page: Page, iova: int) -> None:
        _ioctl(self.container, 0x71, "IQQQ", READ | WRITE, page.address, iova, PAGE)  # IOMMU_MAP_DMA


class CdevDevice(Device):
    """By /dev/vfio/devices and iommufd; by the iommufd of another one if that is given."""

    def __init__(self, address: str, iommufd: int | None = None) -> None:
        (name,) = os.listdir(PCI / "devices" / address / "vfio-dev")
        self.iommufd = os.open("/dev/iommu", os.O_RDWR) if iommufd is None else iommufd
        self.fd = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
        _ioctl(self.fd, 0x76, "IiI", 0, self.iommufd, 0)  # DEVICE_BIND_IOMMUFD
        _, self.ioas = _ioctl(self.iommufd, 0x81, "II", 0, 0)  # IOAS_ALLOC
        _ioctl(self.fd, 0x77, "II", 0, self.ioas)  # DEVICE_ATTACH_IOMMUFD_PT

    def map(self, page: Page, iova: int) -> None:
        # IOAS_MAP: fixed IOVA (1), writable (2), readable (4)
        _ioctl(self.iommufd, 0x85, "IIIQQQ", 7, self.ioas, 0, page.address, PAGE, iova)


def edu_dma(device: Device, iova: int, to_memory: bool) -> None:
    """One DMA of a page between QEMU's edu device (its buffer at 0x40000) and `iova` (QEMU docs/specs/edu.rst)."""
    buffer = 0x40000
    source, destination = (buffer, iova) if to_memory else (iova, buffer)
    device.write(0, 0x80, source)
    device.write(0, 0x88, destination)
    device.write(0, 0x90, PAGE)
    device.write(0, 0x98, 3 if to_memory else 1)
    end = time.monotonic() + 20
    while device.read(0, 0x98) & 1:
        if time.monotonic() > end:
            raise TimeoutError("edu: the DMA does not end")
        time.sleep(0.02)
