"""`ixy-vfio audit` on running kernels: sound guests, and guests with one thing broken."""

import json
import sys
from typing import Any

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import IOMMUFD, OWNER, in_guest, inside, load
from tests.vm.test_forward import bound, lab
from tests.vm.test_helper import USER, WAYS, edu, policy, serving, wait_until

pytestmark = pytest.mark.vm

INTEL = Config(kernel="iommufd", nics=("igb", "edu"))
AMD = Config(kernel="stock", nics=("igb", "edu"), iommu="amd")
GROUPED = Config(kernel="iommufd", nics=("e1000e-pair", "virtio-net-ats"))
PASSTHROUGH = Config(kernel="stock", nics=("igb",), append="iommu=pt")
NO_INTREMAP = Config(kernel="iommufd", nics=("igb",), intremap=False)
NO_IOMMU = Config(kernel="iommufd", nics=("igb",), iommu="none", append="lsm=capability")

# What these guests cannot have: QEMU's firmware does not opt in to early protection; both kernels run without lockdown.
DOCUMENTED = {"iommu.early_dma", "kernel.lockdown"}
# QEMU's IOMMUs have no x2APIC by default; without debugfs, or root, nothing says that compatibility format is blocked.
X2APIC = {"iommu.compatibility_format"}
IGB = "0x10c9"
MOUNTS = """
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security || true
"""

BIND = """
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
    return guest.run(["sh", "-c", MOUNTS + BIND, "sh", IGB]).stdout.strip()


def audit(guest: Guest, *words: str) -> tuple[int, Any]:
    """Exit status and report."""
    argv = [sys.executable, "-m", "ixy_vfio.cli", "audit", "--json", *words]
    done = guest.run(argv, check=False, timeout=60)
    return done.status, json.loads(done.stdout)


def flipped(report: Any) -> set[str]:
    return {one["check"] for one in report["results"] if one["status"] in ("FAIL", "WARN")}


@in_guest(INTEL)
def test_each_thing_broken_flips_its_own_check(guest: Guest) -> None:
    said = inside(guest, "audited", bind(guest), guest.address("nic1"), timeout=400)
    found = {what: set(checks) for what, checks in json.loads(said).items()}
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
        "node of the device for everybody": {"nodes.vfio"},
        "iommufd for everybody": {"nodes.vfio"},
        "memory for everybody": {"nodes.memory"},
        "eeprom changed": {"device.eeprom"},
        "policy of a user": {"helper.policy"},
        "unit without hardening": {"helper.unit"},
        "anybody can replace the helper's socket": {"helper.socket"},
        "anybody can replace the helper's program": {"helper.code"},
        "a group in passthrough": {"iommu.passthrough"},
        "a lazy group": {"iommu.lazy"},
        "virtual function below a program": {"device.sriov"},
        "duplicate of the descriptor": {"device.holders"} | of_a_program,
        "two devices in one domain": {"session.container"} | of_a_program,
        "writable code": {"session.exec"} | of_a_program,
        "root driver": {"session.privileges"} | of_a_program,
        "driver of a user": of_a_program,
    }


@in_guest(INTEL)
def test_an_ordinary_user_is_told_what_needs_root(guest: Guest) -> None:
    report = json.loads(inside(guest, "audited", "as", "1000", bind(guest)))
    assert report["uid"] == 1000
    assert flipped(report) == {"kernel.lockdown"} | X2APIC
    skipped = {one["check"] for one in report["results"] if one["status"] == "SKIP"}
    assert {one for one in skipped if not one.startswith("helper.")} == {
        "device.holders", "device.acs", "device.ats", "device.eeprom", "iommu.early_dma", "nodes.memory", "nodes.uio",
    }  # fmt: skip


@in_guest(GROUPED)
def test_a_group_of_two_and_a_device_with_ats(guest: Guest) -> None:
    guest.run(["sh", "-c", MOUNTS])
    found = json.loads(inside(guest, "audited", "devices", guest.address("nic0"), guest.address("nic1")))
    documented = dict.fromkeys(DOCUMENTED, "WARN")
    assert found == {
        "two functions": documented | {"device.group": "WARN"},
        "one of them with Linux's driver": documented | {"device.group": "FAIL"},
        "ats off": documented,
        "ats on": documented | {"device.ats": "FAIL"},
    }


@in_guest(AMD)
def test_a_sound_guest_with_an_amd_iommu(guest: Guest) -> None:
    status, report = audit(guest, bind(guest))
    assert status == 0
    assert flipped(report) == DOCUMENTED | X2APIC
    assert report["scene"]["iommus"] == ["ivhd0"]


@in_guest(PASSTHROUGH)
def test_passthrough_by_default(guest: Guest) -> None:
    status, report = audit(guest, bind(guest))
    assert (status, flipped(report) - DOCUMENTED - X2APIC) == (0, {"iommu.passthrough", "device.iommu"})


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
    (layers,) = [one for one in report["results"] if one["check"] == "kernel.layers"]  # it was booted without Landlock
    assert [(one["status"], one["text"]) for one in layers["findings"]] == [
        ("WARN", "missing: landlock (Operation not supported)")
    ]


@in_guest(IOMMUFD)
def test_an_eeprom_that_is_changed(guest: Guest) -> None:
    """Through the e1000e's driver, as root's tools change it; in between a user might have had the device."""
    load(guest, "vfio-pci", "e1000e")
    said = json.loads(inside(guest, "eeprom", guest.address("nic1"), timeout=120))
    assert said == {
        "nothing recorded": "SKIP", "recorded": ["first", "SKIP"], "again": ["last", "PASS"],
        "bound": "has no network interface", "given back": ["last", "PASS"], "changed": ["last", "FAIL"],
    }  # fmt: skip


def audit_of_a_session(guest: Guest, way: str, how: str) -> Any:
    """The report of a session with QEMU's edu device, which the helper leases to a user."""
    address = edu(guest)
    guest.run(["sh", "-c", MOUNTS])
    with serving(guest, way, address):
        session = guest.start([sys.executable, "-m", "tests.vm.inside.session", how, address, str(USER)])
        try:
            wait_until(lambda: session.output().stdout.endswith("\n"))
            pids = json.loads(session.output().stdout)
            if how == "unaccounted":
                guest.put(b"0x1000000000 0x1000 r rings\n", f"/run/ixy_vfio/leases/{address}.ledger")
            _, report = audit(guest, address)
        finally:
            guest.run(["sh", "-c", f"pkill -9 -P {session.pid}; kill -9 {session.pid}"], check=False)
            session.wait(30, check=False)
    (box,) = report["scene"]["sessions"]
    assert (box["kind"], box["level"], box["devices"]) == ("ixy_vfio", "L2", [address])
    assert [one["role"] for one in box["processes"]] == ["helper", "control", "worker"]
    assert [one["pid"] for one in box["processes"][1:]] == [pids["control"], pids["worker"]]
    return report


