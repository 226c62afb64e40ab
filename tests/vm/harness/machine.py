"""What a guest is made of, and the QEMU command line for it."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness.errors import VmError
from tests.vm.harness.kernel import Kernel
from tests.vm.harness.qemu import Qemu

HARNESS = Path(__file__).resolve().parent
FIRST_SLOT = 0x10  # root ports stand at 0000:00:10.0 and up
MAX_DEVICES = 12
# NICs of QEMU that may be asked for, with the properties that put them behind the IOMMU.
NICS: dict[str, dict[str, object]] = {
    "igb": {},
    # Function 1 is beside it, see _devices. Linux vouches that functions of an igb cannot reach each other.
    "igb-pair": {"driver": "igb", "addr": "0.0", "multifunction": True, "x-pcie-ari-nextfn-1": True},
    "e1000e": {},
    "e1000e-pair": {"driver": "e1000e", "addr": "0.0", "multifunction": True},
    "edu": {"dma_mask": (1 << 39) - 1},  # else it reaches 256 MiB only
    "virtio-net-pci": {"iommu_platform": True, "disable-legacy": "on"},
    # Its DMA is not translated, although it has an IOMMU group; and one with the interface from before version 1, too.
    "virtio-net-past": {"driver": "virtio-net-pci", "disable-legacy": "on"},
    "virtio-net-old": {"driver": "virtio-net-pci", "disable-legacy": "off"},
    "virtio-net-ats": {"driver": "virtio-net-pci", "iommu_platform": True, "disable-legacy": "on", "ats": True},
}
IOMMUS = ("intel", "amd", "virtio", "none")


@dataclass(frozen=True, slots=True)
class Config:
    """A guest. Two equal ones are the same guest to a test session."""

    kernel: str = ""  # see kernel.find
    nics: tuple[str, ...] = ()  # of NICS; device i is called nic{i}
    wires: tuple[int, ...] = ()  # the number of each NIC's wire; empty: all that are NICs share one
    ports: int = 0  # simulated 82599 ports; called port{i}
    cables: tuple[str, ...] = ()  # of the simulated ports, as `ixy-vfio sim --cable` takes them
    sim_options: tuple[str, ...] = ()  # more words for `ixy-vfio sim`
    iommu: str = "intel"
    intremap: bool = True
    hugepages: int = 0  # of 2 MiB
    memory: str = "2G"
    smp: int = 2
    append: str = ""  # more words for the kernel command line
    accel: str = "auto"  # kvm, tcg; auto is kvm where it works

    def __post_init__(self) -> None:
        """Refuse what no machine can have."""
        unknown = [name for name in self.nics if name not in NICS]
        if unknown:
            raise VmError(f"no NIC {unknown[0]}; there are {', '.join(NICS)}")
        if self.iommu not in IOMMUS:
            raise VmError(f"no IOMMU {self.iommu}; there are {', '.join(IOMMUS)}")
        if self.wires and len(self.wires) != len(self.nics):
            raise VmError(f"{len(self.wires)} wires for {len(self.nics)} NICs: give one each, or none")
        if len(self.nics) + self.ports > MAX_DEVICES:
            raise VmError(f"at most {MAX_DEVICES} devices")

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, in the order of their root ports."""
        return (*(f"nic{i}" for i in range(len(self.nics))), *(f"port{i}" for i in range(self.ports)))

    def root_port(self, device: str) -> str:
        """The PCI address of the root port that `device` is behind."""
        return f"0000:00:{FIRST_SLOT + self.devices.index(device):02x}.0"


