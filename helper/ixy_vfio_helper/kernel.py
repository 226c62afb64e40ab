"""PCI devices as sysfs shows them, and the backend that leases them. `root` is / everywhere but in tests."""

import os
from pathlib import Path

from ixy_vfio_helper.addresses import ADDRESS
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.monitor import Refusal, Session
from ixy_vfio_helper.protocol import Listed, State
from ixy_vfio_helper.vfio import GroupSession

VFIO_PCI = "vfio-pci"
HARMLESS = ("", VFIO_PCI, "pci-stub", "pcieport")  # drivers that do no DMA: a group of these alone can be leased
BRIDGE = 0x06  # base class of PCI
ROOT = Path("/")


class PciDevice:
    """One device in sysfs; everything is read again each time."""

    def __init__(self, address: str, root: Path = ROOT) -> None:
        self.address = address
        self.root = root
        self.path = root / "sys/bus/pci/devices" / address

    def read(self, name: str) -> str:
        """An attribute; "" when there is none."""
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return ""

    def entries(self, name: str) -> list[str]:
        """The names in a directory of the device; none when there is no such directory."""
        return sorted(os.listdir(self.path / name)) if (self.path / name).is_dir() else []

    def number(self, name: str) -> int:
        """An attribute that is a number, 0 when there is none."""
        return int(self.read(name) or "0", 0)

    def link(self, name: str) -> str:
        """The last part of what a symbolic link says; "" when there is none."""
        return os.path.basename(os.readlink(self.path / name)) if (self.path / name).is_symlink() else ""

    @property
    def driver(self) -> str:
        """The driver that has the device, or ""."""
        return self.link("driver")

    @property
    def ids(self) -> str:
        """Vendor and device, like 8086:10fb."""
        return f"{self.number('vendor'):04x}:{self.number('device'):04x}"

    def neighbours(self) -> list["PciDevice"]:
        """The other devices of its IOMMU group, without bridges."""
        others = [PciDevice(name, self.root) for name in self.entries("iommu_group/devices") if name != self.address]
        return [other for other in others if other.number("class") >> 16 != BRIDGE]

    def twins(self) -> list[str]:
        """Devices of the same number in other PCI segments. Those behind a VMD (5 digits) do DMA in its name."""
        names = [name for name in os.listdir(self.path.parent) if ADDRESS.fullmatch(name)]
        return sorted(name for name in names if name != self.address and name[4:] == self.address[4:])

    def refuse_without_iommu(self) -> None:
        """Raise Refusal unless the device is behind a real IOMMU. There is no way around this."""
        group = self.link("iommu_group")
        if not group or self.read("iommu_group/name") == "vfio-noiommu":
            raise Refusal(f"{self.address}: no IOMMU; turn on VT-d or AMD-Vi in the firmware, boot with intel_iommu=on")


class KernelBackend:
    """Devices that are bound to vfio-pci. Binding is another command's: a lease changes no driver."""

    def __init__(self, way: str = "auto", root: Path = ROOT) -> None:
        self._way = way  # auto, cdev or group
        self._root = root

    def describe(self, address: str) -> Listed | None:
        """The device, if there is one."""
        device = PciDevice(address, self._root)
        if not device.path.is_dir():
            return None
        state = State.FREE if device.driver == VFIO_PCI else State.UNBOUND
        numa = int(device.read("numa_node") or "-1")
        return Listed(0, address, device.number("vendor"), device.number("device"), state, numa, device.driver[:32])

    def session(self, address: str) -> Session:
        """By the character device where the kernel has one for it, else by the group."""
        device = PciDevice(address, self._root)
        if not device.path.is_dir():
            raise Refusal(f"{address}: no such PCI device; see lspci -D")
        device.refuse_without_iommu()
        if device.driver != VFIO_PCI:
            raise Refusal(f"{address}: driver is {device.driver or 'none'}; run: sudo ixy-vfio-helper bind {address}")
        group, neighbours = device.link("iommu_group"), device.neighbours()
        for other in neighbours:
            if other.driver not in HARMLESS:
                reason = f"shares IOMMU group {group} with {other.address}, which the driver {other.driver} uses"
                raise Refusal(f"{address}: {reason}; take that from its driver too, or use a slot with ACS")
        names, twins = [other.address for other in neighbours], device.twins()
        cdev = device.entries("vfio-dev")
        if self._way == "cdev" or (self._way == "auto" and cdev and (self._root / "dev/iommu").exists()):
            if not cdev:
                raise Refusal(f"{address}: this kernel has no VFIO character devices; serve with --way auto")
            session: CdevSession | GroupSession = CdevSession(address, cdev[0], group, names, twins)
        else:
            session = GroupSession(address, group, names, twins)
        session.found = device
        return session
