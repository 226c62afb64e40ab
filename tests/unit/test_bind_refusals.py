"""What bind refuses before it changes anything, what the backend leases, and the command line over both."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.kernel import KernelBackend
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.protocol import Listed, State
from ixy_vfio_setup import bind
from ixy_vfio_setup import commands as command
from ixy_vfio_setup.bind import check, unbind
from ixy_vfio_setup.bound import Bound

from tests.unit.bind_machine import IR, NEIGHBOUR, NIC, Kernel, attribute, neighbour, nic, no_group, region


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path / "root", monkeypatch)


@pytest.fixture
def journal(tmp_path: Path) -> Bound:
    (tmp_path / "bound").mkdir()
    return Bound(tmp_path / "bound")


REFUSED: dict[str, tuple[Callable[[Kernel], object], str]] = {
    "nothing there": (lambda k: shutil.rmtree(k.device()), "no such PCI device; see lspci -D"),
    "a disk": (lambda k: attribute(k, "class", "0x010802\n"), r"not an Ethernet controller \(class 0x010802\)"),
    "not of ours": (lambda k: attribute(k, "device", "0x10d3\n"), "8086:10d3 is no NIC that a driver here knows"),
    "no iommu": (no_group, "no IOMMU; turn on VT-d or AMD-Vi in the firmware, boot with intel_iommu=on"),
    "no-iommu mode": (lambda k: attribute(k, "iommu_group/name", "vfio-noiommu\n"), "no IOMMU; turn on"),
    "group": (lambda k: neighbour(k, "ixgbe"), rf"shares its IOMMU group with {NEIGHBOUR} \(driver ixgbe\)"),
    "rmrr": (lambda k: region(k, "direct"), r"reserves memory for it \(RMRR 0x7a000000 0x7bffffff direct\)"),
    "interrupts": (lambda k: (k.root / "proc/interrupts").write_text(IR[10:].replace("IR-", "")), "not remapped"),
    "interrupts, by name": (
        lambda k: (k.root / "proc/interrupts").write_text(IR.replace("IR-", "").replace("eth0", "IR-PCI-MSI")),
        "not remapped",
    ),
    "no module": (lambda k: (k.root / "sys/bus/pci/drivers/vfio-pci").rmdir(), "run: sudo modprobe vfio-pci"),
    "vfs": (lambda k: attribute(k, "sriov_numvfs", "4\n"), r"has 4 virtual functions; run: echo 0 > .*/sriov_numvfs"),
    "namespace": (lambda k: shutil.rmtree(k.device() / "net"), "driver ixgbe, but no interface here: it is in another"),
    "up": (lambda k: k.set_interface("eth0", 1500, True), "eth0 is up; run: ip link set eth0 down"),
    "bond": (lambda k: attribute(k, "net/uplink0/upper_bond0/x", ""), "uplink0 is part of bond0; remove it there"),
    "tunnel": (lambda k: k.uppers.append("gre1"), "gre1 stands on uplink0; remove it there"),
    "master": (lambda k: attribute(k, "net/uplink0/master", ""), "uplink0 is part of another interface"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_anything_is_changed(kernel: Kernel, journal: Bound, name: str) -> None:
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


def test_only_x86_names_its_interrupts_so(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel.root / "proc/interrupts").write_text(" 24:  0  ITS-MSI 1572864 Edge  eth0\n")
    with pytest.raises(Refusal, match="interrupts are not remapped"):
        check(nic(kernel))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    check(nic(kernel))


def test_other_nics_on_request(kernel: Kernel) -> None:
    attribute(kernel, "device", "0x1533\n")
    check(nic(kernel), other=True)


def test_unbind_of_what_was_not_bound_and_of_what_is_open(
    kernel: Kernel, journal: Bound, monkeypatch: pytest.MonkeyPatch
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


def test_the_helper_starts_the_program_that_binds(kernel: Kernel, tmp_path: Path) -> None:
    """The same process, another program: its exit status and its words are those of the command."""
    argv = [sys.executable, "-I", "-S", "-B", str(Path(command.__file__).parents[1] / "ixy_vfio_helper")]
    argv += ["--run", str(tmp_path / "run"), "--root", str(kernel.root)]
    nothing = f"ixy-vfio-helper: {NIC}: was not bound by this helper; there is nothing to put back\n"
    for words, expected in {
        "status": (0, f"{NIC}  8086:10fb  driver ixgbe  can be bound\n", ""),
        "recover": (0, "", ""),
        f"unbind {NIC}": (2, "", nothing),
        "bind eth0": (2, "", "ixy-vfio-helper: eth0: not a PCI address like 0000:03:00.0\n"),
    }.items():
        done = subprocess.run([*argv, *words.split()], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == expected, words


def test_the_backend_leases_what_is_bound_and_touches_nothing_else(kernel: Kernel, journal: Bound) -> None:
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
