"""PCI configuration space: who a device is, and whether it may do DMA.

Source: PCI Local Bus Specification 3.0, chapter 6.2; names as in linux/pci_regs.h.
"""

from typing import Protocol

from ixy_vfio.core.errors import DeviceGone

VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
COMMAND_MEMORY = 0x2
COMMAND_MASTER = 0x4


class ConfigSpace(Protocol):
    """The part of a device that this module needs."""

    address: str

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes, little-endian."""

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes."""


def identify(device: ConfigSpace) -> tuple[int, int]:
    """(vendor, device id). Raises DeviceGone when nothing answers."""
    vendor = device.config_read(VENDOR_ID, 2)
    if vendor == 0xFFFF:
        raise DeviceGone(f"{device.address}: the device does not answer; it was removed, or its power is off")
    return vendor, device.config_read(DEVICE_ID, 2)


def set_bus_master(device: ConfigSpace, on: bool) -> None:
    """Let the device do DMA, or not; it answers memory accesses either way."""
    command = device.config_read(COMMAND, 2)
    if command == 0xFFFF:
        raise DeviceGone(f"{device.address}: the device does not answer; it was removed, or its power is off")
    wanted = command & ~COMMAND_MASTER | COMMAND_MEMORY | (COMMAND_MASTER if on else 0)
    if wanted != command:
        device.config_write(COMMAND, 2, wanted)


def bus_master(device: ConfigSpace) -> bool:
    """Whether the device may do DMA."""
    return bool(device.config_read(COMMAND, 2) & COMMAND_MASTER)
