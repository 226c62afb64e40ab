"""Binding on a sysfs tree that answers as the kernel does: refusals, and the way back after a crash anywhere."""

import json
import os
import platform
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ixy_vfio_helper import __main__ as command
from ixy_vfio_helper import bind
from ixy_vfio_helper.bind import Journal, check, recover, unbind
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.kernel import KernelBackend, PciDevice
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.protocol import Listed, State

from ixy_vfio.hw import ixgbe

NIC, NEIGHBOUR, BRIDGE = "0000:03:00.0", "0000:03:00.1", "0000:00:01.0"
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
        self.interfaces: dict[str, tuple[str, int, bool]] = {}
        for driver in ("ixgbe", "vfio-pci", "pcieport"):
            (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True)
        (root / "proc").mkdir()
        (root / "proc/interrupts").write_text(IR)
        (root / "sys/bus/pci/drivers_probe").write_text("")
        (root / "dev/vfio").mkdir(parents=True)
        self.add(NIC, "ixgbe", group="7")
        self.set_interface("uplink0", 9000, False)
        monkeypatch.setattr(bind, "write", self.write)
        monkeypatch.setattr(bind, "interface_request", self.interface_request)
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
        for what, text in {"mtu": str(mtu), "flags": f"{0x1002 | up:#x}", "dev_port": "0"}.items():
            (net / name / what).write_text(text + "\n")

    def _step(self, what: str) -> None:
        if len(self.writes) == self.crash_at:
            raise Killed
        self.writes.append(what)

    def write(self, path: Path, text: str) -> None:
        self._step(f"{path.name}={text}")
        name, _, up = self.interface
        match path.name:
            case "driver_override":
                (self.device() / "driver_override").write_text((text or "(null)") + "\n")
            case "unbind":
                assert path.parent.is_symlink()
                path.parent.unlink()
                shutil.rmtree(self.device() / self.net, ignore_errors=True)
            case "drivers_probe":
                self._probe()
            case "mtu":
                self.set_interface(name, int(text), up)
            case _:
                raise AssertionError(path)

    def _probe(self) -> None:
        override = (self.device() / "driver_override").read_text().strip()
        driver = "ixgbe" if override == "(null)" else override
        if driver != self.refusing and not (self.device() / "driver").exists():
            (self.device() / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)
            if driver == "ixgbe":
                self.set_interface("eth0", 1500, False)  # as a driver makes it

    def interface_request(self, number: int, name: str, payload: bytes) -> bytes:
        now, mtu, up = self.interface
        assert name == now
        match number:
            case bind.SIOCGIFFLAGS:
                return struct.pack("H22x", 0x1002 | up)
            case bind.SIOCSIFFLAGS:
                (flags,) = struct.unpack("H", payload)
                assert flags & ~1 == 0x1002  # the other flags stay
                self._step(f"{name} {'up' if flags & 1 else 'down'}")
                self.set_interface(name, mtu, bool(flags & 1))
            case bind.SIOCSIFNAME:
                assert not up  # else the kernel says EBUSY
                self._step(f"{name} name {payload.decode()}")
                self.set_interface(payload.decode(), mtu, up)
        return b""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path / "root", monkeypatch)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    (tmp_path / "bound").mkdir()
    return Journal(tmp_path / "bound")


def nic(kernel: Kernel) -> PciDevice:
    return PciDevice(NIC, kernel.root)


def state(kernel: Kernel) -> tuple[str, str, tuple[str, int, bool]]:
    return nic(kernel).driver, nic(kernel).read("driver_override"), kernel.interface


def test_the_helper_knows_the_devices_that_the_drivers_know() -> None:
    assert set(bind.KNOWN) == set(ixgbe.DEVICE_IDS)


