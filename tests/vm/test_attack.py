"""Attacks against the kernel's VFIO and the IOMMU, from inside what they would take over. One guest for all of them."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import load
from tests.vm.test_helper import HELPER, wait_until
from tests.vm.test_setup import open_python

pytestmark = pytest.mark.vm

# Port 0 of the attacker receives slowly, and the sink at its cable counts all that it sends.
CABLES = ("0:gen:sizes=60,pace=0.001", "1:gen:count=0", "2:gen:count=0")
LAB = Config(kernel="iommufd", ports=3, cables=CABLES, sim_options=("--no-helper",))
ATTACKER, OTHER = 1000, 1001
POLICY = """
[user.1000]
devices = ["{0}", "{1}"]
[user.1001]
devices = ["{2}"]
"""


@pytest.fixture
def ports(guest: Guest, way: str) -> Iterator[list[str]]:
    """The PCI addresses of the ports: two leased to the attacker, one to somebody else, by a helper that runs."""
    load(guest, "ixgbe", "vfio-pci")
    open_python(guest)
    addresses = [guest.address(f"port{n}") for n in range(3)]
    for address in addresses:
        guest.run([*HELPER, "bind", "--down", address], timeout=120)
    guest.run(["mkdir", "-p", "/run/policy"])
    guest.put(POLICY.format(*addresses).encode(), "/run/policy/policy.toml")
    guest.run(["chmod", "644", "/run/policy/policy.toml"])
    helper = guest.start([*HELPER, "serve", "--policy", "/run/policy/policy.toml", "--way", way])
    try:
        wait_until(lambda: guest.run(["test", "-S", "/run/ixy_vfio/helper.sock"], check=False).status == 0)
        yield addresses
        assert helper.poll() is None
        wait_until(lambda: guest.run(["pgrep", "-P", str(helper.pid)], check=False).stdout == "")
    finally:
        if helper.poll() is None:
            guest.run(["kill", str(helper.pid)])
            helper.wait(30)
        guest.run(["rm", "-f", "/run/ixy_vfio/helper.sock"])
        for address in addresses:
            guest.run([*HELPER, "unbind", address], timeout=120)


WAYS = pytest.mark.parametrize(
    ("guest", "way"), [(LAB, "group"), (LAB, "cdev")], indirect=["guest"], ids=["group", "cdev"], scope="session"
)


def emitted(guest: Guest) -> int:
    """Frames that port 0 has put on its wire."""
    assert guest.simulator is not None
    (cable,) = [one for one in guest.simulator.ask("cables")["cables"] if one["ports"] == [0]]
    return int(cable["received"]) + int(cable["foreign"])


def inside(guest: Guest, script: str, *words: str) -> Any:
    """What a script told."""
    argv = [sys.executable, "-m", f"tests.vm.inside.{script}", *words]
    return json.loads(guest.run(argv, timeout=900).stdout.splitlines()[-1])


# attack: what it tells at a mapped address, the direction of its DMA, frames emitted then and at all of the others
DMA = {
    "transmit": ("reported done", "Read", 1, range(1)),
    "ring": ("sent", "Read", 1, range(1)),
    "head": ("written", "Write", 1, range(9)),  # its frame is its own: what it aims is the report
    "receive": ("written", "Write", 0, range(1)),
}

REFUSED = {"transmit": "reported done", "ring": "not sent", "head": "not written", "receive": "not written"}


KINDS = [("cdev", kind) for kind in DMA] + [("group", "receive")]  # the IOMMU is the same: one shows that it is


@pytest.mark.parametrize(
    ("guest", "way", "kind"),
    [(LAB, *one) for one in KINDS],
    indirect=["guest"],
    ids=["-".join(one) for one in KINDS],
    scope="session",
)
def test_a_worker_aims_its_nic_elsewhere(guest: Guest, ports: list[str], kind: str) -> None:
    """A fault of the IOMMU for each, and the end of that lease; nothing written, nothing sent; the next lease works."""
    told, direction, mapped, unmapped = DMA[kind]
    before = emitted(guest)
    said = inside(guest, "evil_dma", kind, *ports)
    assert said["mapped"].items() >= {"told": told, "ended": "", "untouched": True}.items()
    assert len(said["attacks"]) == 8
    for name, one in said["attacks"].items():
        where = rf"{ports[0]}: its DMA was blocked: DMAR: \[DMA {direction} NO_PASID\] .* fault addr {one['iova']:#x} "
        assert re.search(where, one["ended"]), (name, one)
        assert one["told"] in ("", REFUSED[kind]), (name, one)  # "" where the lease ended first
        assert one["untouched"], name
    assert emitted(guest) - before - mapped in unmapped


SAID = {
    "interrupts": {
        "an eventfd for a vector that there is": "done",  # the control: what is asked for right is done
        "all off": "done",
        "more vectors than there are": "EINVAL",
        "a start beyond them": "EINVAL",
        "four billion of them": "EINVAL",
        "an index that there is not": "EINVAL",
        "flags that contradict": "EINVAL",
        "a descriptor that there is not": "EBADF",
        "a descriptor that is no eventfd": "EINVAL",
    },
    "regions": {
        "a page of BAR0": "done",  # the control
        "the page behind BAR0": "EINVAL",
        "more than BAR0": "EINVAL",
        "configuration space, mapped": "EINVAL",
        "a region that there is not": "EINVAL",
        "the last region": "EINVAL",
        "a write behind BAR0": "EINVAL",
        "a write to a region that there is not": "EINVAL",
    },
    "memory": {
        "MAP_DMA on the device": "EINVAL",  # there its number is hot reset, with nonsense for arguments
        "UNMAP_DMA on the device": "ENOTTY",
        "IOAS_MAP on the device": "ENOTTY",
    },
    "nodes": {
        "its group": "EACCES",
        "its character device": "EACCES",
        "its registers in sysfs": "EACCES",
        "its configuration in sysfs": "EACCES",
        "its removal": "EACCES",
        "its driver's unbind": "EACCES",
        "the claim on it": "EACCES",
    },
    "configuration": {
        "BAR0 over the other device's": "not moved",  # vfio-pci shows the client BARs of its own
        "all of it to ones and zeros": "not moved",
        "who it is": "10fb8086",
        "a write to vital product data": "there is none",  # the simulated port has none
    },
    "resets": {"twenty resets": "done"},
    "afterwards": {"a new lease": "zeroed memory"},
}
# Detaching is the client's right: its device then reaches nothing. By number, there is one space to come back to.
SPACES = {"detached": "done", "attached again": "done", "address spaces but its own": "none"}


@WAYS
def test_a_control_without_a_sandbox(guest: Guest, ports: list[str], way: str) -> None:
    """Refused, or the affair of its own device. The other session is looked at after each group."""
    before = len(guest.kernel_log())
    said = inside(guest, "evil_control", way, *ports)
    assert [one.pop("the other session") for one in said.values() if "the other session" in one] == ["as before"] * (
        len(said) - 1
    )
    assert said["memory"].pop("BIND on the device") in ("EINVAL", "ENOTTY")
    assert said["resets"].pop("hot reset of the bus") in ("EINVAL", "ENOTTY")
    assert said == SAID | ({"address spaces": SPACES} if way == "cdev" else {})
    assert "DMAR: [DMA" not in guest.kernel_log()[before:]


@WAYS
def test_two_users_side_by_side(guest: Guest, ports: list[str]) -> None:
    """Eight leases of two users, each with what the other has just given back: all of it zero, and nobody else's."""
    assert inside(guest, "side_by_side", *ports) == {"found": [], "leases": 8}
