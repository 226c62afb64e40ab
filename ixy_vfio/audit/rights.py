"""Who else than root can read or write a file, or put another one in its place."""

import re
from collections.abc import Iterator

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.system import Denied, Node

READ, WRITE = 4, 2
_STICKY = 0o1000
_LINKS = 40  # followed in one path


def strangers(host: Host, node: Node, rights: int, empty_groups: bool = False) -> str:
    """Who else than root has one of `rights` at a file, by owner, mode and ACL; "" if nobody has.

    A group counts unless it is root's and has no other member. With `empty_groups`, no group without members counts
    (Debian's staff may write /usr/local). An owner may change the mode, so has all rights.
    """
    found = [f"uid {node.uid}"] if node.uid else []
    if node.mode & rights:
        found.append("everybody")
    entries = dict(one.split("=") for one in node.acl.split(",") if one)
    for name, given in entries.items():
        if int(given) & rights and name[0] == "u" and name != "u0":
            found.append(f"uid {name[1:]} (ACL)")
        if int(given) & rights and name[0] == "g" and _counts(host, int(name[1:] or node.gid), empty_groups):
            found.append(f"group {name[1:] or node.gid} (ACL)")
    if not entries and node.mode >> 3 & rights and _counts(host, node.gid, empty_groups):
        found.append(f"group {node.gid}")
    return ", ".join(found)


def _counts(host: Host, gid: int, empty_groups: bool) -> bool:
    """Whether somebody else than root has rights by this group."""
    members = _members(host, gid)
    if gid == 0:
        return bool(members)
    return members is None or bool(members) or not empty_groups


def _members(host: Host, gid: int) -> set[str] | None:
    """The members of a group but root, by name; None when nothing tells."""
    groups = [line.split(":") for line in (host.read("/etc/group").value or "").split("\n")]
    users = [line.split(":") for line in (host.read("/etc/passwd").value or "").split("\n")]
    named = [one[3] for one in groups if len(one) == 4 and one[2] == str(gid)]
    if not named:
        return None
    found = {name for names in named for name in names.split(",")}
    found |= {one[0] for one in users if len(one) > 3 and one[3] == str(gid) and one[2] != "0"}
    return found - {"", "root"}


def is_one_users(host: Host, node: Node) -> bool:
    """Whether all rights that others than root have are those of the owner, and of a group with no other member."""
    if node.acl or node.mode & 0o007 or not node.uid:
        return False
    users = [line.split(":") for line in host.lines("/etc/passwd")]
    owner = {one[0] for one in users if len(one) > 2 and one[2] == str(node.uid)}
    members = _members(host, node.gid)
    return not node.mode & 0o070 or node.gid == 0 or (bool(owner) and members is not None and members <= owner)


def replaceable(host: Host, path: str, empty_groups: bool = False) -> list[Reading]:
    """The steps of a path at which others than root can change what it leads to, or what is in it.

    Looks at every directory and link on the way. What is not there is nobody's: then its directory counts. In a sticky
    directory others can add names, and take away none of root's. A group that may write counts, unless it has no
    members and `empty_groups` says that this does.
    """
    return list(_steps(host, path, empty_groups))


def _steps(host: Host, path: str, empty_groups: bool) -> Iterator[Reading]:
    place, rest, links = "", [part for part in path.split("/") if part], 0
    if bad := _bad(host, "/", False, empty_groups):
        yield bad
    while rest:
        part = rest.pop(0)
        if part in (".", ".."):
            place = place if part == "." else place.rpartition("/")[0]
            continue
        step = f"{place}/{part}"
        target = host.system.target(step)
        if target is not None:
            links += 1
            if links > _LINKS:
                yield Reading(step, "links without end")
                return
            rest[:0] = [one for one in target.split("/") if one]
            place = "" if target.startswith("/") else place
            continue
        if bad := _bad(host, step, bool(rest), empty_groups):
            yield bad
        place = step


def _bad(host: Host, path: str, above: bool, empty_groups: bool) -> Reading | None:
    node, reading = host.node(path)
    if node is None or (above and node.mode & _STICKY and not node.uid):
        return None
    group = not empty_groups and node.mode & WRITE << 3
    return reading if group or strangers(host, node, WRITE, empty_groups) else None


def files_below(host: Host, path: str, depth: int = 3) -> Iterator[str]:
    """A file, or a directory with what is in it."""
    yield path
    node, _ = host.node(path)
    if node is not None and node.kind == "d" and depth:
        try:
            names = host.system.names(path)
        except Denied:
            return  # then nobody but root can have put anything there
        for name in names:
            yield from files_below(host, f"{path}/{name}", depth - 1)


_WORD = re.compile(r"/[\w./+:@-]+")


def programs_of(host: Host, path: str) -> set[str]:
    """A program; and if it is a script, its interpreter and what it names by full paths."""
    try:
        text = host.read(path).value or ""
    except Denied:
        return {path}
    if not text.startswith("#!"):
        return {path}
    return {path} | {word for word in _WORD.findall(text[:4096]) if host.exists(word)}
