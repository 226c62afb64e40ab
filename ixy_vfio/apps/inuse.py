"""`ixy-vfio in-use`: who needs the network interface of a NIC, before the NIC is taken away from the kernel.

Looks once, by netlink and sysfs, without any privilege, and changes nothing. `scripts/setup` runs it before it
touches the machine, and again in each other network namespace (with `--home` and `--below`, see `Home`).
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ixy_vfio_helper.shown import shown
from ixy_vfio_setup import netstate

from ixy_vfio.apps import standing
from ixy_vfio.apps.standing import Link, Reason
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.options import number, pci_address

NO_INTERFACE = ("", "vfio-pci", "pci-stub", "uio_pci_generic", "igb_uio")  # drivers that make no network interface
PROTO_KERNEL, TYPE_UNICAST, TABLE_MAIN, TABLE_LOCAL = 2, 1, 254, 255  # linux/rtnetlink.h


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the NIC."""

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Use:
    """What was found in one network namespace."""

    address: str
    interfaces: list[Interface]
    reasons: list[Reason]
    lost: list[str] = field(default_factory=list)  # what cannot be given back after the NIC was away


@dataclass(frozen=True, slots=True)
class Home:
    """The namespace that the NIC was looked for first: an open fd of it, and the indexes of the NIC's interfaces there.

    An interface of this namespace may stand on one of those, like a container's macvlan.
    """

    fd: int
    below: frozenset[int]


def look(address: str, ssh: str = "", root: Path = Path("/"), home: Home | None = None) -> Use:
    """What uses the NIC at `address`, as far as this network namespace shows. `ssh` is $SSH_CONNECTION.

    Raises UsageError when there is no such device.
    """
    path = root / "sys/bus/pci/devices" / address
    if not path.is_dir():
        raise UsageError(f"{address}: no such PCI device; see lspci -D")
    net = [*path.glob("net/*"), *path.glob("virtio*/net/*")]
    parents = {address, *(child.name for child in path.glob("virtio*"))}
    use = look_at([entry.name for entry in net], ssh, parents, home)
    reasons = list(use.reasons)
    vfs = _text(path / "sriov_numvfs") or "0"
    if vfs != "0":
        reasons.append(Reason("vfs", "", f"{vfs} virtual function{'s are' if vfs != '1' else ' is'} enabled"))
    driver = os.path.basename(os.readlink(path / "driver")) if (path / "driver").is_symlink() else ""
    if not use.interfaces and not home and driver not in NO_INTERFACE:
        named = sorted(entry.name for entry in (root / "run/netns").glob("*"))
        hint = f" (perhaps {' '.join(named)}; see ip netns)" if named else ""
        reasons.append(
            Reason("namespace", "", f"driver {driver} has it, but its interface is in another network namespace{hint}")
        )
    return Use(address, use.interfaces, reasons, use.lost)


def look_at(names: Sequence[str], ssh: str = "", parents: set[str] | None = None, home: Home | None = None) -> Use:
    """What uses these interfaces and those whose parent device is one of `parents`."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        links = {link.index: link for link in map(standing.link, netlink.get_links())}
        ours = [
            link for link in links.values() if link.name in names or (link.parent and link.parent in (parents or ()))
        ]
        reasons: list[Reason] = []
        foreign = _standing_on_home(netlink, links, home) if home else []
        for link in foreign:
            reasons.append(Reason("upper", link.name, f"{link.text()} stands on it"))
        above, told = standing.above([*ours, *foreign], links)
        reasons += told
        used = {link.index: link for link in (*ours, *foreign, *above)}
        addresses, routes = list(netlink.get_addr()), list(netlink.get_routes())
        answers = _way(netlink, ssh.split()[0]) if ssh.split() else 0
        held = [(message["index"], _local(message)) for message in addresses]
        tunnels = standing.tunnels(used, links, held, lambda end: _way(netlink, end))
    for link in used.values():
        if link in ours:
            reasons += _own(link)
        reasons += _addresses(link, addresses, ssh)
        reasons += _routes(link, routes)
        if link.index == answers:
            reasons.append(Reason("ssh", link.name, f"the answers to this SSH session go out by {link.name}"))
    reasons += [*tunnels, *standing.sockets(ours)]
    lost = [f"{link.name}: {line}" for link in ours for line in netstate.lost(link.index)]
    return Use("", [Interface(link.name, link.index) for link in ours], reasons, lost)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _standing_on_home(netlink: Any, links: dict[int, Link], home: Home) -> list[Link]:
    """The interfaces of this namespace that stand on the NIC's, which is in another."""
    number = (netlink.get_netnsid(fd=home.fd) or {}).get("nsid")
    return [
        link
        for link in links.values()
        if link.lower & home.below
        and link.elsewhere is not None
        and link.elsewhere == number
        and link.kind not in standing.PEERS
    ]


