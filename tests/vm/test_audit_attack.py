"""`ixy-vfio audit --attack` in guests: the same attacks as on a simulated device's socket, now against an IOMMU.

The helper is the real one; the auditor is an ordinary user who was granted the device, or root where only root can.
"""

import json
import sys
from typing import Any

import pytest

from ixy_vfio.audit.attack import run
from tests.vm.harness import Config, Guest
from tests.vm.support import in_guest, load
from tests.vm.test_helper import RAW_BIND, USER, serving

pytestmark = pytest.mark.vm

DEVICES = Config(kernel="iommufd", nics=("edu", "igb"), ports=1)
AMD = Config(kernel="stock", nics=("edu",), iommu="amd")
NO_IOMMU = Config(kernel="iommufd", nics=("igb", "igb"), iommu="none", hugepages=16)
EDU, IGB, IXGBE = "nic0", "nic1", "port0"
ATTACKS = {check.name for check in run.attacks()}
AS_ROOT = {"attack.physical", "attack.helper_killed"}
FAULTS = {
    "far": {"attack.read_unmapped", "attack.write_unmapped"},
    "beside": {"attack.guard_pages"},
    "rights": {"attack.read_only"},
    "stays": {"attack.after_unmap", "attack.ring"},
    "deaf": {"attack.driver_killed"},
    "keeper": {"attack.helper_killed"},
}


def attack(guest: Guest, address: str, *only: str, user: int = USER) -> Any:
    """The report; the attacks `only`, or all."""
    words = [word for name in only for word in ("--only", name)]
    argv = [sys.executable, "-m", "tests.vm.inside.attacking", str(user), address, *words]
    done = guest.run(argv, check=False, timeout=240)
    assert done.status in (0, 1), done.stderr
    report = json.loads(done.stdout)
    print(done.stderr.splitlines()[-1])
    for one in report["results"]:
        print(one["status"], one["check"], *(found["text"] for found in one["findings"]), sep="  ")
    return report


def having(report: Any, status: str) -> set[str]:
    return {one["check"] for one in report["results"] if one["status"] == status}


def bound(guest: Guest, name: str) -> str:
    load(guest, "vfio-pci")
    address = guest.address(name)
    guest.python(RAW_BIND, address, "vfio-pci")
    return address


def faulty(fault: str) -> list[str]:
    return [sys.executable, "-m", "tests.vm.inside.broken_helper", fault]


@in_guest(DEVICES)
@pytest.mark.parametrize("name", [EDU, IGB, IXGBE])
def test_a_sound_guest_holds(guest: Guest, name: str) -> None:
    """Each verdict is of memory, and of a device that is not ours as well; most have a fault of the IOMMU too."""
    address = bound(guest, name)
    with serving(guest, "cdev", address):
        report = attack(guest, address)
    skipped = AS_ROOT | {"attack.msi"} | ({"attack.ring"} if name == EDU else set())
    assert having(report, "SKIP") == skipped
    assert having(report, "PASS") == ATTACKS - skipped
    evidence = [one for result in report["results"] for found in result["findings"] for one in found["evidence"]]
    faults = [one["value"] for one in evidence if one["file"] == "fault"]
    assert any("DMA Read" in fault and address.removeprefix("0000:") in fault for fault in faults)
    assert any("DMA Write" in fault for fault in faults)


@in_guest(AMD)
def test_a_guest_with_an_amd_iommu(guest: Guest) -> None:
    """By canaries it holds. QEMU's model of it logs nothing: where memory is unknown, zeros cannot be told from it."""
    address = bound(guest, EDU)
    held = {"attack.after_unmap", "attack.read_only", "attack.driver_killed"}
    with serving(guest, "group", address):
        report = attack(guest, address, *held, "attack.read_unmapped")
    assert having(report, "PASS") == held
    assert having(report, "WARN") == {"attack.read_unmapped"}


@in_guest(DEVICES)
def test_root_learns_physical_addresses_and_may_kill_the_helper(guest: Guest) -> None:
    address = bound(guest, EDU)
    with serving(guest, "cdev", address, user=0):
        report = attack(guest, address, *AS_ROOT, user=0)
    assert having(report, "PASS") == AS_ROOT


@in_guest(DEVICES)
def test_a_node_that_is_open_to_everybody(guest: Guest) -> None:
    address = bound(guest, EDU)
    registers = f"/sys/bus/pci/devices/{address}/resource0"
    guest.run(["chmod", "666", registers])
    try:
        with serving(guest, "cdev", address):
            report = attack(guest, address, "attack.refused", "attack.read_unmapped")
    finally:
        guest.run(["chmod", "600", registers])
    assert having(report, "FAIL") == {"attack.refused"}
    assert report["results"][0]["findings"][0]["text"] == f"you can open {registers}"


@in_guest(DEVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_helper_fails_its_own_attacks(guest: Guest, fault: str) -> None:
    """The IOMMU maps what it is told to, so a helper that maps too much, or undoes too little, is what breaks it."""
    address = bound(guest, IGB)
    user = 0 if fault == "keeper" else USER
    # One attack beside its own, so that there is something that holds: all of them take long.
    others = {"attack.guard_pages"} if fault == "far" else {"attack.read_unmapped"} if fault != "keeper" else set()
    with serving(guest, "cdev", address, user=user, helper=faulty(fault)):
        report = attack(guest, address, *FAULTS[fault], *others, user=user)
    assert having(report, "FAIL") == FAULTS[fault]
    assert having(report, "PASS") == others
    guest.run(["rm", "-rf", "/run/kept"])


@in_guest(NO_IOMMU)
def test_without_an_iommu_nothing_holds(guest: Guest) -> None:
    """VFIO's no-IOMMU mode, and a helper that was made to take it: a device's addresses are physical ones.

    (What lies beside a mapping, or far from it, is whatever lies there then; those attacks are tested above.)
    """
    guest.run(["sh", "-c", "echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"])
    address, other = bound(guest, "nic0"), bound(guest, "nic1")
    broken = ("attack.physical", "attack.sibling_bar", "attack.read_only", "attack.after_unmap")
    with serving(guest, "group", address, user=0, helper=faulty("noiommu")):
        report = attack(guest, address, *broken, user=0)
    assert having(report, "FAIL") == set(broken)
    found = next(one for one in report["results"] if one["check"] == "attack.sibling_bar")["findings"][0]
    assert found["text"].startswith(f"registers of {other}")
