"""What no IOMMU holds back although it has a group, and what is not the device that was given away: refused."""

import json
import re

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.inside.programs import HELPER
from tests.vm.support import in_guest, inside, load
from tests.vm.test_helper import RAW_BIND, USER, client, serving, wait_until

pytestmark = pytest.mark.vm

VIRTIO = Config(kernel="iommufd", nics=("virtio-net-pci", "virtio-net-past", "virtio-net-old", "e1000e"))
HELD_BACK, PAST, OLD = "nic0", "nic1", "nic2"
ATTACH = (
    "import sys; from ixy_vfio.transport.lease import Lease\n"
    "with Lease() as lease: print(lease.attach(sys.argv[1]).address)"
)
ASK = (
    "import sys; from tests.vm.inside.leased import Client; from ixy_vfio_helper.protocol import Attach\n"
    "print(type(Client().ask(Attach(sys.argv[1]))[0]).__name__)"
)
IDENTITY = (
    "import sys; sys.path.append('helper'); from ixy_vfio_helper.kernel import PciDevice\n"
    "from ixy_vfio_setup.__main__ import _what; print(_what(PciDevice(sys.argv[1])))"
)
POLICY = "[user.{}]\ndevices = {}\n"


@in_guest(VIRTIO)
def test_a_virtio_function_that_the_iommu_does_not_hold_back(guest: Guest) -> None:
    load(guest, "vfio-pci", "virtio_net")
    addresses = {name: guest.address(name) for name in (HELD_BACK, PAST, OLD)}
    driven = " && ".join(f"test -d /sys/bus/pci/devices/{address}/virtio*/net" for address in addresses.values())
    wait_until(lambda: guest.run(["sh", "-c", driven], check=False).status == 0)
    groups = {guest.run(["readlink", f"/sys/bus/pci/devices/{one}/iommu_group"]).stdout for one in addresses.values()}
    assert len(groups) == 3  # each has one, of its own

    # Whoever binds it by the helper is told, while Linux's driver has it ...
    told = {name: guest.run([*HELPER, "bind", "--other", addresses[name]], check=False) for name in (PAST, OLD)}
    assert [result.status for result in told.values()] == [2, 2]
    past = f"{addresses[PAST]}: without VIRTIO_F_ACCESS_PLATFORM it reaches all memory past the IOMMU; QEMU: iommu"
    old = f"{addresses[OLD]}: an old virtio function (1af4:1000) reaches all memory past the IOMMU; QEMU: iommu_pl"
    assert past in told[PAST].stderr
    assert old in told[OLD].stderr
    assert (
        f"{addresses[HELD_BACK]}: driver vfio-pci\n"
        == guest.run([*HELPER, "bind", "--other", addresses[HELD_BACK]]).stdout
    )

    # ... and rightly: it obeys a command where nothing is mapped, and the sound one only where something is.
    assert json.loads(inside(guest, "past_iommu", addresses[PAST])) == {"offers": 0, "not mapped": True}
    assert json.loads(inside(guest, "past_iommu", addresses[HELD_BACK])) == {
        "offers": 1,
        "not mapped": False,
        "mapped": True,
    }

    # Bound by somebody else, it is not leased either.
    guest.python(RAW_BIND, addresses[OLD], "vfio-pci")
    for way in ("group", "cdev"):
        with serving(guest, way, *addresses.values()):
            assert past in client(guest, "refused", addresses[PAST]).wait().stdout
            assert old in client(guest, "refused", addresses[OLD]).wait().stdout
            leased = guest.run([*HELPER[:1], "-c", ASK, addresses[HELD_BACK]], user=USER)
            assert leased.stdout == "Attached\n"  # no driver of ours knows it, so the message alone


@in_guest(VIRTIO)
def test_another_device_at_the_same_address_is_not_leased(guest: Guest) -> None:
    load(guest, "vfio-pci", "e1000e")
    nic = guest.address("nic3")
    guest.python(RAW_BIND, nic, "vfio-pci")
    here = guest.run([*HELPER[:1], "-c", IDENTITY, nic]).stdout.strip()  # as setup reads it, from sysfs
    assert re.fullmatch("8086:10d3 ....:.... 52-54-00-ff-f[ef]-82-59-03", here)  # QEMU makes it of the MAC address
    for way in ("group", "cdev"):
        for recorded in (here, here[:-2] + "04", here[:19], here.replace("10d3", "10d4")):
            with serving(guest, way):
                guest.put(POLICY.format(USER, json.dumps([f"{nic} {recorded}"])).encode(), "/run/policy/policy.toml")
                leased = guest.run([*HELPER[:1], "-c", ATTACH, nic], user=USER, check=False)
            if recorded == here:
                assert leased.stdout == f"{nic}\n"
            else:
                assert f"{nic}: the policy gives {recorded}, but {here} is there now; run setup again" in leased.stderr
