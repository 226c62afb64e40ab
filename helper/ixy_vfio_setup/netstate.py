"""Reads all that is set at a network interface, before its NIC is taken. `netrestore` gives it back."""

import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ixy_vfio_setup import ethtool, netobjects
from ixy_vfio_setup.netlink import Netlink, pack, unpack
from ixy_vfio_setup.netobjects import INET6, Object

ROOT = Path("/")
NEWLINK, GETLINK, GETQDISC, GETACTION = 16, 18, 38, 50
IFF_UP, IFF_RUNNING = 1, 0x40
FLAGS = IFF_UP | 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000  # linux/if.h: can be set
LINK = {  # linux/if_link.h: attributes that are set as they are read, and have no file in sysfs
    1: "MAC address", 2: "broadcast address", 13: "transmit queue length", 17: "link mode", 40: "gso_max_segs",
    41: "gso_max_size", 58: "gro_max_size", 63: "gso_ipv4_max_size", 64: "gro_ipv4_max_size",
}  # fmt: skip
IFNAME, IFLA_LINK, LINKINFO, AF_SPEC, XDP, PROP_LIST, ALT_IFNAME, TOKEN = 3, 5, 18, 26, 43, 52, 53, 7
NETNSID = 37
PEERS = ("veth", "netkit")  # their IFLA_LINK names the other end, not what they stand on
NOT_SET = ("carrier", "flags", "uevent", "limit")  # files that are left alone: netlink sets it, or nobody does


@dataclass(slots=True)
class State:
    """What was found. It is kept as JSON, so bytes are in hexadecimal."""

    name: str = ""
    flags: int = 0
    link: dict[str, str] = field(default_factory=dict)  # attribute number -> value
    token: str = ""
    altnames: list[str] = field(default_factory=list)  # as bytes
    files: dict[str, str] = field(default_factory=dict)  # sysfs and sysctl, with @ for the interface's name
    ethtool: dict[str, dict[str, str]] = field(default_factory=dict)  # group -> attribute -> value
    objects: list[list[Any]] = field(default_factory=list)  # kind, message, seconds left, preferred, first
    names: dict[str, str] = field(default_factory=dict)  # index -> name of each interface that the objects name
    index: int = 0
    when: float = 0.0  # CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is now."""

    index: int
    flags: int
    attributes: dict[int, bytes]

    @property
    def name(self) -> str:
        """Its name; bytes that are no text are kept."""
        return os.fsdecode(self.attributes[IFNAME].rstrip(b"\0"))

    @property
    def kind(self) -> str:
        """Like vlan; "" for hardware."""
        found = dict(unpack(self.attributes.get(LINKINFO, b"")))
        return found.get(1, b"").rstrip(b"\0").decode(errors="replace")

    @property
    def altnames(self) -> list[bytes]:
        """Its other names."""
        found = unpack(self.attributes.get(PROP_LIST, b""))
        return [value.rstrip(b"\0") for kind, value in found if kind == ALT_IFNAME]

    @property
    def token(self) -> bytes:
        """The lower half of addresses that routers give, if it is fixed; else zeros."""
        for family, inner in unpack(self.attributes.get(AF_SPEC, b"")):
            if family == INET6:
                return dict(unpack(inner)).get(TOKEN, b"")
        return b""


def links(netlink: Netlink, index: int = 0) -> list[Link]:
    """The interfaces of this network namespace, or one of them."""
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    found = netlink.ask(GETLINK, body) if index else netlink.dump(GETLINK, body)
    numbers = ((*struct.unpack_from("=iI", message, 4), unpack(message[16:])) for message in found)
    return [Link(index, flags, dict(attributes)) for index, flags, attributes in numbers]


def change(netlink: Netlink, index: int, flags: int, mask: int, *attributes: tuple[int, bytes]) -> None:
    """Change the flags in `mask`, and what the attributes say. Raises OSError."""
    netlink.change(NEWLINK, struct.pack("=BxHiII", 0, 0, index, flags, mask) + pack(attributes))


def set_down(index: int) -> None:
    """Take the interface down."""
    with Netlink() as netlink:
        change(netlink, index, 0, IFF_UP)


