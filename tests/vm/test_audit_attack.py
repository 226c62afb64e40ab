"""`ixy-vfio audit --attack` in guests: the same attacks as on a simulated device's socket, now against an IOMMU.

The helper is the real one; the auditor is an ordinary user who was granted the device, or root where only root can.
Python takes seconds to start in a guest, so each guest is asked once, for all of its tests.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from ixy_vfio.audit.attack import run
from tests import broken
from tests.vm.harness import Config, Guest
from tests.vm.support import in_guest, load
from tests.vm.test_helper import USER

pytestmark = pytest.mark.vm

# The simulated port is attacked with while it receives what is sent to its own address.
DEVICES = Config(kernel="iommufd", nics=("edu", "igb"), ports=1, cables=("0:gen:pace=0.001",))
AMD = Config(kernel="stock", nics=("igb", "edu"), iommu="amd")
AMD_NO_INTREMAP = Config(kernel="stock", nics=("edu",), iommu="amd", intremap=False)
NO_INTREMAP = Config(kernel="iommufd", nics=("igb",), intremap=False)
NO_IOMMU = Config(kernel="iommufd", nics=("igb", "igb"), iommu="none", hugepages=16)
NAMES = {"edu": "nic0", "igb": "nic1", "82599": "port0"}
ATTACKS = {check.name for check in run.attacks()}
AS_ROOT = {"attack.physical", "attack.helper_killed"}
OPEN = {"attack.refused"}
MSI = {"attack.msi"}
UNTRANSLATED = {"attack.physical", "attack.sibling_bar", "attack.read_only", "attack.after_unmap"}
ON_AMD = {"attack.after_unmap", "attack.read_only", "attack.driver_killed"}
FAR = {"attack.read_unmapped"}
# A fault is always seen. (Writes to what QEMU has translated for reading it refuses without one.)
WITNESSED = {"attack.read_unmapped", "attack.write_unmapped", "attack.guard_pages", "attack.sibling_bar"}
# One attack beside its own, so that there is something that holds: all of them take long.
BESIDE = {"far": {"attack.guard_pages"}, "keeper": set[str]()}
_told: dict[Config, dict[str, list[Any]]] = {}


def audit(address: str, only: Iterable[str] = (), user: int = USER, msi: bool = False) -> dict[str, Any]:
    words = [word for name in sorted(only) for word in ("--only", name)]
    return {"address": address, "user": user, "words": [*words, *["--attack-msi"] * msi]}


def scene(*runs: dict[str, Any], fault: str = "", open: str = "") -> dict[str, Any]:
    return {"fault": fault, "open": open, "runs": list(runs)}


def scenes_of_devices(guest: Guest) -> dict[str, Any]:
    at = {name: guest.address(device) for name, device in NAMES.items()}
    registers = f"/sys/bus/pci/devices/{at['edu']}/resource0"
    found = {"sound": scene(*(audit(at[name], msi=True) for name in NAMES), audit(at["edu"], AS_ROOT, user=0))}
    found["open"] = scene(audit(at["edu"], OPEN | FAR), open=registers)
    for fault, own in broken.ATTACKS.items():
        attacks = own | BESIDE.get(fault, FAR)
        found[fault] = scene(audit(at["igb"], attacks, user=0 if fault == "keeper" else USER), fault=fault)
    return found


@contextlib.contextmanager
def allowing(guest: Guest, config: Config) -> Iterator[None]:
    """VFIO is made to take what it refuses otherwise."""
    if config == NO_IOMMU:
        guest.run(["sh", "-c", "echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"])
    unsafe = "for it in /sys/module/*/parameters/allow_unsafe_interrupts; do echo {} > $it; done"
    if not config.intremap:
        guest.run(["sh", "-c", unsafe.format("Y")])
    yield
    if not config.intremap:
        guest.run(["sh", "-c", unsafe.format("N")])


def told(guest: Guest) -> dict[str, list[Any]]:
    """Scene -> its runs, asked once a guest."""
    config = guest.config
    if config not in _told:
        load(guest, "vfio-pci")
        first = guest.address("nic0")
        if config == DEVICES:
            scenes = scenes_of_devices(guest)
        elif config == AMD:
            scenes = {"sound": scene(audit(guest.address("nic1"), ON_AMD | FAR | MSI, msi=True))}
        elif config == NO_IOMMU:
            scenes = {"noiommu": scene(audit(first, UNTRANSLATED, user=0), fault="noiommu")}
        else:
            scenes = {"no intremap": scene(audit(first, MSI | FAR, msi=True))}
        way = "cdev" if config in (DEVICES, NO_INTREMAP) else "group"
        devices = ",".join(map(guest.address, config.devices))
        argv = [sys.executable, "-m", "tests.vm.inside.attacking", way, devices, *map(json.dumps, scenes.values())]
        with allowing(guest, config):
            done = guest.run(argv, timeout=900)
        print(done.stderr)
        _told[config] = dict(zip(scenes, json.loads(done.stdout), strict=True))
    for name, runs in _told[config].items():
        for one in runs:
            print(name, one["report"]["target"], f"{one['seconds']:.1f} s")
            for found in one["report"]["results"]:
                print(" ", found["status"], found["check"], *(part["text"] for part in found["findings"]), sep="  ")
    return _told[config]


def having(report: Any, status: str) -> set[str]:
    return {one["check"] for one in report["results"] if one["status"] == status}


def result(report: Any, check: str) -> Any:
    (found,) = (one for one in report["results"] if one["check"] == check)
    return found


def only(guest: Guest, name: str) -> Any:
    """The report of a scene of one run."""
    (run_,) = told(guest)[name]
    return run_["report"]


@in_guest(DEVICES)
@pytest.mark.timed
@pytest.mark.parametrize("name", NAMES)
def test_a_sound_guest_holds(guest: Guest, name: str) -> None:
    """Each verdict is of memory, and of a device that is not ours as well; there is a fault of the IOMMU too.

    QEMU's VT-d lets interrupts in compatibility format pass, which Linux has turned off, and blocks the others. (What
    the simulated port writes outside its mappings are zeros, to be refused by QEMU: no interrupt that means anything.)
    """
    report = told(guest)["sound"][list(NAMES).index(name)]["report"]
    address = guest.address(NAMES[name])
    skipped = AS_ROOT | ({"attack.ring"} if name == "edu" else set())
    assert having(report, "SKIP") == skipped
    forged = set[str]() if name == "82599" else MSI
    assert having(report, "FAIL") == forged
    assert having(report, "PASS") == ATTACKS - skipped - forged
    for check in WITNESSED:
        for found in result(report, check)["findings"]:
            assert {one["file"] for one in found["evidence"]} & {"fault", "/proc/interrupts"}, found["text"]
    (msi,) = result(report, "attack.msi")["findings"]
    if forged:
        assert msi["text"] == "the window of interrupts (0xfee00000): an interrupt arrived: ERR"
    assert {"file": "/proc/interrupts", "value": "dmar0: 1 more"} in msi["evidence"]
    log = guest.kernel_log()
    assert re.search(rf"\[DMA Read NO_PASID\] Request device \[(0000:)?{address.removeprefix('0000:')}\] fault", log)
    assert "[DMA Write NO_PASID] Request device" in log
    assert re.search(r"\[INTR-REMAP\] Request device .* fault index 0x8000 \[fault reason 0x22\]", log)


@in_guest(DEVICES)
def test_root_learns_physical_addresses_and_may_kill_the_helper(guest: Guest) -> None:
    assert having(told(guest)["sound"][-1]["report"], "PASS") == AS_ROOT


@in_guest(DEVICES)
def test_a_node_that_is_open_to_everybody(guest: Guest) -> None:
    report = only(guest, "open")
    assert (having(report, "FAIL"), having(report, "PASS")) == (OPEN, FAR)
    registers = f"/sys/bus/pci/devices/{guest.address('nic0')}/resource0"
    assert result(report, "attack.refused")["findings"][0]["text"] == f"you can open {registers}"


@in_guest(DEVICES)
@pytest.mark.parametrize("fault", broken.ATTACKS)
def test_a_broken_helper_fails_its_own_attacks(guest: Guest, fault: str) -> None:
    """The IOMMU maps what it is told to, so a helper that maps too much, or undoes too little, is what breaks it."""
    report = only(guest, fault)
    assert having(report, "FAIL") == broken.ATTACKS[fault]
    assert having(report, "PASS") == BESIDE.get(fault, FAR)


@in_guest(AMD)
def test_a_guest_with_an_amd_iommu(guest: Guest) -> None:
    """By canaries it holds. Faults that QEMU's model of it logs name no device: what is unknown cannot be told."""
    report = only(guest, "sound")
    assert having(report, "PASS") == ON_AMD | MSI
    assert having(report, "WARN") == FAR