def _own(link: Link) -> list[Reason]:
    """The uses that show at the NIC's own interface."""
    reasons = []
    if link.up:
        reasons.append(Reason("up", link.name, f"{link.name} is up"))
    if link.xdp:
        reasons.append(Reason("xdp", link.name, f"an XDP program is attached to {link.name}"))
    return reasons


def _local(message: Any) -> str:
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _addresses(link: Link, messages: list[Any], ssh: str) -> list[Reason]:
    words = ssh.split()  # client's address and port, ours
    session = standing.address(words[2]) if len(words) == 4 else None
    reasons = []
    for message in messages:
        if message["index"] == link.index:
            text = _local(message)
            reasons.append(Reason("address", link.name, f"{link.name} has the address {text}/{message['prefixlen']}"))
            if session is not None and session == standing.address(text):
                reasons.append(Reason("ssh", link.name, f"this SSH session came in by {link.name} ({text})"))
    return reasons


def _hops(message: Any) -> list[tuple[int, str]]:
    """Where a route leads: (index of the interface, gateway or "")."""
    several = message.get_attr("RTA_MULTIPATH")
    if several:
        return [(hop["oif"], _gateway(hop)) for hop in several]
    return [(message.get_attr("RTA_OIF") or 0, _gateway(message))]


def _gateway(message: Any) -> str:
    """Of the route's family, or of another one."""
    return str(message.get_attr("RTA_GATEWAY") or (message.get_attr("RTA_VIA") or {}).get("addr", ""))


def _destination(message: Any) -> str:
    target = message.get_attr("RTA_DST")
    return f"{target}/{message['dst_len']}" if target else "default"


def _routes(link: Link, messages: list[Any]) -> list[Reason]:
    reasons = []
    for message in messages:
        if message["type"] != TYPE_UNICAST or message["table"] == TABLE_LOCAL or message["proto"] == PROTO_KERNEL:
            continue  # what goes with an address by itself
        for index, gateway in _hops(message):
            if index == link.index:
                family, target = "IPv6" if message["family"] == 10 else "IPv4", _destination(message)
                what = f"the {family} default route" if target == "default" else f"the route to {target}"
                kind = "default-route" if target == "default" else "route"
                via = f" via {gateway}" if gateway else ""
                table = message.get_attr("RTA_TABLE") or message["table"]
                where = f" in table {table}" if table != TABLE_MAIN else ""
                reasons.append(Reason(kind, link.name, f"{link.name} carries {what}{via}{where}"))
    return reasons


def _way(netlink: Any, to: str) -> int:
    """The interface by which packets leave to there; 0 when nobody knows."""
    target = standing.address(to)
    if target is None:
        return 0
    try:
        found = list(netlink.route("get", dst=str(target)))
    except Exception:  # unreachable: netlink's errors have classes of their own
        return 0
    return (found[0].get_attr("RTA_OIF") or 0) if found else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("device", metavar="DEV", help="PCI address, like 03:00.0")
    parser.add_argument("--force", action="store_true", help="do not refuse: tell what will be cut")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--home", type=number(0, 2**31 - 1), metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument(
        "--below", type=number(1, 2**31 - 1), action="append", default=[], metavar="INDEX", help=argparse.SUPPRESS
    )


def run(arguments: argparse.Namespace) -> int:
    """Print every reason, one a line. 0: nobody uses it, or --force; 2: in use."""
    address = pci_address(arguments.device)
    home = None if arguments.home is None else Home(arguments.home, frozenset(arguments.below))
    use = look(address, os.environ.get("SSH_CONNECTION", ""), home=home)
    if arguments.json:
        print(json.dumps(asdict(use), indent=2))
    else:
        for reason in use.reasons:
            print(f"{address}: {'will be cut: ' if arguments.force else 'in use: '}{shown(reason.text)}")
        for line in use.lost:
            print(f"{address}: cannot be given back: {shown(line)}")
        if not use.reasons:
            names = " ".join(interface.name for interface in use.interfaces)
            print(f"{address}: nobody uses {shown(names) or 'it'}")
    return 2 if use.reasons and not arguments.force else 0


if __name__ == "__main__":
    import sys

    from ixy_vfio.core.errors import IxyError

    parser = argparse.ArgumentParser(prog="in-use")
    add_arguments(parser)
    try:
        sys.exit(run(parser.parse_args()))
    except IxyError as error:
        print(f"in-use: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
