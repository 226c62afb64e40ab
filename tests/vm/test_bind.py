"""Binding on a real kernel: faults and kills at every step, and each reason to refuse."""

import json
from typing import Any

import pytest

from tests.vm.harness import Guest
from tests.vm.support import STOCK, in_guest, inside, load
from tests.vm.test_helper import wait_until
from tests.vm.test_simulated_port import PORTS

pytestmark = pytest.mark.vm

BIND = ["journal", "down", "driver_override=vfio-pci", "unbind", "drivers_probe", "done"]
UNBIND = ["driver_override=", "unbind", "drivers_probe", "down", "name uplink0", "mtu=1400", "up", "forget", "done"]
SERIES = ["fault", "kill", "unbind"]
NICS = {  # NIC -> (guest, device, another one on its wire, series: a probe of the others takes seconds)
    "igb": (STOCK, "nic0", "nic1", ["kill"]),
    "e1000e": (STOCK, "nic1", "nic0", ["fault"]),
    "virtio": (STOCK, "nic2", "nic0", SERIES),
    "82599": (PORTS, "port0", "port1", ["kill"]),
}


@pytest.mark.parametrize(
    ("guest", "device", "peer", "kinds"),
    [pytest.param(*row, marks=[] if name == "virtio" else pytest.mark.long) for name, row in NICS.items()],
    indirect=["guest"],
    ids=list(NICS),
    scope="session",
)
def test_a_bind_that_fails_or_dies_at_any_step(guest: Guest, device: str, peer: str, kinds: list[str]) -> None:
    """An error at each step of bind, kill -9 after each of bind and unbind: driver, name, MTU and state come back."""
    load(guest, "vfio-pci", "igb", "e1000e", "virtio_net", "ixgbe")
    said = json.loads(inside(guest, "bindings", guest.address(device), guest.address(peer), *kinds, timeout=900))
    if "unbind" in kinds:  # how many addresses and routes are given back varies
        steps, answered = said["unbind"]
        said["unbind"] = [sorted({step for step in steps if step in UNBIND or ":" in step}), answered]
    expected = {"fault": [BIND, True], "kill": [BIND, True], "unbind": [sorted(UNBIND), True]}
    assert said == {"before": True} | {kind: expected[kind] for kind in kinds}