def files(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Its files that can be written, in sysfs (with its queues) and among sysctls: name in State.files, path."""
    net = f"sys/class/net/{name}"
    for top in (net, f"{net}/queues/*", f"{net}/queues/*/byte_queue_limits"):
        yield from _writable(top, name, root)
    for top in ("conf", "neigh"):
        yield from _writable(f"proc/sys/net/*/{top}/{name}", name, root)


def _writable(pattern: str, name: str, root: Path) -> Iterator[tuple[str, Path]]:
    head, _, tail = pattern.partition(f"/{name}")  # a name may have characters that a pattern gives a meaning
    for parent in sorted(root.glob(head)):
        for directory in sorted((parent / name).glob(tail.lstrip("/"))) if tail else [parent / name]:
            for path in sorted(directory.iterdir()) if directory.is_dir() else []:
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_mode & 0o200 and path.name not in NOT_SET:
                    rest = path.relative_to(parent / name)
                    yield f"{parent.relative_to(root)}/@/{rest}", path


def text_of(path: Path) -> str | None:
    """What stands in a file; None if it cannot be read."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:  # the device has no such thing, or it is not set
        return None


def groups(name: str, root: Path) -> set[bytes]:
    """The link-layer groups that somebody added by hand: /proc/net/dev_mcast, global_use."""
    lines = [line.split() for line in (text_of(root / "proc/net/dev_mcast") or "").splitlines()]
    return {bytes.fromhex(words[4]) for words in lines if len(words) == 5 and words[1] == name and words[3] != "0"}


def save(index: int, root: Path = ROOT) -> State:
    """What is set now. Raises OSError."""
    with Netlink() as netlink:
        (link,) = links(netlink, index)
        names = {str(one.index): one.name for one in links(netlink)}
        state = State(link.name, link.flags, index=index, when=time.clock_gettime(time.CLOCK_BOOTTIME))
        state.link = {str(kind): link.attributes[kind].hex() for kind in LINK if kind in link.attributes}
        state.token = link.token.hex()
        state.ethtool = ethtool.save(index)
        state.altnames = [os.fsdecode(name) for name in link.altnames]
        state.files = {name: text for name, path in files(link.name, root) if (text := text_of(path)) is not None}
        objects = _in_order(netlink, netobjects.of_interface(netlink, index, groups(link.name, root)))
    for one, first in objects:
        state.objects.append([one.kind, one.message.hex(), one.left, one.preferred, first])
        state.names |= {str(hop): names[str(hop)] for hop in netobjects.hops(one) if str(hop) in names}
    return state


def _in_order(netlink: Netlink, objects: list[Object]) -> list[tuple[Object, bool]]:
    """In the order in which they are made. True: a route that comes before one of another interface to the same target.

    Such routes are made last, in reverse order.
    """
    mine = {one.key for one in objects}
    later, before = set(), []
    for route in reversed(netobjects.read(netlink, "route")):
        if route.key not in mine:
            later.add(netobjects.target(route))
        elif netobjects.target(route) in later:
            before.append(route)
    ahead = set(before)
    return [*((one, False) for one in objects if one not in ahead), *((one, True) for one in before)]


def uppers(index: int) -> list[str]:
    """Interfaces that stand on this one although sysfs does not show it, like tunnels made with `dev`."""
    if not index:
        return []  # it is gone
    with Netlink() as netlink:
        return [
            link.name
            for link in links(netlink)
            if struct.pack("=I", index) == link.attributes.get(IFLA_LINK)
            and NETNSID not in link.attributes
            and link.index != index
            and link.kind not in PEERS
        ]


def lost(index: int) -> list[str]:
    """What cannot be given back, one line each."""
    with Netlink() as netlink:
        (link,) = links(netlink, index)
        found = []
        try:
            queueing = netlink.dump(GETQDISC, struct.pack("=B3xiIII", 0, index, 0, 0, 0))
        except OSError:  # a kernel without traffic control
            queueing = []
        for message in queueing:
            number, handle = struct.unpack_from("=iI", message, 4)
            if number == index and handle:  # the kernel's own have none
                kind = dict(unpack(message[20:])).get(1, b"").rstrip(b"\0").decode(errors="replace")
                found.append(f"traffic control: qdisc {kind} {handle >> 16:x}: with its classes and filters")
        if dict(unpack(link.attributes.get(XDP, b""))).get(2, b"\0") != b"\0":
            found.append("the XDP program")
        for one in netobjects.of_interface(netlink, index, set()):
            if why := netobjects.unmakeable(one, bool(link.flags & IFF_UP)):
                found.append(f"{netobjects.shown(one)}: {why}")
        found += ethtool.lost(index, link.name)
        if index in redirected(netlink):
            found.append("traffic control of another interface that sends packets to it (mirred)")
    return found


def redirected(netlink: Netlink) -> set[int]:
    """The interfaces to which traffic control sends packets of others (linux/tc_act/tc_mirred.h)."""
    found = set()
    try:
        messages = netlink.dump(GETACTION, bytes(4) + pack([(1, pack([(1, pack([(1, b"mirred\0")]))]))]))
    except OSError:  # there are none
        return set()
    for message in messages:
        for kind, table in unpack(message[4:]):
            for _, action in unpack(table) if kind == 1 else []:
                parameters = dict(unpack(dict(unpack(action)).get(2, b""))).get(2, b"")
                if len(parameters) >= 28:
                    found.add(struct.unpack_from("=I", parameters, 24)[0])
    return found


def to_json(state: State) -> dict[str, Any]:
    """As the journal keeps it."""
    return asdict(state)


def from_json(fields: dict[str, Any]) -> State:
    """What `to_json` made."""
    return State(**fields)