def test_bind_and_unbind(kernel: Kernel, journal: Journal) -> None:
    before = state(kernel)
    with journal:
        bind.bind(nic(kernel), journal)
        assert kernel.writes == ["driver_override=vfio-pci", f"unbind={NIC}", f"drivers_probe={NIC}"]
        assert nic(kernel).driver == "vfio-pci"
        assert json.loads((journal.directory / f"{NIC}.json").read_text()) == {
            "address": NIC, "driver": "ixgbe", "override": "",
            "interfaces": [{"name": "uplink0", "mtu": 9000, "up": False, "folder": "net/uplink0"}],
        }  # fmt: skip
        kernel.writes.clear()
        assert recover(journal, kernel.root) == []  # a device that is bound as it should be stays so
        unbind(nic(kernel), journal)
    assert kernel.writes == [
        "driver_override=", f"unbind={NIC}", f"drivers_probe={NIC}", "mtu=9000", "eth0 down", "eth0 name uplink0",
        "uplink0 down",
    ]  # fmt: skip
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def test_an_interface_that_was_up_is_up_again(kernel: Kernel, journal: Journal) -> None:
    kernel.set_interface("uplink0", 1500, True)
    with journal:
        with pytest.raises(Refusal, match=r"uplink0 is up; run: ip link set uplink0 down \(or bind --down\)"):
            bind.bind(nic(kernel), journal)
        assert kernel.writes == []
        bind.bind(nic(kernel), journal, down=True)
        assert kernel.writes[0] == "uplink0 down"
        unbind(nic(kernel), journal)
    assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 1500, True))


def test_the_interface_of_a_virtio_device(kernel: Kernel, journal: Journal) -> None:
    shutil.rmtree(kernel.device() / "net")
    kernel.net = "virtio3/net"
    kernel.set_interface("uplink0", 1400, True)
    before = state(kernel)
    with journal:
        with pytest.raises(Refusal, match="uplink0 is up"):
            bind.bind(nic(kernel), journal)
        bind.bind(nic(kernel), journal, down=True)
        assert state(kernel)[0] == "vfio-pci"
        unbind(nic(kernel), journal)
    assert state(kernel) == before


def test_a_device_without_a_driver_gets_none_back(kernel: Kernel, journal: Journal) -> None:
    (kernel.device() / "driver").unlink()
    shutil.rmtree(kernel.device() / "net")
    (kernel.device() / "driver_override").write_text("something\n")
    with journal:
        bind.bind(nic(kernel), journal)
        unbind(nic(kernel), journal)
    assert state(kernel)[:2] == ("", "something")


def test_a_probe_that_fails_puts_everything_back(kernel: Kernel, journal: Journal) -> None:
    kernel.set_interface("uplink0", 9000, True)
    before = state(kernel)
    kernel.refusing = "vfio-pci"
    with journal, pytest.raises(OSError, match=f"{NIC}: vfio-pci did not take the device; the kernel log says why"):
        bind.bind(nic(kernel), journal, down=True)
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def crash(kernel: Kernel, journal: Journal, at: int, back: bool) -> bool:
    """Bind (or unbind) and be killed before write number `at`; False when there are not so many."""
    kernel.set_interface("uplink0", 9000, True)
    with journal:
        if back:
            bind.bind(nic(kernel), journal, down=True)
        kernel.writes.clear()
        kernel.crash_at = at
        try:
            if back:
                unbind(nic(kernel), journal)
            else:
                bind.bind(nic(kernel), journal, down=True)
        except Killed:
            return True
        finally:
            kernel.crash_at = -1
    return False


@pytest.mark.parametrize("at", range(4))
def test_a_bind_that_is_killed_is_recovered(kernel: Kernel, journal: Journal, at: int) -> None:
    before = ("ixgbe", "(null)", ("uplink0", 9000, True))
    assert crash(kernel, journal, at, back=False)
    assert (journal.directory / f"{NIC}.json").exists()
    with journal:
        assert recover(journal, kernel.root) == [NIC]
        assert recover(journal, kernel.root) == []
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def test_there_are_no_more_steps_in_a_bind(kernel: Kernel, journal: Journal) -> None:
    assert not crash(kernel, journal, 4, back=False)


@pytest.mark.parametrize("at", range(7))
def test_an_unbind_that_is_killed_is_finished_later(kernel: Kernel, journal: Journal, at: int) -> None:
    assert crash(kernel, journal, at, back=True)
    with journal:
        recovered = recover(journal, kernel.root)
        if at < 2:  # the device is still vfio-pci's: it stays bound, and can be given back
            assert (recovered, nic(kernel).driver) == ([], "vfio-pci")
            unbind(nic(kernel), journal)
        else:
            assert recovered == [NIC]
    assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 9000, True))
    assert list(journal.directory.iterdir()) == []