UPLINK_UP = "uplink0 is up; run: ip link set uplink0 down (or bind --down)"
HAS = "uplink0 has the address"
USES: dict[str, tuple[str, list[str]]] = {  # use -> what the helper says by sysfs, what `ixy-vfio in-use` says
    "nobody": ("", []),
    "up": (UPLINK_UP, ["uplink0 is up"]),
    "address": (UPLINK_UP, ["uplink0 is up", f"{HAS} 10.99.0.1/24"]),
    "address6": (UPLINK_UP, ["uplink0 is up", f"{HAS} fd99::1/64"]),
    "route": (
        UPLINK_UP,
        ["uplink0 is up", f"{HAS} 10.99.0.1/24", "uplink0 carries the route to 10.98.0.0/16 via 10.99.0.2"],
    ),
    "default route": (
        UPLINK_UP,
        ["uplink0 is up", f"{HAS} 10.99.0.1/24", "uplink0 carries the IPv4 default route via 10.99.0.2"],
    ),
    "default route6": (UPLINK_UP, ["uplink0 is up", "uplink0 carries the IPv6 default route"]),
    "ssh": (
        UPLINK_UP,
        ["uplink0 is up", f"{HAS} 10.99.0.1/24", "this SSH session came in by uplink0 (10.99.0.1)",
         "the answers to this SSH session go out by uplink0"],
    ),
    "bond": ("uplink0 is part of bond0; remove it there", ["uplink0 is part of bond0 (bond)", "uplink0 is up"]),
    "bridge": ("uplink0 is part of br0; remove it there", ["uplink0 is part of br0 (bridge)"]),
    "team": ("uplink0 is part of team0; remove it there", ["uplink0 is part of team0 (team)", "uplink0 is up"]),
    "vlan": ("uplink0 is part of tagged; remove it there", ["tagged (vlan) stands on uplink0"]),
    "macvlan": ("uplink0 is part of inner; remove it there", ["inner (macvlan) stands on uplink0"]),
    "vxlan": ("uplink0 is part of up0; remove it there", ["up0 (vxlan) stands on uplink0"]),
    "macvtap": ("uplink0 is part of up0; remove it there", ["up0 (macvtap) stands on uplink0"]),
    "ipvlan": ("uplink0 is part of up0; remove it there", ["up0 (ipvlan) stands on uplink0"]),
    "macsec": ("uplink0 is part of up0; remove it there", ["up0 (macsec) stands on uplink0"]),
    "vrf": ("uplink0 is part of up0; remove it there", ["uplink0 is part of up0 (vrf)"]),
    "hsr": ("uplink0 is part of up0; remove it there", ["up0 (hsr) stands on uplink0"]),
    "gre": ("up0 stands on uplink0; remove it there", ["up0 (gre) stands on uplink0"]),
    "sit by address": (
        UPLINK_UP, ["uplink0 is up", f"{HAS} 10.99.0.1/24", "up0 (sit) uses the address 10.99.0.1 of uplink0"],
    ),
    "ipip by its way": (
        UPLINK_UP, ["uplink0 is up", f"{HAS} 10.99.0.1/24", "up0 (ipip) reaches its other end 10.99.0.2 by uplink0"],
    ),
    "geneve by its way": (
        UPLINK_UP, ["uplink0 is up", f"{HAS} 10.99.0.1/24", "up0 (geneve) reaches its other end 10.99.0.2 by uplink0"],
    ),
    "mirred": ("", ["traffic control sends packets of another interface (mirred) to uplink0"]),
    "socket": (UPLINK_UP, ["uplink0 is up", "a TCP or UDP socket is bound to uplink0"]),
    "namespace": (
        "driver igb, but no interface here: it is in another network namespace",
        ["driver igb has it, but its interface is in another network namespace (perhaps blue; see ip netns)"],
    ),
    "vfs": (
        "has 2 virtual functions; run: echo 0 > /sys/bus/pci/devices/ADDRESS/sriov_numvfs",
        ["2 virtual functions are enabled"],
    ),
}  # fmt: skip
_told: dict[int, dict[str, Any]] = {}


def told(guest: Guest) -> dict[str, Any]:
    """What is said to all uses, asked once a guest."""
    if id(guest) not in _told:
        load(guest, "vfio-pci", "igb", "bonding", "bridge", "team", "8021q", "macvlan", "udp_diag")
        address = guest.address("nic0")
        wait_until(lambda: guest.run(["test", "-d", f"/sys/bus/pci/devices/{address}/net"], check=False).status == 0)
        _told[id(guest)] = json.loads(inside(guest, "uses", address, timeout=900).replace(address, "ADDRESS"))
    return _told[id(guest)]


@in_guest(STOCK)
def test_generated_states_come_back(guest: Guest) -> None:
    """Some states of tests/netstates.py: bind and unbind, while another NIC has the machine's own routes."""
    load(guest, "vfio-pci", "igb", "e1000e")
    nics = guest.address("nic0"), guest.address("nic1")
    wait_until(lambda: all(guest.run(["test", "-d", f"/sys/bus/pci/devices/{nic}/net"], check=False).status == 0
                           for nic in nics))  # fmt: skip
    assert json.loads(inside(guest, "netstates", *nics, "1", "2", timeout=300)) == {}


@pytest.mark.parametrize("use", USES)
@in_guest(STOCK)
def test_a_nic_in_use_is_refused(guest: Guest, use: str) -> None:
    assert told(guest)[use] == list(USES[use])
