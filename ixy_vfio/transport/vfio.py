"""A device behind a VFIO file descriptor of the kernel, which the helper has opened, attached to its IOMMU and passed.

Numbers and layouts: linux/vfio.h. The descriptor can do what a driver needs of the device, and map no memory for it.
"""

import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from ixy_vfio.core.errors import DeviceError, UsageError
from ixy_vfio.core.memory import Mapping
from ixy_vfio.transport import wire

DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO = 0x3B6B, 0x3B6C, 0x3B6D  # _IO(';', 100 + n)
DEVICE_SET_IRQS, DEVICE_RESET = 0x3B6E, 0x3B6F
PAGE = 4096
Result = TypeVar("Result")


def _ask(fd: int, number: int, layout: struct.Struct, *values: int) -> tuple[int, ...]:
    """An ioctl whose structure begins with its own size. The kernel's structures are those of vfio-user."""
    data = bytearray(layout.pack(layout.size, *values))
    try:
        fcntl.ioctl(fd, number, data)
    except OSError as error:
        raise DeviceError(f"VFIO: ioctl {number:#x}: {error.strerror}") from error
    return layout.unpack(data)


class VfioBar:
    """BAR0, mapped whole: an access is one 32-bit load or store. Implements `base.Bar`."""

    def __init__(self, fd: int) -> None:
        _, flags, _, _, self.size, self._offset = _ask(
            fd, DEVICE_GET_REGION_INFO, wire.REGION_INFO, 0, wire.BAR0_REGION, 0, 0, 0
        )
        if not flags & wire.REGION_FLAG_MMAP:
            raise DeviceError("VFIO: BAR0 cannot be mapped; this device cannot be driven")
        self._fd = fd
        self._mapping = Mapping(fd, self.size, self._offset)
        self._words = self._mapping.view.cast("I")  # a store to an element is one store; struct's is four

    def _index(self, offset: int) -> int:
        if not self._mapping.address:
            raise UsageError("the device was closed")
        if offset % 4 or not 0 <= offset <= self.size - 4:
            raise UsageError(f"register offset {offset:#x}: not a multiple of 4 below {self.size:#x}")
        return offset // 4

    def read32(self, offset: int) -> int:
        """Read a register."""
        return self._words[self._index(offset)]

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        if not 0 <= value <= 0xFFFF_FFFF:
            raise UsageError(f"value {value:#x} does not fit in a 32-bit register")
        self._words[self._index(offset)] = value

    def map(self, offset: int, size: int) -> Mapping:
        """Map whole pages, apart from the mapping that this object uses."""
        if offset % PAGE or size % PAGE or size <= 0 or not 0 <= offset <= self.size - size:
            raise UsageError(f"BAR0 {offset:#x} to {offset + size:#x}: not whole pages inside it")
        if not self._mapping.address:
            raise UsageError("the device was closed")
        return Mapping(self._fd, size, self._offset + offset)

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._words.release()
        self._mapping.close()


class VfioDevice:
    """A device of vfio-pci. Implements `base.Device`. Owns `fd` once it is made."""

    def __init__(self, fd: int, address: str) -> None:
        """Ask the kernel what it is. Raises DeviceError."""
        self.address = address
        self._fd = fd
        info = _ask(fd, DEVICE_GET_INFO, wire.DEVICE_INFO, 0, 0, 0)
        if not info[1] & wire.DEVICE_FLAG_PCI:
            raise DeviceError(f"{address}: no PCI device")
        region = _ask(fd, DEVICE_GET_REGION_INFO, wire.REGION_INFO, 0, wire.CONFIG_REGION, 0, 0, 0)
        self._config_size, self._config = region[4], region[5]
        self._msix_vectors = _ask(fd, DEVICE_GET_IRQ_INFO, wire.IRQ_INFO, 0, wire.MSIX_IRQ, 0)[3]
        self.bar0 = VfioBar(fd)

    def _check_config(self, offset: int, size: int) -> int:
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < self._config_size:
            raise UsageError(f"configuration space: {size} bytes at {offset:#x}: not 1, 2 or 4 bytes, aligned")
        self._check_open()
        return self._config + offset

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        where = self._check_config(offset, size)
        data = self._config_access(lambda: os.pread(self._fd, size, where))
        if len(data) != size:
            raise DeviceError(f"{self.address}: configuration space: {len(data)} of {size} bytes were read")
        return int.from_bytes(data, "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        where = self._check_config(offset, size)
        if not 0 <= value < 1 << 8 * size:
            raise UsageError(f"value {value:#x} does not fit in {size} bytes")
        self._config_access(lambda: os.pwrite(self._fd, value.to_bytes(size, "little"), where))

    def _config_access(self, access: Callable[[], Result]) -> Result:
        try:
            return access()
        except OSError as error:
            raise DeviceError(f"{self.address}: configuration space: {error.strerror}") from error

    def _check_open(self) -> None:
        if self._fd < 0:
            raise UsageError(f"{self.address}: the device was closed")

    @property
    def msix_vectors(self) -> int:
        """How many MSI-X vectors the device has."""
        return self._msix_vectors

    def set_interrupts(self, eventfds: Sequence[int]) -> None:
        """Signal eventfds[i] for vector i; an empty sequence turns all off."""
        if len(eventfds) > self._msix_vectors:
            raise UsageError(f"{len(eventfds)} eventfds: the device has {self._msix_vectors} MSI-X vectors")
        self._check_open()
        kind = wire.IRQ_SET_DATA_EVENTFD if eventfds else wire.IRQ_SET_DATA_NONE
        layout = struct.Struct(wire.IRQ_SET.format + "i" * len(eventfds))
        flags = kind | wire.IRQ_SET_TRIGGER
        _ask(self._fd, DEVICE_SET_IRQS, layout, flags, wire.MSIX_IRQ, 0, len(eventfds), *eventfds)

    def reset(self) -> None:
        """Function level reset."""
        self._check_open()
        try:
            fcntl.ioctl(self._fd, DEVICE_RESET)
        except OSError as error:
            raise DeviceError(f"{self.address}: reset: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor and the mapping. Idempotent."""
        if self._fd >= 0:
            self.bar0.close()
            os.close(self._fd)
            self._fd = -1
