"""A sysfs tree with a NIC that answers as the kernel does, for the tests of binding."""

import platform
import shutil
from pathlib import Path

import pytest
from ixy_vfio_helper.kernel import PciDevice
from ixy_vfio_setup import bind, netrestore, netstate

NIC, NEIGHBOUR = "0000:03:00.0", "0000:03:00.1"
IR = " 24:  0  IR-PCI-MSIX-0000:03:00.0    0-edge      eth0\n"


class Killed(BaseException):
    """kill -9: nothing runs after it."""


class Kernel:
    """The tree, and what writing to it does. `crash_at`: the write before which the process is killed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.writes: list[str] = []
        self.crash_at = -1
        self.net = "net"
        self.refusing = ""  # a driver whose probe fails
        self.mute = False  # ixgbe makes no interface
        self.lost: list[str] = []  # what netstate says cannot be given back
        self.uppers: list[str] = []  # what it sees on top
        self.notes: list[str] = []  # what netrestore could not give back
        for driver in ("ixgbe", "vfio-pci", "pcieport"):
            (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True)
        (root / "proc").mkdir()
        (root / "proc/interrupts").write_text(IR)
        (root / "sys/bus/pci/drivers_probe").write_text("")
        (root / "dev/vfio").mkdir(parents=True)
        self.add(NIC, "ixgbe", group="7")
        self.set_interface("uplink0", 9000, False)
        monkeypatch.setattr(bind, "write", self.write)
        monkeypatch.setattr(netstate, "save", self.save)
        monkeypatch.setattr(netstate, "set_down", self.set_down)
        monkeypatch.setattr(netstate, "lost", lambda index: list(self.lost))
        monkeypatch.setattr(netstate, "uppers", lambda index: list(self.uppers))
        monkeypatch.setattr(netrestore, "restore", self.restore)
        monkeypatch.setattr(bind, "PROBE_DEADLINE", 0.2)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def add(self, address: str, driver: str, *, group: str, kind: str = "0x020000", device: str = "0x10fb") -> None:
        path = self.device(address)
        path.mkdir(parents=True)
        for name, text in {"class": kind, "vendor": "0x8086", "device": device, "numa_node": "0",
                           "driver_override": "(null)", "sriov_numvfs": "0"}.items():  # fmt: skip
            (path / name).write_text(text + "\n")
        directory = self.root / "sys/kernel/iommu_groups" / group
        (directory / "devices").mkdir(parents=True, exist_ok=True)
        (directory / "devices" / address).symlink_to(path)
        (directory / "reserved_regions").write_text("0x00000000fee00000 0x00000000feefffff msi\n")
        (path / "iommu_group").symlink_to(directory)
        if driver:
            (path / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)

    def device(self, address: str = NIC) -> Path:
        return self.root / "sys/bus/pci/devices" / address

    def set_interface(self, name: str, mtu: int, up: bool) -> None:
        """The NIC's interface."""
        self.interface = (name, mtu, up)
        net = self.device() / self.net
        shutil.rmtree(net, ignore_errors=True)
        (net / name).mkdir(parents=True)
        words = {"mtu": str(mtu), "flags": f"{0x1002 | up:#x}", "dev_port": "0", "ifindex": "7"}
        for what, text in words.items():
            (net / name / what).write_text(text + "\n")

    def _step(self, what: str) -> None:
        if len(self.writes) == self.crash_at:
            raise Killed
        self.writes.append(what)

    def write(self, path: Path, text: str) -> None:
        self._step(f"{path.name}={text}")
        match path.name:
            case "driver_override":
                (self.device() / "driver_override").write_text((text or "(null)") + "\n")
            case "unbind":
                assert path.parent.is_symlink()
                path.parent.unlink()
                shutil.rmtree(self.device() / self.net, ignore_errors=True)
            case "drivers_probe":
                self._probe()
            case "control":
                path.write_text(text + "\n")
            case _:
                raise AssertionError(path)

    def _probe(self) -> None:
        override = (self.device() / "driver_override").read_text().strip()
        driver = "ixgbe" if override == "(null)" else override
        if driver != self.refusing and not (self.device() / "driver").exists():
            (self.device() / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)
            if driver == "ixgbe" and not self.mute:
                self.set_interface("eth0", 1500, False)  # as a driver makes it

    def save(self, index: int, root: Path) -> netstate.State:
        """In the place of netlink; tests/unit/test_netstate.py has the real one."""
        assert (index, root) == (7, self.root)
        name, mtu, up = self.interface
        return netstate.State(name, 0x1002 | up, files={"sys/class/net/@/mtu": f"{mtu}\n"}, index=index)

    def set_down(self, index: int) -> None:
        name, mtu, _ = self.interface
        self._step(f"{name} down")
        self.set_interface(name, mtu, False)

    def restore(self, index: int, state: netstate.State, root: Path) -> list[str]:
        """As netrestore does: down, the name, settings, up."""
        assert (index, root) == (7, self.root)
        self.set_down(index)
        name, mtu, up = state.name, int(state.files["sys/class/net/@/mtu"]), bool(state.flags & 1)
        self._step(f"name={name}")
        self.set_interface(name, self.interface[1], False)
        self._step(f"mtu={mtu}")
        self.set_interface(name, mtu, False)
        self._step(f"{name} {'up' if up else 'down'}")
        self.set_interface(name, mtu, up)
        return self.notes


def nic(kernel: Kernel) -> PciDevice:
    return PciDevice(NIC, kernel.root)


def state(kernel: Kernel) -> tuple[str, str, tuple[str, int, bool]]:
    return nic(kernel).driver, nic(kernel).read("driver_override"), kernel.interface


def attribute(kernel: Kernel, name: str, text: str) -> None:
    path = kernel.device() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def no_group(kernel: Kernel) -> None:
    (kernel.device() / "iommu_group").unlink()


def neighbour(kernel: Kernel, driver: str, kind: str = "0x020000") -> None:
    kernel.add(NEIGHBOUR, driver, group="7", kind=kind)


def region(kernel: Kernel, kind: str) -> None:
    attribute(kernel, "iommu_group/reserved_regions", f"0x7a000000 0x7bffffff {kind}\n0xfee00000 0xfeefffff msi\n")