def _p9(tag: str, path: Path, readonly: bool) -> list[str]:
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    return [
        "-fsdev",
        options + (",readonly=on" if readonly else ""),
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def _platform(config: Config, accel: str) -> list[str]:
    """Processor, memory, interrupt controller, IOMMU."""
    irqchip = "split" if accel == "kvm" else "off"
    remap = "on" if config.intremap else "off"
    iommu = {
        "intel": [f"intel-iommu,intremap={remap},caching-mode=on"],
        "amd": [f"amd-iommu,intremap={remap},dma-remap=on"],
        "virtio": ["virtio-iommu-pci"],
        "none": [],
    }[config.iommu]
    return [
        "-machine",
        f"q35,kernel-irqchip={irqchip},memory-backend=memory",
        *("-accel", "kvm" if accel == "kvm" else "tcg,thread=multi"),
        *("-cpu", "host" if accel == "kvm" else "max"),
        *("-smp", str(config.smp), "-m", config.memory),
        *("-object", f"memory-backend-memfd,id=memory,size={config.memory},share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(word for device in iommu for word in ("-device", device)),
    ]


def device(config: Config, name: str, simulator: Path | None) -> dict[str, object]:
    """The properties of a device, as QEMU's `device_add` takes them."""
    index = config.devices.index(name)
    properties: dict[str, object] = {"id": name, "bus": f"root-{name}"}
    if name.startswith("port"):
        socket = {"type": "unix", "path": f"{simulator}/{name}.sock"}
        return {**properties, "driver": "vfio-user-pci", "rombar": 0, "socket": socket}
    driver = config.nics[index]
    if driver != "edu":
        properties |= {"netdev": f"wire-{name}", "mac": f"52:54:00:82:59:{index:02x}", "romfile": ""}
    return {"driver": driver, **properties, **NICS[driver]}


def _devices(config: Config, simulator: Path | None) -> list[str]:
    """A root port for each device: so it has an IOMMU group of its own, and can be plugged."""
    words: list[str] = []
    for slot, name in enumerate(config.devices, FIRST_SLOT):
        words += ["-device", f"pcie-root-port,id=root-{name},bus=pcie.0,addr={slot:#x},chassis={slot},slot={slot}"]
        properties = device(config, name, simulator)
        if "netdev" in properties:
            wire = config.wires[config.devices.index(name)] if config.wires else 0
            words += ["-netdev", f"hubport,id={properties['netdev']},hubid={wire}"]
        words += ["-device", json.dumps(properties)]
        if properties.get("multifunction"):  # a second one on the same bus, without a wire
            alone = ("netdev", "mac", "x-pcie-ari-nextfn-1")
            beside = {key: value for key, value in properties.items() if key not in alone}
            beside |= {"id": f"{name}.1", "addr": "0.1"}
            words += ["-device", json.dumps(beside)]
    return words


def _append(config: Config, kernel: Kernel) -> str:
    words = [
        # The timer check panics on a guest that has waited for a busy host; QEMU's timer needs none.
        "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check",
        "root=hostroot rootfstype=9p rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=262144 ro",
        f"init={HARNESS}/init vm_init={HARNESS}/init vm_agent={HARNESS}/agent.py",
        f"vm_python={sys.executable} vm_kernel={kernel.root or ''}",
        {"intel": "intel_iommu=on", "amd": "amd_iommu=on"}.get(config.iommu, ""),
        "iommu=nopt iommu.strict=1",
        f"hugepagesz=2M hugepages={config.hugepages}" if config.hugepages else "",
        config.append,
    ]
    return " ".join(word for word in words if word)


def command(
    config: Config,
    *,
    qemu: Qemu,
    kernel: Kernel,
    accel: str,
    folder: Path,
    cache: Path,
    simulator: Path | None = None,
    terminal: bool = False,
) -> Sequence[str]:
    """The command line. `folder` has the sockets, logs and share of this guest; `terminal` puts its console on ours."""
    console = "stdio,id=console,signal=off" if terminal else "null,id=console"
    words = [
        *qemu.command,
        *_platform(config, accel),
        *("-chardev", f"{console},logfile={folder}/console.log"),
        *("-device", "isa-serial,chardev=console,index=0"),
        *("-chardev", f"socket,id=control,path={folder}/control.sock,server=on,wait=off"),
        *("-device", "isa-serial,chardev=control,index=1"),
        *("-chardev", f"socket,id=qmp,path={folder}/qmp.sock,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *_p9("hostroot", Path("/"), readonly=True),
        *_p9("share", folder / "share", readonly=False),
        *_p9("cache", cache, readonly=False),
        *_devices(config, simulator),
        *("-kernel", os.fspath(kernel.image), "-append", _append(config, kernel)),
    ]
    if kernel.root:
        words += ["-initrd", f"{folder}/initramfs"]
    return words
