"""Addresses, nexthops, routes and neighbours of an interface, in the form in which they are compared and given back.

The kernel's message is kept, without what the kernel derives by itself. So attributes that nobody here knows are given
back, too. Layouts: linux/rtnetlink.h, if_addr.h, nexthop.h, neighbour.h.
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ixy_vfio_setup.netlink import APPEND, CREATE, EXCL, REPLACE, Netlink, pack, unpack

INET, INET6, BRIDGE = 2, 10, 7
FOREVER = 0xFFFFFFFF
GONE = 0x7FFFFFFF
KERNEL = 2  # RTPROT_KERNEL
ADDR_TEMPORARY, ADDR_STABLE_PRIVACY = 0x01, 0x800  # of IPv6; in IPv4 0x01 says secondary
ADDR_KEPT = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400  # nodad, optimistic, home, mngtmpaddr, noprefixroute, autojoin
ROUTE_KEPT, CLONED = 0x2 | 0x4, 0x200  # pervasive and onlink; an entry of the cache
PERMANENT, NOARP, STALE = 0x80, 0x40, 0x04
SELF, PROXY, EXT_LEARNED, MANAGED = 0x02, 0x08, 0x10, 0x01
Index = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Object:
    """One address, nexthop, route or neighbour. Two are the same if their kind and message are."""

    kind: str
    message: bytes
    left: int = FOREVER  # seconds until it expires
    preferred: int = FOREVER  # seconds that an address is preferred

    @property
    def key(self) -> tuple[str, bytes]:
        """Two objects with the same key are the same."""
        return self.kind, self.message

    @property
    def family(self) -> int:
        """Of addresses: AF_INET, AF_INET6."""
        return self.message[0]

    @property
    def attributes(self) -> dict[int, bytes]:
        """What follows the header."""
        return dict(unpack(self.message[SIZES[self.kind] :]))


SIZES = {"address": 8, "nexthop": 8, "route": 12, "neighbour": 12}
NEW = {"address": 20, "nexthop": 104, "route": 24, "neighbour": 28}  # RTM_NEW...; one more deletes, two more dump


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _address(message: bytes, to: Index) -> Object:
    family, bits, flags, scope, index = struct.unpack_from("=BBBBI", message)
    found = dict(unpack(message[8:]))
    preferred, valid = struct.unpack_from("=II", found.pop(6, _u32(FOREVER) * 2))  # IFA_CACHEINFO
    flags = _number(found.pop(8, bytes([flags])))  # IFA_FLAGS
    kept = flags & ADDR_KEPT
    if family == INET6:
        kept |= flags & (ADDR_TEMPORARY | ADDR_STABLE_PRIVACY)
    header = struct.pack("=BBBBI", family, bits, 0, scope, to(index))
    return Object("address", header + pack(sorted({**found, 8: _u32(kept)}.items())), valid, preferred)


def _hops(data: bytes, to: Index, family: int) -> bytes:
    """RTA_MULTIPATH: a list of struct rtnexthop, each with attributes. In IPv6 their order means nothing."""
    found = []
    while len(data) >= 8:
        length, flags, weight, index = struct.unpack_from("=HBBi", data)
        inner = pack(sorted(unpack(data[8:length])))
        found.append(struct.pack("=HBBi", 8 + len(inner), flags & ROUTE_KEPT, weight, to(index)) + inner)
        data = data[length + 3 & ~3 :]
    return b"".join(sorted(found) if family == INET6 else found)


def _route(message: bytes, to: Index) -> Object:
    flags = struct.unpack_from("=I", message, 8)[0]
    found = dict(unpack(message[12:]))
    expires = struct.unpack_from("=i", found.pop(12), 8)[0] if 12 in found else 0  # RTA_CACHEINFO, in 1/100 s
    if 30 in found:  # RTA_NH_ID: these attributes repeat what the nexthop says
        for repeated in (4, 5, 9, 18, 21, 22):  # OIF, GATEWAY, MULTIPATH, VIA, ENCAP_TYPE, ENCAP
            found.pop(repeated, None)
    if 4 in found:
        found[4] = _u32(to(_number(found[4])))
    if 9 in found:
        found[9] = _hops(found[9], to, message[0])
    if 8 in found:  # RTA_METRICS
        found[8] = pack(sorted(unpack(found[8])))
    header = message[:8] + _u32(flags & ROUTE_KEPT)
    return Object("route", header + pack(sorted(found.items())), expires // 100 if expires > 0 else FOREVER)


def _nexthop(message: bytes, to: Index) -> Object:
    family, _, protocol, _, flags = struct.unpack_from("=BBBBI", message)
    found = {kind: value for kind, value in unpack(message[8:]) if kind <= 12}  # later ones are counters
    if 5 in found:  # NHA_OIF
        found[5] = _u32(to(_number(found[5])))
    if 12 in found:  # NHA_RES_GROUP: buckets and timers are settings
        found[12] = pack((kind, value) for kind, value in unpack(found[12]) if kind in (1, 2, 3))
    header = struct.pack("=BBBBI", family, 0, protocol, 0, flags & ROUTE_KEPT)
    return Object("nexthop", header + pack(sorted(found.items())))


def _neighbour(message: bytes, to: Index) -> Object:
    family, index, state, flags, _ = struct.unpack_from("=BxxxiHBB", message)
    found = {kind: value for kind, value in unpack(message[12:]) if kind not in (3, 4, 9)}  # CACHEINFO, PROBES, MASTER
    if _number(found.get(15, b"")) & MANAGED:  # NDA_FLAGS_EXT: the kernel resolves it by itself
        state = 0
        found.pop(2, None)
    elif flags & EXT_LEARNED and not state & (PERMANENT | NOARP):
        state = STALE
    header = struct.pack("=BxxxiHBB", family, to(index), state, flags, 0)
    return Object("neighbour", header + pack(sorted(found.items())))


FORMS = {"address": _address, "nexthop": _nexthop, "route": _route, "neighbour": _neighbour}


def translated(kind: str, message: bytes, indexes: Mapping[int, int], left: int, preferred: int) -> Object:
    """A kept object, with today's interface indexes (`indexes`: then -> now; an interface that is gone is GONE)."""
    form = FORMS[kind](message, lambda index: indexes.get(index, GONE) if index else 0)
    return Object(kind, form.message, left, preferred)


