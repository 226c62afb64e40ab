"""The machine as objects: PCI devices, IOMMU groups, kernel command line, modules. Everything is looked up once."""

import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from ixy_vfio_helper import addresses

from ixy_vfio.audit import options
from ixy_vfio.audit.config import ConfigSpace
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.system import Denied, Node, System, Unknown

DEVICES = "/sys/bus/pci/devices"
USER_SPACE_DRIVERS = {"vfio-pci", "uio_pci_generic", "igb_uio", "pci-stub"}
SIMULATED_DOMAIN = "8259:"
MOUNTED = {"/proc": ("version", "cmdline"), "/sys": ("bus/pci", "kernel", "module")}  # what is in it, if it is mounted
INITIAL = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}  # namespaces that the kernel starts with: linux/proc_ns.h

Found = TypeVar("Found")


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
        self._found: dict[Callable[[Host], Any], Any] = {}

    def once(self, find: "Callable[[Host], Found]") -> "Found":
        """What `find` makes of this machine; it looks once."""
        if find not in self._found:
            self._found[find] = find(self)
        found: Found = self._found[find]
        return found

    def read(self, path: str) -> Reading:
        """A text file, without the white space around it. Raises Denied."""
        data = self.system.data(path)
        return Reading(path, None if data is None else data.decode(errors="replace").strip("\0 \n\t"))

    def lines(self, path: str) -> list[str]:
        """The lines of a text file; none if it is not there. Names in it may have any other end of a line in them."""
        text = self.read(path).value
        return text.split("\n") if text else []

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

    def is_mounted(self, place: str) -> bool:
        """Whether /proc or /sys is there."""
        return any(self.exists(f"{place}/{name}") for name in MOUNTED[place])

    # -- kernel

    @cached_property
    def command_line(self) -> Reading:
        """The kernel's."""
        return self.read("/proc/cmdline")

    def option(self, name: str) -> str | None:
        """The value of a kernel option, all of them with commas between when it stands there more than once."""
        said = options.words(self.command_line.value or "")
        found = [value or "" for key, value in said if key == options.name_of(name)]
        return ",".join(found) if found else None

    def is_on(self, name: str) -> bool:
        """Whether a Boolean kernel option is true. The last one counts."""
        said = options.words(self.command_line.value or "")
        found = [value for key, value in said if key == options.name_of(name)]
        return bool(found) and options.is_true(found[-1])

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
                try:
                    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
                except (OSError, EOFError, zlib.error):
                    continue
                if found := dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE)):
                    return path, found
        return "", {}

    def parameter(self, module: str, name: str) -> Reading:
        """A module's parameter: as it is, or while the module is not loaded, as it will be. Raises Unknown.

        modprobe takes what its files say, then the kernel's command line (modprobe(8)).
        """
        path = options.parameter_path(module, name)
        loaded = self.read(path)
        if loaded.value is not None:
            return loaded
        if self.exists(f"/sys/module/{module}"):
            return Reading(path, None)  # this kernel has no such parameter
        if self.option(f"{module}.{name}") is not None:
            last = [value for key, value in options.words(self.command_line.value or "") if key == f"{module}.{name}"][
                -1
            ]
            return Reading("/proc/cmdline", f"{module}.{name}={options.ON if last is None else last}")
        if self.contained:
            raise Unknown(
                f"{module} is not loaded, and the machine's modprobe.d is not seen from here: {self.contained}"
            )
        return options.of_modprobe(self, module, name) or loaded

    @cached_property
    def contained(self) -> str:
        """Why what is seen here is not the whole machine (a container); "" if it is."""
        for kind, number in INITIAL.items():
            if (said := self.system.target(f"/proc/self/ns/{kind}")) is not None and said != f"{kind}:[{number}]":
                return f"this is a {kind} namespace of its own"
        mounts = [line.split() for line in (self.read("/proc/self/mountinfo").value or "").split("\n")]
        kinds = [line[line.index("-") + 1] for line in mounts if len(line) > 4 and line[4] == "/dev" and "-" in line]
        if kinds and kinds[-1] != "devtmpfs":
            return f"/dev is not the kernel's (a {kinds[-1]})"
        return ""

    def require_whole(self) -> None:
        """Raise Unknown where only a part of the machine is seen."""
        if self.contained:
            raise Unknown(f"only a part of the machine is seen from here: {self.contained}")

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
        above = [part for part in path.split("/")[:-1] if addresses.ANY.fullmatch(part)]
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

    def is_noiommu(self, group: str) -> bool:
        """Whether a group was made up by VFIO's no-IOMMU mode (linux/drivers/vfio/group.c)."""
        return self.read(f"/sys/kernel/iommu_groups/{group}/name").value == "vfio-noiommu"

    def group_type(self, number: str) -> Reading:
        """The type of a group's default domain: DMA, DMA-FQ, identity, ..."""
        return self.read(f"/sys/kernel/iommu_groups/{number}/type")

    @cached_property
    def groups(self) -> list[str]:
        """All IOMMU groups, in order."""
        return sorted(self.system.names("/sys/kernel/iommu_groups"), key=lambda name: (len(name), name))
