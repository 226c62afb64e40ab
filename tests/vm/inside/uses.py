"""Runs in a guest, as root: each way to use a NIC's interface, and what the helper and the full check say to it.

    uses.py ADDRESS

Prints a JSON object: name of the use -> [what `ixy-vfio-helper bind` says, what `ixy-vfio in-use` says]; or the reason
why this kernel cannot have that use.
"""

import json
import subprocess
import sys

from ixy_vfio_helper.kernel import PciDevice
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_setup import bind

from ixy_vfio.apps import inuse

SYSFS = "/sys/bus/pci/devices/$1"
UP, DOWN = "ip link set uplink0 up", "ip address flush dev uplink0; ip link set uplink0 down"
HOST = f"{UP}; ip address add 10.99.0.1/24 dev uplink0"
BOUND = (
    "import os, socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    's.setsockopt(1, 25, b"uplink0"); s.bind(("", 999)); open("/run/bound", "w").write(str(os.getpid())); '
    "time.sleep(60)"
)
USES = {  # name -> (how to begin it, how to end it)
    "nobody": (":", ":"),
    "up": (UP, DOWN),
    "address": (HOST, DOWN),
    "address6": (f"{UP}; ip address add fd99::1/64 dev uplink0 nodad", DOWN),
    "route": (f"{HOST}; ip route add 10.98.0.0/16 via 10.99.0.2", DOWN),
    "default route": (f"{HOST}; ip route add default via 10.99.0.2", DOWN),
    "default route6": (f"{UP}; ip -6 route add default dev uplink0 metric 7", DOWN),
    "ssh": (HOST, DOWN),
    "bond": ("ip link add bond0 type bond; ip link set uplink0 master bond0", "ip link delete bond0"),
    "bridge": ("ip link add br0 type bridge; ip link set uplink0 master br0", "ip link delete br0"),
    "team": ("ip link add team0 type team; ip link set uplink0 master team0", "ip link delete team0"),
    "vlan": ("ip link add link uplink0 name tagged type vlan id 5", "ip link delete tagged"),
    "macvlan": ("ip link add link uplink0 name inner type macvlan", "ip link delete inner"),
    "vxlan": ("ip link add up0 type vxlan id 42 dev uplink0 remote 10.99.0.2 dstport 4789", "ip link delete up0"),
    "macvtap": ("ip link add link uplink0 name up0 type macvtap", "ip link delete up0"),
    "ipvlan": ("ip link add link uplink0 name up0 type ipvlan", "ip link delete up0"),
    "macsec": ("ip link add link uplink0 name up0 type macsec", "ip link delete up0"),
    "vrf": ("ip link add up0 type vrf table 10; ip link set uplink0 master up0", "ip link delete up0"),
    "hsr": (
        "ip link add v0 type veth peer name v1; ip link add up0 type hsr slave1 uplink0 slave2 v0",
        "ip link delete up0; ip link delete v0",
    ),
    "gre": ("ip link add up0 type gre remote 10.99.0.2 dev uplink0", "ip link delete up0"),
    "sit by address": (
        f"{HOST}; ip link add up0 type sit remote 192.0.2.1 local 10.99.0.1",
        f"ip link delete up0; {DOWN}",
    ),
    "ipip by its way": (f"{HOST}; ip link add up0 type ipip remote 10.99.0.2", f"ip link delete up0; {DOWN}"),
    "geneve by its way": (f"{HOST}; ip link add up0 type geneve id 7 remote 10.99.0.2", f"ip link delete up0; {DOWN}"),
    "mirred": (
        "tc qdisc add dev lo clsact; tc filter add dev lo egress matchall action mirred egress redirect dev uplink0",
        "tc qdisc delete dev lo clsact",
    ),
    "socket": (
        f"{UP}; {sys.executable} -c '{BOUND}' > /dev/null 2>&1 & until grep -q . /run/bound; do sleep 0.1; done",
        f"kill $(cat /run/bound); rm /run/bound; {DOWN}",
    ),
    "namespace": (
        "ip netns add blue; ip link set uplink0 netns blue",
        "ip -n blue link set uplink0 netns 1; ip netns delete blue",
    ),
    "vfs": (f"echo 2 > {SYSFS}/sriov_numvfs", f"echo 0 > {SYSFS}/sriov_numvfs"),
}


def shell(command: str, address: str) -> str:
    """Run it; what it complained about if it failed."""
    done = subprocess.run(
        ["sh", "-ec", command, "sh", address], capture_output=True, text=True, timeout=60, check=False
    )
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""


def told(address: str, ssh: str) -> list[object]:
    """By the helper, then by the full check."""
    try:
        bind.check(PciDevice(address), other=True)
        said = ""
    except Refusal as refusal:
        said = str(refusal).removeprefix(f"{address}: ")
    return [said, [reason.text for reason in inuse.look(address, ssh).reasons if "fe80::" not in reason.text]]


def main(address: str) -> None:
    """All of them, one after the other."""
    (now,) = bind._interfaces(PciDevice(address))
    shell(f"ip link set {now.name} down; ip address flush dev {now.name}", address)
    if now.name != "uplink0":
        shell(f"ip link set {now.name} name uplink0", address)
    result: dict[str, object] = {}
    for name, (begin, end) in USES.items():
        problem = shell(begin, address)
        result[name] = problem or told(address, "10.99.0.2 4711 10.99.0.1 22" if name == "ssh" else "")
        shell(end, address)
        shell(DOWN, address)
    shell(f"ip link set uplink0 name {now.name}", address)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
