"""The machine as objects: PCI devices, IOMMU groups, kernel command line, modules. Everything is looked up once."""

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ixy_vfio.audit.config import ConfigSpace
from ixy_vfio.audit.model import Reading
from ixy_vfio.audit.system import Denied, Node, System

if TYPE_CHECKING:
    from ixy_vfio.audit.processes import Process
    from ixy_vfio.audit.sessions import Sessions

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
DEVICES = "/sys/bus/pci/devices"
USER_SPACE_DRIVERS = {"vfio-pci", "uio_pci_generic", "igb_uio", "pci-stub"}
SIMULATED_DOMAIN = "8259:"


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function. `bridges` are the addresses above it, the nearest first."""

    address: str
    path: str  # its directory in /sys/devices
    vendor: int
    device: int
    class_code: int  # 24 bits
    driver: str | None
    group: str | None
    bridges: tuple[str, ...]

    @property
    def is_bridge(self) -> bool:
        """A PCI bridge."""
        return self.class_code >> 8 in (0x0604, 0x0609)

    @property
    def in_user_space(self) -> bool:
        """Driven, or ready to be driven, by a program."""
        return self.driver is not None and (self.driver in USER_SPACE_DRIVERS or "vfio" in self.driver)

    def __str__(self) -> str:
        return f"{self.address} [{self.vendor:04x}:{self.device:04x}] driver {self.driver or 'none'}"


class Host:
    """A machine under audit."""

    def __init__(self, system: System) -> None:
        self.system = system

    def read(self, path: str) -> Reading:
        """A text file, without the white space around it. Raises Denied."""
        data = self.system.data(path)
        return Reading(path, None if data is None else data.decode(errors="replace").strip("\0 \n\t"))

    def node(self, path: str) -> tuple[Node | None, Reading]:
        """Owner and mode of a file, and the same as evidence."""
        node = self.system.node(path)
        return node, Reading(path, None if node is None else str(node))

    def names(self, path: str) -> Reading:
        """What is in a directory, as evidence."""
        return Reading(path, " ".join(self.system.names(path)) or None)

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return self.system.resolve(path) is not None

    # -- kernel

    @cached_property
    def command_line(self) -> Reading:
        """The kernel's."""
        return self.read("/proc/cmdline")

    def option(self, name: str) -> str | None:
        """The value of a kernel option, all of them with commas between when it stands there more than once."""
        words = [word.partition("=") for word in (self.command_line.value or "").split()]
        found = [value for key, _, value in words if key.replace("-", "_") == name.replace("-", "_")]
        return ",".join(found) if found else None

    def has_option(self, name: str, *values: str) -> bool:
        """Whether one of `values` is among the comma-separated values of a kernel option."""
        return bool(set(values) & set((self.option(name) or "").split(",")))

    @cached_property
    def release(self) -> Reading:
        """`uname -r`."""
        return self.read("/proc/sys/kernel/osrelease")

    @property
    def version(self) -> tuple[int, int]:
        """Of the kernel; (0, 0) when unknown."""
        found = re.match(r"(\d+)\.(\d+)", self.release.value or "")
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @cached_property
    def config(self) -> tuple[str, Mapping[str, str]]:
        """(file, options of the kernel's configuration without CONFIG_); both empty when it is nowhere to be read."""
        for path in (
            "/proc/config.gz",
            f"/boot/config-{self.release.value}",
            f"/lib/modules/{self.release.value}/config",
        ):
            try:
                data = self.system.data(path)
            except Denied:
                continue
            if data is not None:
                text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
                return path, dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))
        return "", {}

    def parameter(self, module: str, name: str) -> Reading:
        """A module's parameter: as it is, or while the module is not loaded, as it will be."""
        loaded = self.read(f"/sys/module/{module}/parameters/{name}")
        if loaded.value is not None:
            return loaded
        if (value := self.option(f"{module}.{name}")) is not None:
            return Reading("/proc/cmdline", f"{module}.{name}={value}")
        for directory in ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"):
            for file in self.system.names(directory):
                text = self.read(f"{directory}/{file}").value or ""
                if found := re.search(rf"^\s*options\s+{module}\s.*\b{name}=(\S+)", text, re.MULTILINE):
                    return Reading(f"{directory}/{file}", f"{name}={found[1]}")
        return loaded

    # -- IOMMU

    @cached_property
    def iommus(self) -> list[str]:
        """Names of the IOMMUs that are on: dmar0 (Intel), ivhd0 (AMD), ..."""
        return self.system.names("/sys/class/iommu")

    @property
    def maker(self) -> str:
        """Of the IOMMU: intel, amd, other, or nothing when there is none."""
        if not self.iommus:
            return ""
        return {"dmar": "intel", "ivhd": "amd"}.get(self.iommus[0][:4], "other")

    # -- PCI

    @cached_property
    def devices(self) -> dict[str, PciDevice]:
        """All PCI functions, by address."""
        return {address: self._device(address) for address in self.system.names(DEVICES)}

    def _device(self, address: str) -> PciDevice:
        def number(name: str) -> int:
            return int(self.read(f"{DEVICES}/{address}/{name}").value or "0", 16)

        def last(name: str) -> str | None:
            target = self.system.target(f"{DEVICES}/{address}/{name}")
            return None if target is None else target.rpartition("/")[2]

        path = self.system.resolve(f"{DEVICES}/{address}") or f"{DEVICES}/{address}"
        above = [part for part in path.split("/")[:-1] if ADDRESS.fullmatch(part)]
        return PciDevice(
            address, path, number("vendor"), number("device"), number("class"), last("driver"), last("iommu_group"),
            tuple(reversed(above)),
        )  # fmt: skip

    def config_space(self, device: PciDevice) -> ConfigSpace:
        """The configuration space of a device."""
        path = f"{DEVICES}/{device.address}/config"
        return ConfigSpace(path, self.system.data(path) or b"")

    def group(self, number: str) -> list[PciDevice]:
        """The members of an IOMMU group."""
        return [device for device in self.devices.values() if device.group == number]

    def group_type(self, number: str) -> Reading:
        """The type of a group's default domain: DMA, DMA-FQ, identity, ..."""
        return self.read(f"/sys/kernel/iommu_groups/{number}/type")

    @cached_property
    def groups(self) -> list[str]:
        """All IOMMU groups, in order."""
        return sorted(self.system.names("/sys/kernel/iommu_groups"), key=lambda name: (len(name), name))

    # -- processes

    @cached_property
    def processes(self) -> "list[Process]":
        """Every process but kernel threads, as far as it is shown to the auditor."""
        from ixy_vfio.audit.processes import read_all

        return list(read_all(self))

    @cached_property
    def sessions(self) -> "Sessions":
        """Who uses devices."""
        from ixy_vfio.audit.sessions import find

        return find(self)

    @property
    def root(self) -> bool:
        """Whether root looks, who sees everything."""
        return self.system.uid == 0
