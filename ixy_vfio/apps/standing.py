"""What stands on a network interface: bonds, VLANs, tunnels, sockets and traffic control, as netlink and sysfs tell.

There is no list of kinds. Two interfaces are joined when the kernel says so in one of these ways: sysfs (`upper_NAME`,
made for every kind that registers what it stands on), IFLA_MASTER, IFLA_LINK, or an attribute of the kind's own that is
named `..._LINK`. A tunnel is joined by its own address (`..._LOCAL`), or by the way to its other end (`..._REMOTE`,
`..._GROUP`).
"""

import ipaddress
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixy_vfio_setup import netstate
from ixy_vfio_setup.netlink import Netlink, unpack

IFF_UP = 1  # linux/if.h
PEERS = ("veth", "netkit")  # their IFLA_LINK names the other end, not what they stand on
SOCK_DIAG = 4  # a family of netlink
DIAG_BY_FAMILY, AF_XDP = 20, 44
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Reason:
    """One use of an interface, told in one line; `kind` is a word for programs."""

    kind: str
    interface: str
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    kind: str  # bond, vlan, ...; "" for hardware
    up: bool
    master: int
    lower: frozenset[int]  # what it stands on
    elsewhere: int | None  # the namespace that `lower` counts in, by its number here; None: this one
    parent: str  # of a PCI device: its address
    xdp: bool
    local: frozenset[Address]  # of a tunnel: its ends
    remote: frozenset[Address]
    unknown: frozenset[bytes]  # of a kind that pyroute2 does not know: values that may be addresses

    def text(self) -> str:
        """Name and kind."""
        return f"{self.name} ({self.kind or 'hardware'})"


def address(text: str) -> Address | None:
    """An address as sshd writes it: perhaps with a zone, perhaps IPv4 in IPv6. None if it is none, or no one's."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    found = getattr(found, "ipv4_mapped", None) or found
    return None if found.is_unspecified else found


def link(message: Any) -> Link:
    """An interface as pyroute2 decodes it."""
    info = message.get_attr("IFLA_LINKINFO")
    xdp = message.get_attr("IFLA_XDP")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    own: list[tuple[str, Any]] = data["attrs"] if isinstance(data, dict) else []

    def ends(*words: str) -> frozenset[Address]:
        named = (address(str(value)) for name, value in own if name.rstrip("6").endswith(words))
        return frozenset(found for found in named if found)

    lower = {message.get_attr("IFLA_LINK") or 0}
    lower |= {value for name, value in own if name.endswith("_LINK") and isinstance(value, int)}
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
        up=bool(message["flags"] & IFF_UP),
        master=message.get_attr("IFLA_MASTER") or 0,
        lower=frozenset(lower - {0}),
        elsewhere=message.get_attr("IFLA_LINK_NETNSID"),
        parent=message.get_attr("IFLA_PARENT_DEV_NAME") or "",
        xdp=bool(xdp and xdp.get_attr("IFLA_XDP_ATTACHED")),
        local=ends("_LOCAL"),
        remote=ends("_REMOTE", "_GROUP"),
        unknown=_values(data) if isinstance(data, str) else frozenset(),
    )


def _values(text: str) -> frozenset[bytes]:
    try:
        return frozenset(value for _, value in unpack(bytes.fromhex(text.replace(":", ""))))
    except ValueError:
        return frozenset()


def _registered(one: Link, root: Path) -> set[str]:
    """The names that sysfs has above an interface, if it is of the namespace that we are in."""
    path = root / "sys/class/net" / one.name
    try:
        if int((path / "ifindex").read_text()) != one.index:
            return set()
        return {name.partition("_")[2] for name in os.listdir(path) if name.startswith("upper_")}
    except (OSError, ValueError):
        return set()


def above(ours: list[Link], links: dict[int, Link], root: Path = Path("/")) -> tuple[list[Link], list[Reason]]:
    """Every interface that stands on one of `ours`, however high, and the reasons that this makes."""
    found, reasons, queue = list(ours), [], list(ours)
    while queue:
        one = queue.pop(0)
        higher = []
        if one.master in links:
            master = links[one.master]
            reasons.append(Reason("master", one.name, f"{one.name} is part of {master.text()}"))
            higher.append(master)
        registered = _registered(one, root)
        for upper in links.values():
            joined = one.index in upper.lower and upper.elsewhere is None and upper.kind not in PEERS
            if (joined or upper.name in registered) and upper.index not in (one.index, one.master):
                reasons.append(Reason("upper", one.name, f"{upper.text()} stands on {one.name}"))
                higher.append(upper)
        for upper in higher:
            if upper not in found:
                found.append(upper)
                queue.append(upper)
    return found[len(ours) :], reasons


def tunnels(
    used: dict[int, Link], links: dict[int, Link], addresses: Iterable[tuple[int, str]], way: Callable[[str], int]
) -> list[Reason]:
    """Tunnels that have one of these interfaces' addresses, or whose packets leave by one (`way`: to an address)."""
    reasons = []
    mine = {found: used[index] for index, text in addresses if index in used and (found := address(text))}
    for one in links.values():
        if one.index in used:
            continue
        ends = [end for end in mine if end in one.local or end.packed in one.unknown]
        reasons += [
            Reason("tunnel", mine[end].name, f"{one.text()} uses the address {end} of {mine[end].name}") for end in ends
        ]
        for end in sorted(one.remote, key=str) if not ends else ():
            if (by := way(str(end))) in used:
                reasons.append(
                    Reason("tunnel", used[by].name, f"{one.text()} reaches its other end {end} by {used[by].name}")
                )
    return reasons


def _dump(protocol: int, kind: int, body: bytes) -> list[bytes]:
    try:
        with Netlink(protocol) as netlink:
            return netlink.dump(kind, body)
    except OSError:  # this kernel has no such thing
        return []


def _xsk() -> set[int]:
    """The interfaces that AF_XDP sockets are bound to (linux/xdp_diag.h)."""
    messages = _dump(SOCK_DIAG, DIAG_BY_FAMILY, struct.pack("=BBHIIII", AF_XDP, 0, 0, 0, 1, 0, 0))
    infos = [dict(unpack(message[16:])).get(0, b"") for message in messages]
    return {struct.unpack_from("=I", info)[0] for info in infos if len(info) >= 4}


def _bound() -> set[int]:
    """The interfaces that TCP and UDP sockets are bound to (linux/inet_diag.h)."""
    found = set()
    for family in (2, 10):
        for protocol in (6, 17):
            body = struct.pack("=BBBxI48x", family, protocol, 0, 0xFFFFFFFF)
            messages = _dump(SOCK_DIAG, DIAG_BY_FAMILY, body)
            found |= {struct.unpack_from("=I", message, 40)[0] for message in messages}
    return found


def sockets(ours: list[Link]) -> list[Reason]:
    """What the kernel shows of programs, and of other interfaces' rules, that need these interfaces."""
    try:
        packets = [line.split() for line in Path("/proc/self/net/packet").read_text().splitlines()[1:]]  # packet(7)
    except OSError:
        packets = []
    with Netlink() as netlink:
        redirected = netstate.redirected(netlink)
    uses = (
        ("packet", {int(words[4]) for words in packets}, "a packet socket (a capture, a DHCP client) listens on"),
        ("socket", _bound(), "a TCP or UDP socket is bound to"),
        ("xsk", _xsk(), "an AF_XDP socket is bound to"),
        ("redirect", redirected, "traffic control sends packets of another interface (mirred) to"),
    )
    return [
        Reason(kind, one.name, f"{text} {one.name}") for one in ours for kind, found, text in uses if one.index in found
    ]
