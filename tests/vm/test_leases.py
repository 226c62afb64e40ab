"""Leases of the real helper in a guest, by both ways into VFIO: DMA, faults, clients that die, the kernel's wishes."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.vm.harness import Guest
from tests.vm.harness.guest import Process
from tests.vm.inside.programs import HELPER
from tests.vm.support import IOMMUFD, STOCK, load
from tests.vm.test_audit_static import GROUPED
from tests.vm.test_helper import (
    RAW_BIND,
    STRANGER,
    USER,
    WAYS,
    client,
    command_register,
    edu,
    policy,
    serving,
    wait_until,
)

pytestmark = pytest.mark.vm


@dataclass(frozen=True, slots=True)
class Served:
    """A helper that leases QEMU's edu device."""

    helper: Process
    address: str


@pytest.fixture(scope="module")
def served(guest: Guest, way: str) -> Iterator[Served]:
    """One for all tests of a way: each leaves it as it was."""
    address = edu(guest)
    with serving(guest, way, address) as helper:
        yield Served(helper, address)


@WAYS
def test_an_unprivileged_client_does_dma_in_what_the_helper_mapped(guest: Guest, served: Served) -> None:
    address = served.address
    for _ in range(2):  # the second time shows that the first gave everything back
        said = json.loads(client(guest, "dma", address).wait().stdout)
        assert said == {
            "listed": [address, "vfio-pci", 1], "iova": [0x10_0000_0000, 0x10_0040_0000],
            "target": "source..", "locked": ["0"], "ended": "the client ended it",
        }  # fmt: skip
        assert command_register(guest, address) & 4 == 0
    assert "failed" not in served.helper.output().stderr


@WAYS
def test_a_fault_ends_the_lease(guest: Guest, served: Served) -> None:
    address = served.address
    said = json.loads(client(guest, "fault", address).wait().stdout)
    assert said["memory"] == "canary.."
    assert re.match(rf"{address}: its DMA was blocked: DMAR: .*DMA Write.*fault addr 0x1000001000", said["ended"])


@WAYS
def test_dma_stops_when_the_client_is_killed_although_a_child_has_the_device(guest: Guest, served: Served) -> None:
    address = served.address
    process = client(guest, "survivor", address)
    wait_until(lambda: "before" in process.output().stdout)
    guest.run(["kill", "-9", str(process.pid)])
    wait_until(lambda: "after" in process.output().stdout)
    before, after = map(json.loads, process.output().stdout.splitlines())
    assert before["before"] & 4 == 4
    assert (after["after"] & 4, after["memory"]) == (0, "canary..")
    assert "failed" not in served.helper.output().stderr


@WAYS
def test_a_device_that_a_process_has_hidden_is_refused_until_that_ends(guest: Guest, served: Served) -> None:
    address = served.address
    process = client(guest, "hidden", address)
    wait_until(lambda: "\n" in process.output().stdout)
    child = process.output().stdout.strip()
    guest.run(["kill", "-9", str(process.pid)])
    told = f"{address}: a process still has it open; try again when that has ended"
    wait_until(lambda: told in client(guest, "refused", address).wait().stdout)
    guest.run(["kill", "-9", child])
    assert json.loads(client(guest, "dma", address).wait().stdout)["ended"] == "the client ended it"
    assert "failed" not in served.helper.output().stderr


@WAYS
def test_the_kernel_gets_a_leased_device_back(guest: Guest, served: Served) -> None:
    address = served.address
    process = client(guest, "wanted_back", address)
    wait_until(lambda: "up" in process.output().stdout)
    assert guest.run([*HELPER, "unbind", address], check=False).status == 2
    guest.run(["sh", "-c", f"echo {address} > /sys/bus/pci/drivers/vfio-pci/unbind"])
    assert process.wait().stdout == f"up\n{address}: the kernel wants the device back\n"
    guest.run(["sh", "-c", f"echo {address} > /sys/bus/pci/drivers_probe"])  # driver_override says vfio-pci still


ONCE_EACH = pytest.mark.parametrize(
    ("guest", "way"), [(STOCK, "group"), (IOMMUFD, "cdev")], indirect=["guest"], ids=["stock-group", "iommufd-cdev"],
    scope="session",
)  # fmt: skip