def test_there_are_no_more_steps_in_an_unbind(kernel: Kernel, journal: Journal) -> None:
    assert not crash(kernel, journal, 7, back=True)


def test_recovery_that_is_killed_is_recovered(kernel: Kernel, journal: Journal) -> None:
    for at in range(8):
        crash(kernel, journal, 3, back=False)
        kernel.writes.clear()
        kernel.crash_at = at
        with journal:
            try:
                recover(journal, kernel.root)
            except Killed:
                kernel.crash_at = -1
                assert recover(journal, kernel.root) == [NIC]
        kernel.crash_at = -1
        assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 9000, True))


def test_a_device_that_was_unplugged_is_forgotten(kernel: Kernel, journal: Journal) -> None:
    with journal:
        bind.bind(nic(kernel), journal)
        shutil.rmtree(kernel.device())
        assert recover(journal, kernel.root) == [NIC]
    assert list(journal.directory.iterdir()) == []


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


REFUSED: dict[str, tuple[Callable[[Kernel], object], str]] = {
    "nothing there": (lambda k: shutil.rmtree(k.device()), "no such PCI device; see lspci -D"),
    "a disk": (lambda k: attribute(k, "class", "0x010802\n"), r"not an Ethernet controller \(class 0x010802\)"),
    "not ixgbe": (lambda k: attribute(k, "device", "0x1533\n"), "8086:1533 is no NIC that a driver here knows"),
    "no iommu": (no_group, "no IOMMU; turn on VT-d or AMD-Vi in the firmware, boot with intel_iommu=on"),
    "no-iommu mode": (lambda k: attribute(k, "iommu_group/name", "vfio-noiommu\n"), "no IOMMU; turn on"),
    "group": (lambda k: neighbour(k, "ixgbe"), rf"shares its IOMMU group with {NEIGHBOUR} \(driver ixgbe\)"),
    "rmrr": (lambda k: region(k, "direct"), r"reserves memory for it \(RMRR 0x7a000000 0x7bffffff direct\)"),
    "interrupts": (lambda k: (k.root / "proc/interrupts").write_text(IR[10:].replace("IR-", "")), "not remapped"),
    "no module": (lambda k: (k.root / "sys/bus/pci/drivers/vfio-pci").rmdir(), "run: sudo modprobe vfio-pci"),
    "vfs": (lambda k: attribute(k, "sriov_numvfs", "4\n"), r"has 4 virtual functions; run: echo 0 > .*/sriov_numvfs"),
    "namespace": (lambda k: shutil.rmtree(k.device() / "net"), "driver ixgbe, but no interface here: it is in another"),
    "up": (lambda k: k.set_interface("eth0", 1500, True), "eth0 is up; run: ip link set eth0 down"),
    "bond": (lambda k: attribute(k, "net/uplink0/upper_bond0/x", ""), "uplink0 is part of bond0; remove it there"),
    "master": (lambda k: attribute(k, "net/uplink0/master", ""), "uplink0 is part of another interface"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_anything_is_changed(kernel: Kernel, journal: Journal, name: str) -> None:
    change, reason = REFUSED[name]
    change(kernel)
    with journal, pytest.raises(Refusal, match=f"^{NIC}: .*{reason}"):
        bind.bind(nic(kernel), journal)
    assert kernel.writes == []
    assert list(journal.directory.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda k: neighbour(k, ""),
        lambda k: neighbour(k, "vfio-pci"),
        lambda k: neighbour(k, "pcieport", "0x060400"),
        lambda k: region(k, "direct-relaxable"),
        lambda k: attribute(k, "net/uplink0/lower_x/y", ""),
    ],
)
def test_what_is_no_reason_to_refuse(kernel: Kernel, change: Callable[[Kernel], None]) -> None:
    change(kernel)
    check(nic(kernel))


def test_other_nics_on_request(kernel: Kernel) -> None:
    attribute(kernel, "device", "0x1533\n")
    check(nic(kernel), other=True)


def test_unbind_of_what_was_not_bound_and_of_what_is_open(
    kernel: Kernel, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal:
        with pytest.raises(Refusal, match="was not bound by this helper; there is nothing to put back"):
            unbind(nic(kernel), journal)
        bind.bind(nic(kernel), journal)
        with pytest.raises(Refusal, match="bound already, or half way"):
            bind.bind(nic(kernel), journal)
        opened = os.open

        def busy(path: Path, flags: int) -> int:
            if str(path).endswith("dev/vfio/7"):
                raise OSError(16, "Device or resource busy")
            return opened(path, flags)

        monkeypatch.setattr(os, "open", busy)
        kernel.writes.clear()
        with pytest.raises(Refusal, match="a process has it open; end it first"):
            unbind(nic(kernel), journal)
    assert kernel.writes == []


def run(kernel: Kernel, tmp_path: Path, *words: str) -> int:
    return command.run(["--run", str(tmp_path / "run"), "--root", str(kernel.root), *words])


def test_the_command_line(kernel: Kernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kernel, tmp_path, "status") == 0
    assert capsys.readouterr().out == f"{NIC}  8086:10fb  driver ixgbe  can be bound\n"
    assert run(kernel, tmp_path, "bind", "03:00.0") == 0
    assert capsys.readouterr().out == f"{NIC}: driver vfio-pci\n"
    assert run(kernel, tmp_path, "status") == 0
    assert capsys.readouterr().out.endswith("driver vfio-pci  free; unbind gives it back to ixgbe\n")
    assert run(kernel, tmp_path, "recover") == 0
    assert capsys.readouterr().out == ""
    claims = Claims(tmp_path / "run/leases")
    claim = claims.claim(NIC, 1000)
    assert claim is not None
    assert run(kernel, tmp_path, "unbind", NIC) == 2
    assert capsys.readouterr().err == (
        f"ixy-vfio-helper: {NIC}: it is leased (see ixy-vfio-helper status); end the lease first\n"
    )
    assert run(kernel, tmp_path, "status") == 0
    assert capsys.readouterr().out.endswith(f"leased by uid 1000 (helper process {os.getpid()})\n")
    os.close(claim)
    assert run(kernel, tmp_path, "unbind", NIC) == 0
    assert capsys.readouterr().out == f"{NIC}: driver ixgbe\n"
    assert run(kernel, tmp_path, "unbind", NIC) == 2
    assert run(kernel, tmp_path, "bind", "eth0") == 2
    assert "eth0: not a PCI address like 0000:03:00.0" in capsys.readouterr().err
    kernel.refusing = "vfio-pci"
    assert run(kernel, tmp_path, "bind", NIC) == 1
    assert "vfio-pci did not take the device" in capsys.readouterr().err
    attribute(kernel, "sriov_numvfs", "2\n")
    assert run(kernel, tmp_path, "status") == 0
    assert "driver ixgbe  has 2 virtual functions" in capsys.readouterr().out


def test_the_backend_leases_what_is_bound_and_touches_nothing_else(kernel: Kernel, journal: Journal) -> None:
    backend = KernelBackend(root=kernel.root)
    assert backend.describe("0000:09:00.0") is None
    assert backend.describe(NIC) == Listed(0, NIC, 0x8086, 0x10FB, State.UNBOUND, 0, "ixgbe")
    with pytest.raises(Refusal, match=f"driver is ixgbe; run: sudo ixy-vfio-helper bind {NIC}"):
        backend.session(NIC)
    with pytest.raises(Refusal, match="no such PCI device"):
        backend.session("0000:09:00.0")
    with journal:
        bind.bind(nic(kernel), journal)
    assert backend.describe(NIC) == Listed(0, NIC, 0x8086, 0x10FB, State.FREE, 0, "vfio-pci")
    assert type(backend.session(NIC)).__name__ == "GroupSession"
    with pytest.raises(Refusal, match="this kernel has no VFIO character devices; serve with --way auto"):
        KernelBackend("cdev", kernel.root).session(NIC)
    (kernel.device() / "vfio-dev/vfio3").mkdir(parents=True)
    assert type(backend.session(NIC)).__name__ == "GroupSession"  # no /dev/iommu
    (kernel.root / "dev/iommu").write_text("")
    assert type(backend.session(NIC)).__name__ == "CdevSession"
    assert type(KernelBackend("group", kernel.root).session(NIC)).__name__ == "GroupSession"
    attribute(kernel, "iommu_group/name", "vfio-noiommu\n")
    with pytest.raises(Refusal, match="no IOMMU"):
        backend.session(NIC)
