"""PCI configuration space as sysfs shows it: 64 bytes to everybody, all of it to root.

Source: PCI Local Bus Specification 3.0 chapter 6, PCI Express Base Specification 5.0 chapter 7; names and numbers as in
linux/pci_regs.h.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ixy_vfio.audit.system import Denied

COMMAND, COMMAND_MASTER = 0x04, 0x4
HEADER_TYPE, BRIDGE = 0x0E, 1
CAPABILITIES = 0x34
CAP_EXPRESS = 0x10
EXT_ATS, EXT_SRIOV, EXT_ACS, EXT_PRI, EXT_PASID = 0x0F, 0x10, 0x0D, 0x13, 0x1B
ACS_DIRECT = 0x40  # direct translated P2P: should be off
EXPRESS_TYPES = {4: "root port", 5: "upstream port", 6: "downstream port", 7: "PCIe-to-PCI bridge"}
PUBLIC = 64  # bytes that everybody may read

# Access Control Services, control register: what keeps two devices below a bridge from reaching each other.
ACS_BITS = {
    0x01: "source validation",
    0x04: "request redirect",
    0x08: "completion redirect",
    0x10: "upstream forwarding",
}


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """The configuration space of one device. Methods raise Denied when what they need was not shown."""

    path: str
    data: bytes

    def word(self, offset: int, size: int = 2) -> int:
        """`size` bytes, little-endian."""
        if offset + size > len(self.data):
            raise Denied(self.path)
        return int.from_bytes(self.data[offset : offset + size], "little")

    @property
    def bus_master(self) -> bool:
        """Whether the device may do DMA."""
        return bool(self.word(COMMAND) & COMMAND_MASTER)

    def capability(self, number: int) -> int | None:
        """Offset of a capability."""
        at = self.word(CAPABILITIES, 1)
        for _ in range(48):  # as many as fit
            if at < PUBLIC:
                return None
            if self.word(at, 1) == number:
                return at
            at = self.word(at + 1, 1) & 0xFC
        return None

    def extended(self, number: int) -> int | None:
        """Offset of an extended capability."""
        if len(self.data) <= PUBLIC:
            raise Denied(self.path)
        return next((at for at, found in self._extended() if found == number), None)

    def _extended(self) -> Iterator[tuple[int, int]]:
        at, left = 0x100, 960  # as many as fit
        while len(self.data) >= at + 4 and left:
            header = self.word(at, 4)
            if header in (0, 0xFFFF_FFFF):
                return
            yield at, header & 0xFFFF
            at, left = header >> 20 & 0xFFC, left - 1
            if at < 0x100:
                return

    @property
    def port_type(self) -> str | None:
        """What kind of PCI Express bridge it is."""
        at = self.capability(CAP_EXPRESS)
        return None if at is None else EXPRESS_TYPES.get(self.word(at + 2) >> 4 & 0xF)