def read(netlink: Netlink, kind: str) -> list[Object]:
    """All objects of a kind in this network namespace, in the kernel's order."""
    form = partial(FORMS[kind], to=lambda index: index)
    bodies = [bytes([family]) + bytes(SIZES[kind] - 1) for family in (INET, INET6)]
    if kind == "nexthop":
        bodies = [bytes(8)]
    if kind == "neighbour":
        bodies = [bytes(12), struct.pack("=BxxxiHBB", 0, 0, 0, PROXY, 0), bytes([BRIDGE]) + bytes(11)]
    found = []
    for body in bodies:
        try:
            messages = netlink.dump(NEW[kind] + 2, body)
        except OSError:  # a kernel without IPv6, nexthops or bridges
            continue
        for message in messages:
            if kind != "route" or not struct.unpack_from("=I", message, 8)[0] & CLONED:
                found.append(form(message))
    return found


def hops(found: Object) -> set[int]:
    """The interfaces that a route or nexthop leads to, or that an address or neighbour is of."""
    if found.kind in ("address", "neighbour"):
        return {struct.unpack_from("=i", found.message, 4)[0]}
    attributes = found.attributes
    if found.kind == "nexthop":
        return {_number(attributes[5])} if 5 in attributes else set()
    indexes = {_number(attributes[4])} if 4 in attributes else set()
    data = attributes.get(9, b"")
    while len(data) >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", data)
        indexes.add(index)
        data = data[length + 3 & ~3 :]
    return indexes


def local(address: Object) -> bytes:
    """The address itself, not the peer's."""
    return address.attributes.get(2) or address.attributes.get(1, b"")


def _lasting(neighbour: Object, groups: Collection[bytes]) -> bool:
    """Whether somebody set it. What the kernel learned or joined by itself comes again when it is needed."""
    family, _, state, flags, _ = struct.unpack_from("=BxxxiHBB", neighbour.message)
    attributes = neighbour.attributes
    if family == BRIDGE:
        link = attributes.get(2, b"\0")
        return bool(flags & SELF and state & PERMANENT and (not link[0] & 1 or link in groups))
    target = attributes.get(1, b"")
    multicast = target[:1] == b"\xff" if len(target) == 16 else target[:1] >= b"\xe0"
    noarp = bool(state & NOARP) and not multicast
    return bool(
        state & PERMANENT or noarp or flags & (PROXY | EXT_LEARNED) or _number(attributes.get(15, b"")) & MANAGED
    )


def of_interface(netlink: Netlink, index: int, groups: Collection[bytes]) -> list[Object]:
    """What is lost with an interface, in the order in which it can be made. `groups`: of netstate.groups."""
    addresses = [found for found in read(netlink, "address") if index in hops(found)]
    mine = {local(found) for found in addresses}
    # The kernel puts a new IPv6 address before the others, so they are made in reverse order.
    addresses = [one for one in addresses if one.family == INET] + [
        one for one in addresses[::-1] if one.family != INET
    ]
    nexthops = read(netlink, "nexthop")
    ids = {_number(found.attributes[1]) for found in nexthops if index in hops(found)}
    groups_of = [found for found in nexthops if {_number(m) for m in _members(found)} & ids]
    ids |= {_number(found.attributes[1]) for found in groups_of}
    routes = [
        found
        for found in read(netlink, "route")
        if index in hops(found)
        or found.attributes.get(7) in mine  # RTA_PREFSRC: lost with the address, also if it leads by another interface
        or (30 in found.attributes and _number(found.attributes[30]) in ids)
    ]
    neighbours = [one for one in read(netlink, "neighbour") if index in hops(one) and _lasting(one, groups)]
    return [*addresses, *(one for one in nexthops if index in hops(one)), *groups_of, *routes, *neighbours]


