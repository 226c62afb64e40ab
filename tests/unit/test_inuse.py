"""Who uses an interface: in real network namespaces, made without root. `nic` stands for the NIC's interface.

What this kernel cannot make is skipped here; tests/vm/test_setup.py runs this module on a kernel that has it all.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ixy_vfio import cli
from ixy_vfio.apps import inuse
from ixy_vfio.apps.standing import Reason
from ixy_vfio.core.errors import UsageError

LOOK = (
    "import sys, json; from dataclasses import asdict; from ixy_vfio.apps.inuse import look_at\n"
    "print(json.dumps(asdict(look_at(sys.argv[2:], sys.argv[1]))))"
)
HOME = (
    "import os, sys, json; from dataclasses import asdict; from ixy_vfio.apps.inuse import look_at, Home\n"
    "print(json.dumps(asdict(look_at([], home=Home(int(sys.argv[1]), frozenset([int(sys.argv[2])]))))))"
)
NIC = "ip link add nic type veth peer name far; ip link set far up; ip link set nic address 02:00:00:00:00:01\n"
UP = "ip link set nic up; until ip -6 address show dev nic | grep -q fe80; do sleep 0.05; done\n"
LOCAL6 = "nic has the address fe80::ff:fe00:1/64"


def namespaced(script: str) -> str:
    """Run a shell script as root of a user namespace with a network namespace of its own."""
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-ec", script],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


@functools.cache
def can_make(kind: str) -> bool:
    how = {
        "bridge": "",
        "bond": "",
        "dummy": "",
        "vlan": "link far id 5",
        "macvlan": "link far",
        "vxlan": "dev far id 5 dstport 4789",
    }[kind].split()
    link, options = (how[:2], how[2:]) if how[:1] == ["link"] else ([], how)
    command = " ".join(["ip link add", *link, "name x type", kind, *options])
    try:
        namespaced(f"{NIC}{command}")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.fixture(autouse=True, scope="module")
def _namespaces() -> None:
    try:
        namespaced(NIC)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces for this user: {error}")


def found(script: str, *names: str, ssh: str = "", needs: tuple[str, ...] = ()) -> tuple[list[str], dict[str, object]]:
    """The reasons after `script`, each as KIND: TEXT, and the first interface."""
    reasons, said = look(script, *names, ssh=ssh, needs=needs)
    return reasons, said["interfaces"][0]


def look(script: str, *names: str, ssh: str = "", needs: tuple[str, ...] = ()) -> tuple[list[str], dict[str, Any]]:
    """The reasons after `script`, each as KIND: TEXT, and all that was said."""
    for kind in needs:
        if not can_make(kind):
            pytest.skip(f"this kernel has no {kind}")
    words = " ".join(names or ("nic",))
    said = json.loads(namespaced(f"{NIC}{script}\nexec {sys.executable} -c '{LOOK}' '{ssh}' {words}").splitlines()[-1])
    return [f"{reason['kind']}: {reason['text']}" for reason in said["reasons"]], said


def test_nobody_uses_an_interface_that_is_down() -> None:
    reasons, interface = found("")
    assert reasons == []
    assert interface["name"] == "nic"


def test_up_with_a_link_local_address_only() -> None:
    reasons, interface = found(UP)
    assert reasons == ["up: nic is up", f"address: {LOCAL6}"]
    assert interface["name"] == "nic"


def test_a_v6_only_interface() -> None:
    script = f"{UP}ip address add fd01::1/64 dev nic nodad; ip -6 route add default via fd01::fe"
    reasons, _ = found(script)
    assert sorted(reasons) == [
        "address: nic has the address fd01::1/64",
        f"address: {LOCAL6}",
        "default-route: nic carries the IPv6 default route via fd01::fe",
        "up: nic is up",
    ]


def test_addresses_routes_and_the_default_route() -> None:
    script = (
        f"{UP}ip address add 10.1.0.1/24 dev nic; ip route add default via 10.1.0.254\n"
        "ip route add 10.9.0.0/16 via 10.1.0.5 metric 7; ip link set lo up; ip route add 10.8.0.0/16 dev lo\n"
        "ip route add 10.7.0.0/16 nexthop via 10.1.0.6 nexthop via 10.1.0.7"
    )
    reasons, _ = found(script)
    assert sorted(reasons) == [
        "address: nic has the address 10.1.0.1/24",
        f"address: {LOCAL6}",
        "default-route: nic carries the IPv4 default route via 10.1.0.254",
        "route: nic carries the route to 10.7.0.0/16 via 10.1.0.6",
        "route: nic carries the route to 10.7.0.0/16 via 10.1.0.7",
        "route: nic carries the route to 10.9.0.0/16 via 10.1.0.5",
        "up: nic is up",
    ]


def test_routes_of_other_tables_and_by_gateways_of_the_other_family() -> None:
    script = (
        f"{UP}ip address add 10.1.0.1/24 dev nic; ip route add default via 10.1.0.254 table 100\n"
        "ip address add fd01::1/64 dev nic nodad; ip route add 10.9.0.0/16 via inet6 fd01::9\n"
        "ip route add 10.8.0.0/16 dev nic table 70000"
    )
    assert sorted(reason for reason in found(script)[0] if "route" in reason.partition(":")[0]) == [
        "default-route: nic carries the IPv4 default route via 10.1.0.254 in table 100",
        "route: nic carries the route to 10.8.0.0/16 in table 70000",
        "route: nic carries the route to 10.9.0.0/16 via fd01::9",
    ]


@pytest.mark.parametrize("local", ["10.1.0.1", "::ffff:10.1.0.1"])
def test_the_ssh_session_by_its_address_and_by_the_way_back(local: str) -> None:
    script = f"{UP}ip address add 10.1.0.1/24 dev nic"
    reasons, _ = found(script, ssh=f"10.1.0.77 50000 {local} 22")
    assert [reason for reason in reasons if reason.startswith("ssh")] == [
        "ssh: this SSH session came in by nic (10.1.0.1)",
        "ssh: the answers to this SSH session go out by nic",
    ]


def test_an_ssh_session_by_another_interface_is_no_reason() -> None:
    script = f"{UP}ip address add 10.1.0.1/24 dev nic; ip link set lo up"
    reasons, _ = found(script, ssh="127.0.0.1 50000 127.0.0.1 22")
    assert not [reason for reason in reasons if reason.startswith("ssh")]
    assert found("", ssh="fe80::1%eth9 5 fe80::2%eth9 22")[0] == []


def test_a_bridge_and_what_the_bridge_has() -> None:
    script = (
        "ip link add br0 type bridge; ip link set nic master br0; ip address add 10.2.0.1/24 dev br0\n"
        "ip link set br0 up; ip route add default via 10.2.0.254"
    )
    reasons, _ = found(script, needs=("bridge",))
    assert [reason for reason in reasons if "fe80" not in reason] == [
        "master: nic is part of br0 (bridge)",
        "address: br0 has the address 10.2.0.1/24",
        "default-route: br0 carries the IPv4 default route via 10.2.0.254",
    ]


def test_a_bond_in_a_bridge() -> None:
    script = (
        "ip link add bond0 type bond; ip link add br0 type bridge; ip link set nic down; ip link set nic master bond0\n"
        "ip link set bond0 master br0; ip address add 10.2.0.1/24 dev br0"
    )
    reasons, _ = found(script, needs=("bond", "bridge"))
    assert [reason for reason in reasons if "fe80" not in reason] == [
        "master: nic is part of bond0 (bond)",
        "master: bond0 is part of br0 (bridge)",
        "up: nic is up",  # the bond did that
        "address: br0 has the address 10.2.0.1/24",
    ]


def test_a_vlan_and_a_macvlan_on_it() -> None:
    script = (
        "ip link add link nic name nic.5 type vlan id 5; ip address add 10.5.0.1/24 dev nic.5\n"
        "ip link add link nic.5 name guest type macvlan"
    )
    reasons, _ = found(script, needs=("vlan", "macvlan"))
    assert reasons == [
        "upper: nic.5 (vlan) stands on nic",
        "upper: guest (macvlan) stands on nic.5",
        "address: nic.5 has the address 10.5.0.1/24",
    ]


def test_a_macvlan() -> None:
    script = "ip link add link nic name guest type macvlan; ip address add 10.5.0.1/24 dev guest"
    reasons, _ = found(script, needs=("macvlan",))
    assert reasons == ["upper: guest (macvlan) stands on nic", "address: guest has the address 10.5.0.1/24"]


def test_a_vxlan_which_has_its_lower_interface_in_data_of_its_own() -> None:
    script = "ip link add vx0 type vxlan id 42 dev nic remote 10.0.0.2 dstport 4789; ip link set vx0 up"
    assert found(script, needs=("vxlan",))[0][0] == "upper: vx0 (vxlan) stands on nic"


def test_a_tunnel_by_its_own_address_and_by_the_way_to_its_other_end() -> None:
    script = (
        f"{UP}ip address add 10.1.0.1/24 dev nic; ip address add fd01::1/64 dev nic nodad\n"
        "ip link add vx0 type vxlan id 1 local 10.1.0.1 remote 192.0.2.9 dstport 4789\n"
        "ip link add vx1 type vxlan id 2 remote 10.1.0.9 dstport 4790\n"
        "ip link add vx2 type vxlan id 3 local fd01::1 remote fd01::9 dstport 4791\n"
        "ip link add vx3 type vxlan id 4 remote 192.0.2.9 dstport 4792\n"
    )
    reasons, _ = found(script, needs=("vxlan",))
    assert [reason for reason in reasons if reason.startswith("tunnel")] == [
        "tunnel: vx0 (vxlan) uses the address 10.1.0.1 of nic",
        "tunnel: vx1 (vxlan) reaches its other end 10.1.0.9 by nic",
        "tunnel: vx2 (vxlan) uses the address fd01::1 of nic",
    ]


def test_what_cannot_be_given_back_is_said() -> None:
    _, said = look("tc qdisc add dev nic root handle 1: htb")
    assert said["lost"] == ["nic: traffic control: qdisc htb 1: with its classes and filters"]


def test_a_macvlan_in_another_namespace() -> None:
    if not can_make("macvlan"):
        pytest.skip("this kernel has no macvlan")
    script = (
        f"{NIC}ip link add link nic name guest type macvlan\n"
        "unshare --net sleep 60 & other=$!\n"
        "until [ $(readlink /proc/$other/ns/net) != $(readlink /proc/$$/ns/net) ]; do sleep 0.05; done\n"
        "ip link set guest netns $other; exec 9< /proc/$$/ns/net\n"
        "index=$(ip -oneline link show dev nic | cut -d: -f1)\n"
        f"nsenter --net=/proc/$other/ns/net {sys.executable} -c '{HOME}' 9 $index; kill $other"
    )
    said = json.loads(namespaced(script))
    assert said["interfaces"] == []
    assert [reason["text"] for reason in said["reasons"]] == ["guest (macvlan) stands on it"]


def test_a_capture_is_a_reason() -> None:
    listen = 'import socket, time; s = socket.socket(17, 3, 0x300); s.bind((\\"nic\\", 3)); print(1); time.sleep(30)'
    script = f'{sys.executable} -c "{listen}" > /tmp/$$.said & child=$!\nsleep 0.1\n'
    script += "until [ $(wc -l < /proc/self/net/packet) -gt 1 ]; do sleep 0.05; done; rm /tmp/$$.said\n"
    look = f"{sys.executable} -c '{LOOK}' '' nic; kill $child"
    said = json.loads(namespaced(f"{NIC}{script}{look}"))
    assert [reason["kind"] for reason in said["reasons"]] == ["packet"]


def device(root: Path, driver: str, **attributes: str) -> None:
    path = root / "sys/bus/pci/devices/0000:03:00.0"
    path.mkdir(parents=True)
    (root / "drivers" / driver).mkdir(parents=True)
    (path / "driver").symlink_to(root / "drivers" / driver)
    for name, text in attributes.items():
        (path / name).write_text(text + "\n")


@pytest.mark.parametrize(("number", "text"), [("1", "1 virtual function is"), ("8", "8 virtual functions are")])
def test_virtual_functions(tmp_path: Path, number: str, text: str) -> None:
    device(tmp_path, "vfio-pci", sriov_numvfs=number)
    use = inuse.look("0000:03:00.0", root=tmp_path)
    assert use == inuse.Use("0000:03:00.0", [], [Reason("vfs", "", f"{text} enabled")])


def test_an_interface_that_is_elsewhere(tmp_path: Path) -> None:
    device(tmp_path, "ixgbe", sriov_numvfs="0")
    text = "driver ixgbe has it, but its interface is in another network namespace"
    assert [reason.text for reason in inuse.look("0000:03:00.0", root=tmp_path).reasons] == [text]
    (tmp_path / "run/netns").mkdir(parents=True)
    (tmp_path / "run/netns/blue").touch()
    assert [reason.text for reason in inuse.look("0000:03:00.0", root=tmp_path).reasons] == [
        f"{text} (perhaps blue; see ip netns)"
    ]


def test_a_device_that_nobody_uses_and_one_that_is_not_there(tmp_path: Path) -> None:
    device(tmp_path, "vfio-pci")
    assert inuse.look("0000:03:00.0", root=tmp_path).reasons == []
    with pytest.raises(UsageError, match=r"^0000:04:00\.0: no such PCI device; see lspci -D$"):
        inuse.look("0000:04:00.0", root=tmp_path)


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [Reason("up", "eth0", "eth0 is up"), Reason("vfs", "", "1 virtual function is enabled")]
    use = inuse.Use("0000:03:00.0", [inuse.Interface("eth0", 2)], reasons)
    monkeypatch.setattr(inuse, "look", lambda *_, **__: use)
    assert cli.main(["in-use", "03:00.0"]) == 2
    assert capsys.readouterr().out == (
        "0000:03:00.0: in use: eth0 is up\n0000:03:00.0: in use: 1 virtual function is enabled\n"
    )
    assert cli.main(["in-use", "03:00.0", "--force"]) == 0
    assert capsys.readouterr().out.startswith("0000:03:00.0: will be cut: eth0 is up\n")
    assert cli.main(["in-use", "03:00.0", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["reasons"][0] == {
        "kind": "up", "interface": "eth0", "text": "eth0 is up"
    }  # fmt: skip
    use.reasons.clear()
    assert cli.main(["in-use", "03:00.0"]) == 0
    assert capsys.readouterr().out == "0000:03:00.0: nobody uses eth0\n"
    assert cli.main(["in-use", "eth0"]) == 2
    assert capsys.readouterr().err == "ixy-vfio in-use: eth0: not a PCI address like 0000:03:00.0\n"
