"""Which devices the kernel's backend leases, and what it knows of those beside them: sysfs as a tree of files."""

from pathlib import Path

import pytest
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.kernel import KernelBackend
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.protocol import State
from ixy_vfio_helper.vfio import GroupSession

HERE, BESIDE, PORT = "0000:03:00.0", "0000:03:00.1", "0000:00:1c.0"
NIC, BRIDGE = 0x020000, 0x060400


def device(root: Path, address: str, group: str, driver: str = "vfio-pci", pci_class: int = NIC) -> None:
    """Put a device into the tree."""
    devices, groups = root / "sys/bus/pci/devices", root / "sys/kernel/iommu_groups" / group
    (groups / "devices").mkdir(parents=True, exist_ok=True)
    (devices / address / "vfio-dev/vfio3").mkdir(parents=True)
    (groups / "devices" / address).symlink_to(devices / address)
    (devices / address / "iommu_group").symlink_to(groups)
    (devices / address / "class").write_text(f"{pci_class:#08x}\n")
    for name, number in (("vendor", 0x8086), ("device", 0x10FB)):
        (devices / address / name).write_text(f"{number:#06x}\n")
    if driver:
        (devices / address / "driver").symlink_to(f"../drivers/{driver}")


@pytest.mark.parametrize("driver", ["", "ixgbe", "vfio-platform", "pci-stub", "vfio_pci"])
def test_a_device_that_is_not_bound_to_vfio_pci_is_not_leased(tmp_path: Path, driver: str) -> None:
    device(tmp_path, HERE, "7", driver)
    for way in ("auto", "cdev", "group"):
        with pytest.raises(
            Refusal, match=f"{HERE}: driver is {driver or 'none'}; run: sudo ixy-vfio-helper bind {HERE}"
        ):
            KernelBackend(way, tmp_path).session(HERE)
    listed = KernelBackend("auto", tmp_path).describe(HERE)
    assert listed is not None
    assert (listed.state, listed.driver) == (State.UNBOUND, driver)


@pytest.mark.parametrize("way", ["cdev", "group"])
def test_what_is_beside_a_device(tmp_path: Path, way: str) -> None:
    device(tmp_path, HERE, "7")
    device(tmp_path, BESIDE, "7", "")
    device(tmp_path, PORT, "7", "pcieport", BRIDGE)  # it can never be leased
    for address in ("0001:03:00.0", "00ff:03:00.0", "0001:03:00.1", "10000:03:00.0"):
        device(tmp_path, address, address)
    listed = KernelBackend(way, tmp_path).describe(HERE)
    assert listed is not None
    assert listed.state == State.FREE
    session = KernelBackend(way, tmp_path).session(HERE)
    assert isinstance(session, CdevSession if way == "cdev" else GroupSession)
    assert (session.group, list(session.neighbours)) == ("7", [BESIDE])
    assert list(session._twins) == ["0001:03:00.0", "00ff:03:00.0"]


@pytest.mark.parametrize("way", ["cdev", "group"])
def test_a_group_of_which_a_driver_has_a_part(tmp_path: Path, way: str) -> None:
    device(tmp_path, HERE, "7")
    device(tmp_path, BESIDE, "7", "e1000e")
    text = f"{HERE}: shares IOMMU group 7 with {BESIDE}, which the driver e1000e uses; take that from its driver too"
    with pytest.raises(Refusal, match=text):
        KernelBackend(way, tmp_path).session(HERE)
