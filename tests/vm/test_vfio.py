"""The kernel's VFIO and the IOMMU, with devices that are not ours: what the driver's own VM tests lean on."""

import json
import re
import time

import pytest

from tests.vm.harness import Guest
from tests.vm.support import IOMMUFD, STOCK, in_guest, inside, load

pytestmark = pytest.mark.vm

BIND = """
import sys
from tests.vm.inside.raw_vfio import bind, driver_of
bind(sys.argv[1], sys.argv[2])
print(driver_of(sys.argv[1]))
"""


def bind(guest: Guest, address: str, driver: str) -> str:
    return guest.python(BIND, address, driver).stdout.strip()


def group(guest: Guest, address: str) -> str:
    link = guest.run(["readlink", f"/sys/bus/pci/devices/{address}/iommu_group"]).stdout
    return link.strip().rpartition("/")[2]


@in_guest(STOCK, IOMMUFD)
def test_each_device_is_alone_in_its_group(guest: Guest) -> None:
    for device in guest.config.devices:
        address = guest.address(device)
        members = guest.run(["ls", f"/sys/bus/pci/devices/{address}/iommu_group/devices"]).stdout.split()
        assert members == [address]


@in_guest(STOCK, IOMMUFD)
@pytest.mark.parametrize(("device", "own"), [("nic0", "igb"), ("nic1", "e1000e"), ("nic2", "virtio-pci"), ("nic3", "")])
def test_vfio_pci_takes_a_device_and_gives_it_back(guest: Guest, device: str, own: str) -> None:
    load(guest, "vfio-pci", "igb", "e1000e", "virtio_net")
    address = guest.address(device)
    assert bind(guest, address, "") == own
    assert bind(guest, address, "vfio-pci") == "vfio-pci"
    assert guest.run(["test", "-c", f"/dev/vfio/{group(guest, address)}"], check=False).status == 0
    assert bind(guest, address, "") == own


@pytest.mark.parametrize(
    ("guest", "path"),
    [(STOCK, "legacy"), (IOMMUFD, "legacy"), (IOMMUFD, "cdev")],
    indirect=["guest"],
    ids=["stock-legacy", "iommufd-legacy", "iommufd-cdev"],
    scope="session",
)
def test_dma_outside_the_mapping_is_a_fault_in_the_log(guest: Guest, path: str) -> None:
    load(guest, "vfio-pci")
    address = guest.address("nic3")
    before = len(guest.kernel_log())
    result = json.loads(inside(guest, "edu", path, address))
    # The mapped page got what the device had read from the other mapped one: DMA works, and the fault means something.
    assert result == {"target": "source..", "canary": "canary..", "driver": "vfio-pci"}
    device = rf"\[(0000:)?{address.removeprefix('0000:')}\]"  # newer kernels write the domain
    wanted = [rf"DMA Write .*{device} fault addr 0x900000", rf"DMA Read .*{device} fault addr 0xa00000"]
    deadline = time.monotonic() + 60  # the fault is logged by an interrupt of its own
    while not all(re.search(pattern, guest.kernel_log()[before:]) for pattern in wanted):
        assert time.monotonic() < deadline, guest.kernel_log()[before:]
        time.sleep(0.1)
    assert not re.search(r"fault addr 0x[123]00000", guest.kernel_log()[before:])