@in_guest(NO_INTREMAP, AMD_NO_INTREMAP)
def test_without_interrupt_remapping_a_device_forges_interrupts(guest: Guest) -> None:
    report = only(guest, "no intremap")
    assert having(report, "FAIL") == MSI
    (found,) = result(report, "attack.msi")["findings"]
    assert found["text"] == "the window of interrupts (0xfee00000): an interrupt arrived: ERR"
    assert [one["file"] for one in found["evidence"]] == ["/proc/interrupts"]  # and no fault
    assert having(report, "FAIL") | having(report, "PASS") | having(report, "WARN") == MSI | FAR


@in_guest(NO_IOMMU)
def test_without_an_iommu_nothing_holds(guest: Guest) -> None:
    """VFIO's no-IOMMU mode, and a helper that was made to take it: a device's addresses are physical ones.

    (What lies beside a mapping, or far from it, is whatever lies there then; those attacks are tested above.)
    """
    report = only(guest, "noiommu")
    assert having(report, "FAIL") == UNTRANSLATED
    found = result(report, "attack.sibling_bar")["findings"][0]
    assert found["text"].startswith(f"registers of {guest.address('nic1')}")


def test_every_attack_gets_through_somewhere() -> None:
    assert set().union(*broken.ATTACKS.values(), OPEN, MSI, UNTRANSLATED) == ATTACKS