@ONCE_EACH
def test_the_kernel_gets_a_device_back_whose_interrupts_the_client_took(guest: Guest, served: Served, way: str) -> None:
    """It is the kernel's log that tells the helper then."""
    address = served.address
    process = client(guest, "deaf", address, USER, way)
    wait_until(lambda: "up" in process.output().stdout)
    guest.run(["sh", "-c", f"echo {address} > /sys/bus/pci/drivers/vfio-pci/unbind"])
    assert process.wait().stdout == f"up\n{address}: the kernel wants the device back\n"
    said = "No device request channel registered" if way == "group" else "Relaying device request to user"
    assert f"vfio-pci {address}: {said}" in guest.kernel_log()
    guest.run(["sh", "-c", f"echo {address} > /sys/bus/pci/drivers_probe"])


@ONCE_EACH
def test_names_of_processes_end_no_lease(guest: Guest, served: Served) -> None:
    """Another user's, who has nothing of the helper's. A real fault does: test_a_fault_ends_the_lease."""
    address = served.address
    guest.run(["rm", "-f", "/run/policy/over"])
    process = client(guest, "held", address)
    wait_until(lambda: "up" in process.output().stdout)
    before = len(guest.kernel_log())
    try:
        assert client(guest, "named", address, STRANGER).wait().stdout == "done\n"
    finally:
        guest.run(["touch", "/run/policy/over"])
    logged = guest.kernel_log()[before:]
    number = address.partition(":")[2]
    for name in (f"DMAR {number}", f"AMD-Vi {number}", "DMAR: [DMA Read", f"vfio-pci {address}"[:15]):
        assert re.search(rf"\] {re.escape(name)}\[\d+\]: segfault at 0 ", logged), name
    assert process.wait().stdout == "up\nListed\n"


@ONCE_EACH
def test_memory_is_not_kept_from_lease_to_lease(guest: Guest, served: Served) -> None:
    """360 MiB in 5 leases, of which the client keeps every descriptor and mapping; 256 MiB are the limit."""
    guest.run(["sh", "-c", "echo 6 > /proc/sys/vm/nr_hugepages"])
    try:
        said = json.loads(client(guest, "keeps", served.address).wait().stdout)
    finally:
        guest.run(["sh", "-c", "echo 0 > /proc/sys/vm/nr_hugepages"])
    assert said == {"free": [2, 6] * 5, "kept": 0, "pages": [4096, 2 << 20], "byte": 0}
    assert "failed" not in served.helper.output().stderr


@pytest.mark.parametrize(
    ("guest", "way"), [(GROUPED, "group"), (GROUPED, "cdev")], indirect=["guest"], ids=["group", "cdev"],
    scope="session",
)  # fmt: skip
def test_two_ports_in_one_group(guest: Guest, way: str) -> None:
    one = guest.address("nic0")
    two = one.removesuffix("0") + "1"
    group = guest.run(["readlink", "-f", f"/sys/bus/pci/devices/{one}/iommu_group"]).stdout.strip().rpartition("/")[2]
    shares = f"{two}: shares IOMMU group {group} with {one}, which"
    load(guest, "vfio-pci", "e1000e")
    guest.python(RAW_BIND, one, "")  # other tests of this guest leave it without a driver
    try:
        guest.python(RAW_BIND, two, "vfio-pci")
        with serving(guest, way, one, two):
            assert f"{shares} the driver e1000e uses" in client(guest, "refused", two).wait().stdout
            guest.python(RAW_BIND, one, "vfio-pci")
            said = client(guest, "both", one, USER, two).wait().stdout
            assert f"{shares} this lease has: lease one at a time, or use a slot with ACS" in said
            assert "Attached" in client(guest, "refused", two).wait().stdout  # each alone can be had
    finally:
        for address in (one, two):
            guest.python(RAW_BIND, address, "")


@WAYS
def test_who_may_not_have_a_device(guest: Guest, served: Served) -> None:
    address, other = served.address, guest.address("nic0")
    stranger = client(guest, "refused", address, STRANGER).wait(check=False)
    assert f"the helper's policy gives nothing to uid {STRANGER}" in stranger.stdout + stranger.stderr
    policy(guest, USER, address, other)  # it is read anew for each client
    said = client(guest, "refused", other).wait().stdout
    policy(guest, USER, address)
    assert re.search(rf"{other}: driver is (igb|none); run: sudo ixy-vfio-helper bind {other}", said)
