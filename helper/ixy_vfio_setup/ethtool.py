"""Settings of ethtool(8), by its netlink family. Only what differs from before is set again.

Numbers: linux/ethtool_netlink.h; Documentation/networking/ethtool-netlink.rst.
"""

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

from ixy_vfio_setup.netlink import NESTED, Netlink, pack, unpack

GENERIC, CONTROL, GETFAMILY, FAMILY_NAME, FAMILY_ID = 16, 16, 3, 2, 1  # linux/netlink.h, linux/genetlink.h
HEADER, COMPACT = 1, 1
SIOCETHTOOL, GRXCLSRLCNT = 0x8946, 0x2E
RSS_GET = 38


@dataclass(frozen=True, slots=True)
class Kind:
    """A group of settings: the number of the command that gets it, and its attributes that can be set.

    The command that sets it has the next number.
    """

    get: int
    settable: frozenset[int]
    bitsets: frozenset[int] = frozenset()


def _kind(get: int, first: int, last: int, *bitsets: int) -> Kind:
    return Kind(get, frozenset(range(first, last + 1)), frozenset(bitsets))


KINDS = {
    "channels": _kind(17, 6, 9), "rings": _kind(15, 6, 15), "features": _kind(11, 3, 3, 3),
    "privflags": _kind(13, 2, 2, 2), "coalesce": _kind(19, 2, 26), "linkmodes": _kind(4, 2, 6, 3),
    "pause": _kind(21, 2, 4), "wol": _kind(9, 2, 3, 2), "fec": _kind(29, 2, 3, 2), "debug": _kind(7, 2, 2, 2),
    "eee": Kind(23, frozenset({2, 5, 6, 7}), frozenset({2})),
}  # fmt: skip
AUTONEG, OURS, SPEED, DUPLEX = 2, 3, 5, 6  # of linkmodes
SIZE, VALUE, MASK = 2, 4, 5  # of a bitset
HARDWARE, WANTED = 2, 3  # of features


class Ethtool:
    """The settings of one interface."""

    def __init__(self, index: int) -> None:
        self._netlink = Netlink(GENERIC)
        found = self._netlink.ask(CONTROL, struct.pack("=BBH", GETFAMILY, 1, 0) + pack([(FAMILY_NAME, b"ethtool\0")]))
        self._family = int.from_bytes(dict(unpack(found[0][4:]))[FAMILY_ID], "little")
        header = [(1, struct.pack("=I", index)), (3, struct.pack("=I", COMPACT))]
        self._header = [(HEADER | NESTED, pack(header))]

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def get(self, command: int) -> dict[int, bytes]:
        """All attributes of a group; none if the driver has no such settings."""
        try:
            (message,) = self._netlink.ask(self._family, struct.pack("=BBH", command, 1, 0) + pack(self._header))
        except OSError:
            return {}
        return dict(unpack(message[4:]))

    def settings(self, name: str) -> dict[int, bytes]:
        """The attributes of a group that can be set, as they are now."""
        found = self.get(KINDS[name].get)
        kept = {kind: value for kind, value in found.items() if kind in KINDS[name].settable}
        if name == "features" and HARDWARE in found and WANTED in found:  # MASK has those that can be changed
            wanted, hardware = dict(unpack(found[WANTED])), dict(unpack(found[HARDWARE]))
            value = bytes(a & b for a, b in zip(wanted[VALUE], hardware[VALUE], strict=True))
            kept[WANTED] = pack([(SIZE, wanted[SIZE]), (VALUE, value), (MASK, hardware[VALUE])])
        if name == "linkmodes":  # if speed and duplex are negotiated, they are results
            for kind in (SPEED, DUPLEX) if kept.get(AUTONEG) == b"\1" else (OURS,):
                kept.pop(kind, None)
        return kept

    def set(self, name: str, attributes: dict[int, bytes]) -> None:
        """Raises OSError."""
        kind = KINDS[name]
        flagged = [(one | NESTED * (one in kind.bitsets), value) for one, value in attributes.items()]
        self._netlink.change(self._family, struct.pack("=BBH", kind.get + 1, 1, 0) + pack([*self._header, *flagged]))

    def spread(self) -> bool:
        """Whether the table spreads packets evenly over the receive queues, in one of the two ways of drivers.

        The queues take turns in it, or each has one contiguous part of it.
        """
        table = self.get(RSS_GET).get(4, b"")
        entries = struct.unpack(f"={len(table) // 4}I", table)
        queues = max(entries, default=0) + 1
        places = range(len(entries))
        in_turn, in_parts = [at % queues for at in places], [at * queues // len(entries) for at in places]
        return list(entries) in (in_turn, in_parts)


def rules(name: str) -> int:
    """How many flow steering rules there are (`ethtool --show-ntuple`)."""
    request = array.array("B", struct.pack("=I188x", GRXCLSRLCNT))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP", name.encode(), request.buffer_info()[0]))
        except OSError:
            return 0
    count: int = struct.unpack_from("=I", request, 184)[0]
    return count


def save(index: int) -> dict[str, dict[str, str]]:
    """What is set now: group -> attribute -> value in hexadecimal; nothing on a kernel without the family."""
    try:
        ethtool = Ethtool(index)
    except OSError:
        return {}
    try:
        return {name: {str(kind): value.hex() for kind, value in ethtool.settings(name).items()} for name in KINDS}
    finally:
        ethtool.close()


def restore(index: int, then: dict[str, dict[str, str]], said: dict[str, str]) -> list[str]:
    """Set what differs; returns the groups that still differ. If the kernel refuses one, `said` gets its reason."""
    if not then:
        return []
    ethtool = Ethtool(index)
    left = []
    try:
        for name, saved in then.items():
            was = {int(kind): bytes.fromhex(text) for kind, text in saved.items()}
            now = ethtool.settings(name)
            differs = {kind: value for kind, value in was.items() if now.get(kind) != value}
            if not differs:
                continue
            try:
                ethtool.set(name, differs)
            except OSError as error:
                said[f"ethtool's {name}"] = f": {error.strerror}"
            now = ethtool.settings(name)
            if any(now.get(kind) != value for kind, value in was.items()):
                left.append(f"ethtool's {name}")
    finally:
        ethtool.close()
    return left


def lost(index: int, name: str) -> list[str]:
    """What cannot be given back, one line each."""
    found = []
    if count := rules(name):
        found.append(f"{count} flow steering rule{'s' * (count > 1)} (ethtool --show-ntuple)")
    try:
        ethtool = Ethtool(index)
    except OSError:
        return found
    try:
        if not ethtool.spread():
            found.append("how received packets are spread over queues (ethtool --show-rxfh)")
    finally:
        ethtool.close()
    return found