# The session of these tests does not seal itself; edu has no reset of its own.
AS_MADE = {"session.sandbox", "session.mseal", "session.limits", "device.reset"}


@WAYS
def test_a_session_of_the_helper(guest: Guest, way: str) -> None:
    report = audit_of_a_session(guest, way, "sound")
    assert {one for one in flipped(report) if one.startswith(("session.", "device."))} == AS_MADE
    (dma,) = [one for one in report["results"] if one["check"] == "session.dma"]
    # Debian's kernel has no tables of VT-d in debugfs.
    assert dma["status"] == ("PASS" if guest.config.kernel == "iommufd" else "SKIP")


@in_guest(IOMMUFD)
@pytest.mark.parametrize(
    ("how", "check"), [("leaky", "session.fds"), ("wide", "session.bar"), ("unaccounted", "session.dma")]
)
def test_a_session_that_is_broken(guest: Guest, how: str, check: str) -> None:
    report = audit_of_a_session(guest, "cdev", how)
    assert {one for one in flipped(report) if one.startswith(("session.", "device."))} == AS_MADE | {check}


# A forwarder has a page of libffi in control (docs/audit/session.exec.md), beside what is documented above.
OF_A_FORWARDER = dict.fromkeys(DOCUMENTED | {"session.exec"}, "WARN")
LAYERS = {
    "no system-call filter": {"session.sandbox": "FAIL"},
    "no limits": {"session.limits": "WARN"},
    "can be traced": {"session.limits": "WARN"},
    "mappings can be moved": {"session.mseal": "WARN"},
    "code can be written": {"session.exec": "FAIL"},
    "all registers": {"session.bar": "FAIL"},
    "all descriptors": {"session.fds": "FAIL"},
    "seals": {"session.seals": "FAIL"},
    "beside": {"session.dma": "FAIL"},
}


def audits_of_forwarders(guest: Guest, way: str, *broken: str) -> dict[str, dict[str, str]]:
    """What is broken -> {check: WARN or FAIL}. This helper starts from a tree, which may be a user's."""
    guest.run(["sh", "-c", MOUNTS])
    with bound(guest) as (ours, far):
        policy(guest, OWNER, *ours)
        found = json.loads(inside(guest, "audited_session", str(OWNER), way, *ours, *far, *broken, timeout=600))
    return {what: {one: said for one, said in told.items() if one != "helper.code"} for what, told in found.items()}


@in_guest(lab("stock"))
def test_a_forwarder_by_group_is_sound(guest: Guest) -> None:
    of_debian = dict.fromkeys(X2APIC, "WARN")  # its kernel does not show what the IOMMU was told
    assert audits_of_forwarders(guest, "group", "nothing") == {"nothing": OF_A_FORWARDER | of_debian}


@pytest.mark.long
@in_guest(lab("iommufd"))
def test_a_forwarder_that_lacks_a_layer(guest: Guest) -> None:
    """The real one with the real helper is sound, and each layer that is left out flips its own check."""
    found = audits_of_forwarders(guest, "cdev", "nothing", *LAYERS)
    sound = found.pop("nothing")
    assert sound == OF_A_FORWARDER
    assert {broken: dict(said.items() - sound.items()) for broken, said in found.items()} == LAYERS
