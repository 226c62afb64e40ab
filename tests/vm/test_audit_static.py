"""`ixy-vfio audit` on running kernels: sound guests, and guests with one thing broken."""

import json
import sys
from typing import Any

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import in_guest, inside, load

pytestmark = pytest.mark.vm

INTEL = Config(kernel="iommufd", nics=("igb",))
AMD = Config(kernel="stock", nics=("igb",), iommu="amd")
PASSTHROUGH = Config(kernel="stock", nics=("igb",), append="iommu=pt")
NO_INTREMAP = Config(kernel="iommufd", nics=("igb",), intremap=False)
NO_IOMMU = Config(kernel="iommufd", nics=("igb",), iommu="none")

# What these guests cannot have: QEMU's firmware does not opt in to early protection; both kernels run without lockdown.
DOCUMENTED = {"iommu.early_dma", "kernel.lockdown"}
IGB = "0x10c9"

BIND = """
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security || true
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/device)" = "$1" ] || continue
    echo vfio-pci > $device/driver_override
    [ ! -e $device/driver ] || echo ${device##*/} > $device/driver/unbind
    echo ${device##*/} > /sys/bus/pci/drivers_probe
    echo ${device##*/}
done
"""


def bind(guest: Guest) -> str:
    """Bind the igb to vfio-pci; its address."""
    load(guest, "vfio-pci")
    return guest.run(["sh", "-c", BIND, "sh", IGB]).stdout.strip()


def audit(guest: Guest, *words: str) -> tuple[int, Any]:
    """Exit status and report."""
    argv = [sys.executable, "-m", "ixy_vfio.cli", "audit", "--json", *words]
    done = guest.run(argv, check=False, timeout=60)
    return done.status, json.loads(done.stdout)


def flipped(report: Any) -> set[str]:
    return {one["check"] for one in report["results"] if one["status"] in ("FAIL", "WARN")}


@in_guest(INTEL)
def test_each_thing_broken_flips_its_own_check(guest: Guest) -> None:
    found = {what: set(checks) for what, checks in json.loads(inside(guest, "audited", bind(guest))).items()}
    assert found.pop("nothing") == DOCUMENTED
    assert found.pop("nothing any more") == DOCUMENTED
    of_a_program = {"session.level", "session.sandbox"}  # any program with a device is L1, and has no sandbox
    assert {what: checks - DOCUMENTED for what, checks in found.items()} == {
        "group for everybody": {"nodes.vfio"},
        "group of a user": {"nodes.vfio"},
        "registers for everybody": {"nodes.sysfs"},
        "configuration of a user": {"nodes.sysfs"},
        "unsafe interrupts": {"vfio.unsafe_interrupts"},
        "programs may make virtual functions": {"vfio.parameters"},
        "reset by the bus only": {"device.reset"},
        "stale bus master": {"device.bus_master"},
        "bridge does not redirect": {"device.acs"},
        "root driver": {"session.privileges"} | of_a_program,
        "driver of a user": of_a_program,
    }


@in_guest(INTEL)
def test_an_ordinary_user_is_told_what_needs_root(guest: Guest) -> None:
    report = json.loads(inside(guest, "audited", bind(guest), "1000"))
    assert report["uid"] == 1000
    assert flipped(report) <= DOCUMENTED
    skipped = {one["check"] for one in report["results"] if one["status"] == "SKIP"}
    assert {"device.holders", "device.acs", "device.ats", "iommu.early_dma"} <= skipped


@in_guest(AMD)
def test_a_sound_guest_with_an_amd_iommu(guest: Guest) -> None:
    status, report = audit(guest, bind(guest))
    assert status == 0
    # The AMD IOMMU of QEMU has no x2APIC by default.
    assert flipped(report) == DOCUMENTED | {"iommu.compatibility_format"}
    assert report["scene"]["iommus"] == ["ivhd0"]


@in_guest(PASSTHROUGH)
def test_passthrough_by_default(guest: Guest) -> None:
    status, report = audit(guest, bind(guest))
    assert (status, flipped(report) - DOCUMENTED) == (0, {"iommu.passthrough"})


@in_guest(NO_INTREMAP)
def test_without_interrupt_remapping(guest: Guest) -> None:
    status, report = audit(guest, bind(guest))
    assert status == 1
    assert {one["check"] for one in report["results"] if one["status"] == "FAIL"} == {"iommu.intremap"}


@in_guest(NO_IOMMU)
def test_without_an_iommu(guest: Guest) -> None:
    status, report = audit(guest)
    assert status == 1
    assert {one["check"] for one in report["results"] if one["status"] == "FAIL"} == {"iommu.present"}
