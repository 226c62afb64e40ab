"""scripts/setup on a real kernel: a NIC in use is refused with every reason, taken by force, leased, given back."""

import json
import sys

import pytest

from tests.vm.harness import Guest
from tests.vm.support import SETUP, STOCK, in_guest, load, open_python
from tests.vm.test_helper import interface, wait_until

pytestmark = pytest.mark.vm

USER = 1000
SLOW = 300.0  # seconds; a guest of a busy host loads pyroute2 for half a minute
HOLD = (
    "import sys, time; from ixy_vfio.transport.lease import Lease\n"
    "with Lease() as lease: print(lease.attach(sys.argv[1]).address, flush=True); time.sleep(600)"
)
LEFT = ("/usr/local/lib/ixy_vfio", "/usr/local/sbin/ixy-vfio-helper", "/etc/ixy_vfio", "/var/lib/ixy_vfio",
        "/run/ixy_vfio")  # fmt: skip


def words(guest: Guest, command: str) -> list[str]:
    return guest.run(["sh", "-ec", command]).stdout.split()


def names(guest: Guest) -> tuple[str, str]:
    """igb's interface, named uplink0, with MTU and addresses; e1000e's at the same wire, in a namespace of its own."""
    load(guest, "igb", "e1000e", "macvlan")
    open_python(guest)
    nic, other = guest.address("nic0"), guest.address("nic1")
    wait_until(lambda: bool(interface(guest, nic) and interface(guest, other)))
    now, peer = interface(guest, nic)["name"], interface(guest, other)["name"]
    guest.run(["sh", "-ec", f"""
        ip link set {now} down; ip link set {now} name uplink0 mtu 1400; ip link set uplink0 up
        ip address add 10.99.0.1/24 dev uplink0; ip address add fd99::1/64 dev uplink0 nodad
        ip route add 10.98.0.0/16 via 10.99.0.2 metric 50
        ip netns add far; ip link set {peer} netns far; ip -n far link set {peer} up
        ip -n far address add 10.99.0.2/24 dev {peer}"""])  # fmt: skip
    return nic, peer


def reachable(guest: Guest) -> bool:
    """Whether the host at the other end of the wire gets answers from 10.99.0.1."""
    command = [sys.executable, "-m", "ixy_vfio.sim.traffic", "ping", "10.99.0.1", "3"]
    result = guest.run(["ip", "netns", "exec", "far", *command], check=False)
    return result.status == 0 and json.loads(result.stdout)["received"] > 0


def kept(guest: Guest) -> list[str]:
    """Addresses and routes of the interface, without those of the kernel itself."""
    said = json.loads(guest.run(["ip", "-json", "address", "show", "dev", "uplink0"]).stdout)
    addresses = [f"{a['local']}/{a['prefixlen']}" for a in said[0]["addr_info"] if a["scope"] == "global"]
    return sorted(addresses) + words(guest, "ip route show dev uplink0 to 10.98.0.0/16")


@in_guest(STOCK)
def test_a_nic_is_set_up_leased_and_given_back(guest: Guest) -> None:
    nic, peer = names(guest)
    setup = [*SETUP, nic, "--user", str(USER), "--other", "--hugepages", "8", "--start"]
    was = {"name": "uplink0", "mtu": "1400", "up": "1"}
    wait_until(lambda: reachable(guest))
    assert interface(guest, nic) == was
    before = kept(guest)
    assert before == ["10.99.0.1/24", "fd99::1/64", "10.98.0.0/16", "via", "10.99.0.2", "metric", "50"]

    guest.run(["sh", "-ec", "ip netns add blue; ip link add link uplink0 name inner netns blue type macvlan"])
    refused = guest.run(["env", "SSH_CONNECTION=10.99.0.2 4711 10.99.0.1 22", *setup], check=False, timeout=SLOW)
    guest.run(["ip", "netns", "delete", "blue"])
    assert refused.status == 2
    said = [line.removeprefix(f"setup: {nic}: ") for line in refused.stderr.splitlines()]
    local = [line for line in said if "fe80::" in line]
    assert len(local) == 1
    assert sorted(set(said) - set(local)) == [
        "--force takes it all the same, and cuts this",
        "in use: inner (macvlan) stands on it (in network namespace blue)",
        "in use: the answers to this SSH session go out by uplink0",
        "in use: this SSH session came in by uplink0 (10.99.0.1)",
        "in use: uplink0 carries the route to 10.98.0.0/16 via 10.99.0.2",
        "in use: uplink0 has the address 10.99.0.1/24",
        "in use: uplink0 has the address fd99::1/64",
        "in use: uplink0 is up",
    ]
    assert interface(guest, nic) == was

    done = guest.run([*setup, "--force"], timeout=SLOW)
    assert "will be cut: uplink0 has the address 10.99.0.1/24\n" in done.stdout
    assert "already:" not in done.stdout.replace("already: load module vfio-pci", "")
    assert interface(guest, nic) == {}
    owner = words(guest, f"stat -c %u:%a {LEFT[1]} {LEFT[0]}/ixy_vfio_helper/vfio.py /etc/ixy_vfio/policy.toml")
    assert owner == ["0:755", "0:644", "0:644"]
    again = guest.run(setup)
    assert [line for line in again.stdout.splitlines() if line.startswith(("done", "failed"))] == []

    listed = guest.run([sys.executable, "-m", "ixy_vfio.cli", "list", "--json"], user=USER)
    assert [(d["address"], d["driver"], d["state"]) for d in json.loads(listed.stdout)] == [(nic, "vfio-pci", "free")]
    holder = guest.start([sys.executable, "-c", HOLD, nic], user=USER)
    wait_until(lambda: nic in holder.output().stdout)
    leased = guest.run([*SETUP, "--undo"], check=False)
    assert leased.status == 1
    assert f"{nic}: it is leased (see ixy-vfio-helper status); end the lease first" in leased.stderr
    holder.kill()
    holder.wait(check=False)

    ended = f"! kill -0 $(cut -d' ' -f2 /run/ixy_vfio/leases/{nic}.lease)"  # the helper's process for this lease
    wait_until(lambda: guest.run(["sh", "-c", ended], check=False).status == 0)
    undone = guest.run([*SETUP, "--undo"])
    assert "stays" not in undone.stdout.replace("module vfio-pci stays loaded", "")
    assert (interface(guest, nic), kept(guest)) == (was, before)
    assert guest.run(["ls", "-d", *LEFT], check=False).stdout == ""
    wait_until(lambda: reachable(guest))
    assert "nothing to undo" in guest.run([*SETUP, "--undo"]).stdout
    guest.run(["ip", "-n", "far", "link", "set", peer, "netns", "1"])
    guest.run(["ip", "netns", "delete", "far"])


@in_guest(STOCK)
def test_who_uses_an_interface_on_a_kernel_with_bonds_and_vlans(guest: Guest) -> None:
    load(guest, "bonding", "8021q", "bridge", "macvlan", "veth")
    tests = ["tests/unit/test_inuse.py", "-k", "bond or vlan_and"]
    said = guest.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], timeout=SLOW)
    assert "2 passed" in said.stdout