def _members(nexthop: Object) -> Iterable[bytes]:
    group = nexthop.attributes.get(2, b"")  # NHA_GROUP
    return [group[at : at + 4] for at in range(0, len(group), 8)]


def _body(found: Object) -> bytes:
    extra = {}
    if found.kind == "address":
        if (found.left, found.preferred) != (FOREVER, FOREVER):
            extra[6] = struct.pack("=IIII", min(found.preferred, found.left), found.left, 0, 0)
    elif found.left != FOREVER:
        extra[23] = _u32(found.left)  # RTA_EXPIRES
    return found.message + pack(extra.items())


def make(netlink: Netlink, found: Object, now: Collection[tuple[str, bytes]], index: int, first: bool) -> None:
    """Make it again, for the interface `index`; a route that is `first` comes before its rivals. Raises OSError.

    `now`: keys of the routes that there are.
    """
    flags, attributes = CREATE | EXCL, found.attributes
    if found.kind == "nexthop":
        flags = CREATE | REPLACE  # a group may still be there, without this member
    elif found.kind == "route" and found.family == INET:
        flags = CREATE if first else CREATE | APPEND
    elif found.kind == "route":
        flags = CREATE | APPEND
        without = {kind: value for kind, value in attributes.items() if kind != 7}
        if 7 in attributes and ("route", found.message[:12] + pack(without.items())) in now:
            flags = CREATE | REPLACE  # an IPv6 route stays when its source address is removed, but loses it
        if 9 in attributes:  # RTA_MULTIPATH: the hops by other interfaces have stayed
            attributes[9] = _ways(attributes[9], index)
            found = replace(found, message=found.message[:12] + pack(attributes.items()))
    netlink.change(NEW[found.kind], _body(found), flags)


def _ways(data: bytes, index: int) -> bytes:
    found = b""
    while len(data) >= 8:
        length, _, _, oif = struct.unpack_from("=HBBi", data)
        found += data[:length] if oif == index else b""
        data = data[length + 3 & ~3 :]
    return found


def remove(netlink: Netlink, found: Object) -> None:
    """Remove it. Raises OSError."""
    netlink.change(NEW[found.kind] + 1, found.message)


def target(route: Object) -> tuple[bytes, ...]:
    """Two routes are rivals if this is the same: family, lengths, TOS; then table, destination, source and metric."""
    attributes = route.attributes
    return (route.message[:4], *(attributes.get(kind, b"") for kind in (15, 1, 2, 6)))


def kernels(found: Object) -> bool:
    """Whether the kernel makes it by itself."""
    if found.kind == "route":
        return found.message[5] == KERNEL
    return found.kind == "address" and found.family == INET6 and _number(found.attributes.get(11, b"")) in (1, 2, 3)


def unmakeable(found: Object, up: bool) -> str:
    """Why it cannot be made again, for an interface that was `up` or was not; "" if it can."""
    if found.kind == "route" and 9 in found.attributes and not up:
        return "its interface is down, and the kernel makes such a route for one that is up"
    if found.kind != "address" or settable(found):
        return ""
    if _number(found.attributes[8]) & ADDR_TEMPORARY:
        return "it is temporary, and the kernel makes another"
    return "" if local(found)[:1] == b"\xfe" else "it comes again with the router's next advertisement"


def settable(found: Object) -> bool:
    """Whether others than the kernel can make it."""
    flags = _number(found.attributes[8]) if found.kind == "address" else 0
    return not flags & (ADDR_TEMPORARY | ADDR_STABLE_PRIVACY)


def shown(found: Object) -> str:
    """In words."""
    attributes = found.attributes
    width = {INET: 32, INET6: 128}.get(found.family, 0)

    def address(kind: int) -> str:
        data = attributes.get(kind, b"")
        return socket.inet_ntop(found.family, data) if width and len(data) * 8 == width else data.hex(":")

    if found.kind == "address":
        return f"the address {address(2 if 2 in attributes else 1)}/{found.message[1]}"
    if found.kind == "nexthop":
        return f"the nexthop {_number(attributes[1])}"
    if found.kind == "neighbour":
        return f"the neighbour {address(1) or attributes.get(2, b'').hex(':')}"
    to = f"{address(1)}/{found.message[1]}" if 1 in attributes else "default"
    via = f" via {address(5)}" if 5 in attributes else ""
    return f"the route to {to}{via} in table {_number(attributes.get(15, found.message[4:5]))}"
