"""Which device it is that lies at an address, for addresses move when a card does; and whether an IOMMU holds it back.

    8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10     vendor:device, those of the subsystem, and the serial number if any

Many NICs make their serial number of their MAC address. Layouts: PCI Express Base, device serial number capability;
Virtual I/O Device 1.2, 4.1.4 (virtio over PCI).
"""

from collections.abc import Callable
from typing import Protocol

from ixy_vfio_helper.monitor import Refusal

Read = Callable[[int, int], bytes]  # offset, size -> that much of configuration space, or less


EXTENDED, SERIAL_NUMBER, CONFIG_SIZE = 0x100, 0x0003, 0x1000
VIRTIO, VIRTIO_MODERN = 0x1AF4, range(0x1040, 0x1080)  # vendor; device ids that have no legacy interface
STATUS, HAS_CAPABILITIES, CAPABILITIES, VENDOR_SPECIFIC = 0x06, 0x10, 0x34, 0x09
COMMON_CONFIGURATION, ACCESS_PLATFORM = 1, 33


class Device(Protocol):
    """A device in sysfs: kernel.PciDevice."""

    address: str

    @property
    def ids(self) -> str:
        """Vendor and device, like 8086:10fb."""

    def number(self, name: str) -> int:
        """An attribute that is a number, 0 when there is none."""

    def read(self, name: str) -> str:
        """An attribute; "" when there is none."""

    def entries(self, name: str) -> list[str]:
        """The names in a directory of the device."""


def identity(device: Device, read: Read) -> str:
    """Which device it is."""
    ids = f"{device.ids} {device.number('subsystem_vendor'):04x}:{device.number('subsystem_device'):04x}"
    return f"{ids} {serial(read)}".strip()


def _number(read: Read, offset: int, size: int) -> int:
    return int.from_bytes(read(offset, size), "little")


def serial(read: Read) -> str:
    """The serial number, its highest byte first, as lspci writes it; "" when there is none, or it cannot be read."""
    at, seen = EXTENDED, set[int]()
    while EXTENDED <= at < CONFIG_SIZE and at not in seen:
        seen.add(at)
        header = _number(read, at, 4)
        if header & 0xFFFF == SERIAL_NUMBER:
            number = read(at + 4, 8)[::-1]
            return number.hex("-") if len(number) == 8 and number.strip(b"\0") and number.strip(b"\xff") else ""
        at = header >> 20 & 0xFFC
    return ""


def is_virtio(device: Device) -> bool:
    """Whether it is one, by its ids, or by the driver that has it."""
    return device.number("vendor") == VIRTIO or any(name.startswith("virtio") for name in device.entries(""))


def refuse_past_iommu(device: Device, offers: bool | None) -> None:
    """Raise Refusal for a virtio function that does not offer VIRTIO_F_ACCESS_PLATFORM (None: nobody knows).

    Without it a hypervisor takes what the function is told for physical addresses, although it has an IOMMU group.
    """
    if not is_virtio(device):
        return
    where, remedy = device.address, "QEMU: iommu_platform=on,disable-legacy=on"
    if device.number("vendor") == VIRTIO and device.number("device") not in VIRTIO_MODERN:
        raise Refusal(f"{where}: an old virtio function ({device.ids}) reaches all memory past the IOMMU; {remedy}")
    if offers is None:
        raise Refusal(f"{where}: only virtio's driver tells whether the IOMMU holds it back; run: modprobe virtio_net")
    if not offers:
        raise Refusal(f"{where}: without VIRTIO_F_ACCESS_PLATFORM it reaches all memory past the IOMMU; {remedy}")


def common_configuration(read: Read) -> tuple[int, int] | None:
    """Where the registers lie that every virtio function has: BAR, offset; None for a legacy function."""
    at, seen = _number(read, CAPABILITIES, 1) & 0xFC, set[int]()
    if not _number(read, STATUS, 2) & HAS_CAPABILITIES:
        return None
    while at and at not in seen:
        seen.add(at)
        kind, following, _, what, bar = read(at, 5).ljust(5, b"\0")
        if (kind, what) == (VENDOR_SPECIFIC, COMMON_CONFIGURATION) and bar < 6:
            return bar, _number(read, at + 8, 4)
        at = following & 0xFC
    return None
