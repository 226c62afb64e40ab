"""What was set at an interface comes back to the one that takes its place: in network namespaces, made without root."""

import errno
import os
import subprocess

import pytest
from ixy_vfio_setup import netlink, netstate

from tests import netstates

POLICY_ROUTING = """\
ip link set o1 up; ip addr add 192.168.50.2/24 dev o1; ip route add default via 192.168.50.1 dev o1
ip link set nic up; ip addr add 10.1.0.1/24 dev nic
ip route add default via 10.1.0.254 dev nic table 100; ip rule add from 10.1.0.1 table 100
ip addr add 10.2.0.1 peer 10.2.0.9/32 dev nic; ip addr add fd01::1/64 dev nic nodad
ip route add 10.8.0.0/16 via inet6 fd01::9 dev nic; ip route append 10.9.0.0/16 dev o1
ip route prepend 10.9.0.0/16 dev nic
"""  # the machine's default route is by another interface


@pytest.fixture(autouse=True, scope="module")
def _namespaces() -> None:
    try:
        subprocess.run(["unshare", "--user", "--map-root-user", "--net", "--mount", "true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces for this user: {error}")


def test_policy_routing_peers_and_gateways_of_the_other_family() -> None:
    assert netstates.namespaced("script", script=POLICY_ROUTING) == {}


def test_what_is_not_given_back_is_seen() -> None:
    """The judge judges: only the name comes back."""
    found = netstates.namespaced("script", "forget", script=POLICY_ROUTING)["script"]["differences"]
    for word in ('routes -4: lost {"dev": "nic", "dst": "default"', '"table": "100"', '"local": "10.2.0.1"',
                 '"host": "fd01::9"', "flags: lost UP"):  # fmt: skip
        assert any(word in line for line in found), (word, found)


def test_generated_states() -> None:
    assert netstates.namespaced("1", "3") == {}


def test_a_kernel_without_traffic_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses to be asked for what it cannot have: nothing of it is lost, and a bind does not fail."""
    dump = netlink.Netlink.dump
    asked = []

    def without(self: netlink.Netlink, kind: int, body: bytes) -> list[bytes]:
        if kind in (netstate.GETQDISC, netstate.GETACTION):
            asked.append(kind)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return dump(self, kind, body)

    monkeypatch.setattr(netlink.Netlink, "dump", without)
    assert [line for line in netstate.lost(1) if "traffic control" in line] == []  # 1: the loopback interface
    assert asked == [netstate.GETQDISC, netstate.GETACTION]
