r"""A machine as a text file: what an audit reads of it, line by line, so that it can be audited again elsewhere.

    # an empty machine with one device node
    uid 0                                                   who looked
    lacks mseal: Function not implemented                   what the kernel does not offer workers; else: lacks nothing
    /proc/cmdline: quiet intel_iommu=on                     a file of one line
    /proc/interrupts:                                       a file of several lines, each indented by four spaces
        16:  0  IR-IO-APIC  16-fasteoi
    /sys/bus/pci/devices/0000:03:00.0 -> ../../../devices/pci0000:00/0000:03:00.0
    /sys/devices/pci0000:00/0000:03:00.0/config = 64 0:8680fb10 4:0701     binary: size, then offset:bytes
    /dev/vfio/12 @ c 0600 0 0                               kind, mode, owner, group (else - 0644 0 0)
    /dev/vfio/13 @ c 0660 0 0 u1000=6,g=0                   the same with an ACL (system.Node)
    /proc/77/fd/9 # c 511:0                                 which device a node is, or what is open; `none`: none
    /proc/77/map_files/7f00-7f10 ~ 7                        seals of a memfd
    /proc/77/maps !                                         may not be read
    /run/ixy_vfio/                                          an empty directory

In paths and links, what would break a line stands as in Python: \\n, \\x20, \\\\.

`Recorder` writes one from a live machine: `ixy-vfio audit --record FILE`.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ixy_vfio.audit.system import Denied, Node, System

_LINE = re.compile(
    r"(/\S*?)(?:(:)(?: (.*))?| -> (.*)| = (\d+)((?: [0-9a-f]+:[0-9a-f]*)*)| @ (.*)| # (.*)| ~ (\d+)| (!)|/)\s*"
)
_NONE = "none"
_LINKS = 40  # followed in one path


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one path."""

    data: bytes | None = None
    link: str | None = None
    node: Node | None = None
    device: str | None = None
    seals: int | None = None
    denied: bool = False


@dataclass(slots=True)
class Tree:
    """A recorded machine. It is a `System`; `entries` may be edited."""

    entries: dict[str, Entry] = field(default_factory=dict)
    uid: int = 0
    layers: dict[str, str] | None = None  # that are missing

    def update(self, path: str, **values: object) -> None:
        """Change what is known of a path."""
        self.entries[path] = replace(self.entries.get(path, Entry()), **values)  # type: ignore[arg-type] # by name

    def remove(self, path: str) -> None:
        """Take away a path and what lies below it."""
        for name in [name for name in self.entries if name == path or name.startswith(path + "/")]:
            del self.entries[name]

    def _find(self, path: str, final: bool = True) -> str:
        """`path` with links followed; the last component's too unless not `final`. Raises Denied."""
        for _ in range(_LINKS):
            parts = path.split("/")
            for end in range(2, len(parts) + (1 if final else 0)):
                head = "/".join(parts[:end])
                entry = self.entries.get(head)
                if entry is not None and entry.denied and end < len(parts):
                    raise Denied(head)
                if entry is not None and entry.link is not None:
                    # What leads nowhere, like `anon_inode:[eventfd]`, stays as it is.
                    target = posixpath.normpath(posixpath.join(posixpath.dirname(head), entry.link))
                    path = posixpath.join(target, *parts[end:])
                    break
            else:
                return path
        return path

    def data(self, path: str) -> bytes | None:
        """See `System`."""
        entry = self._entry(path)
        return entry.data

    def _entry(self, path: str) -> Entry:
        found = self._find(path)
        entry = self.entries.get(found, Entry())
        if entry.denied:
            raise Denied(path)
        return entry

    def names(self, path: str) -> list[str]:
        """See `System`."""
        self._entry(path)
        top = self._find(path).rstrip("/") + "/"
        return sorted({name[len(top) :].split("/")[0] for name in self.entries if name.startswith(top)} - {""})

    def target(self, path: str) -> str | None:
        """See `System`."""
        entry = self.entries.get(self._find(path, final=False), Entry())
        if entry.denied:
            raise Denied(path)
        return entry.link

    def resolve(self, path: str) -> str | None:
        """See `System`."""
        found = self._find(path)
        there = found in self.entries or any(name.startswith(found + "/") for name in self.entries)
        return found if there else None

    def node(self, path: str) -> Node | None:
        """See `System`."""
        found = self._find(path)
        entry = self.entries.get(found)
        if entry is not None and (entry.node is not None or entry.data is not None):
            return entry.node or Node("-", 0o644, 0, 0)
        return Node("d", 0o755, 0, 0) if self.resolve(path) is not None else None

    def device(self, path: str) -> str | None:
        """See `System`. A node whose number was not recorded is known by its path."""
        entry = self.entries.get(self._find(path, final=False), Entry())
        if entry.denied:
            raise Denied(path)
        found = self._find(path)
        device = entry.device or self.entries.get(found, Entry()).device
        node = self.entries.get(found, Entry()).node
        if device is None and (found.startswith("/dev/") if node is None else node.kind in "cb"):
            return f"c {found}"
        return None if device == _NONE else device

    def seals(self, path: str) -> int | None:
        """See `System`."""
        here = self.entries.get(self._find(path, final=False), Entry())  # a link in map_files leads nowhere
        return here.seals if here.seals is not None else self._entry(path).seals

    def lacks(self) -> Mapping[str, str] | None:
        """See `System`."""
        return self.layers


def load(text: str) -> Tree:
    """Read a tree. Raises ValueError, which names the line."""
    tree = Tree()
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("uid "):
            tree.uid = int(line[4:])
            continue
        if line.startswith("lacks "):
            layer, colon, why = line[6:].partition(": ")
            tree.layers = (tree.layers or {}) | ({layer: why} if colon else {})
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number}: not understood: {line}")
        path, colon, value, link, size, chunks, node, device, seals, denied = found.groups()
        path, link = _unquoted(path), None if link is None else _unquoted(link)
        if colon:
            body = []
            while value is None and number < len(lines) and lines[number].startswith("    "):
                body.append(lines[number][4:])
                number += 1
            tree.update(path, data=(value if value is not None else "\n".join(body)).encode() + b"\n")
        elif node:
            kind, mode, uid, gid, *acl = node.split()
            tree.update(path, node=Node(kind, int(mode, 8), int(uid), int(gid), *acl))
        elif device:
            tree.update(path, device=device)
        elif size:
            tree.update(path, data=_binary(int(size), chunks))
        elif link is not None:
            tree.update(path, link=link)
        elif seals or denied:
            tree.update(path, seals=int(seals) if seals else None, denied=bool(denied))
        else:
            tree.update(path, node=Node("d", 0o755, 0, 0))
    return tree


def _quoted(text: str, link: bool = False) -> str:
    """A path as one word of ASCII. A link's target may have spaces within."""
    plain = text.isascii() and text.isprintable() and text == text.strip() and "\\" not in text
    if plain and (link or " " not in text):
        return text
    return text.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")


def _unquoted(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return text.encode("ascii").decode("unicode_escape")
    except UnicodeError:
        raise ValueError(f"not understood: {text}") from None


def _binary(size: int, chunks: str) -> bytes:
    data = bytearray(size)
    for chunk in chunks.split():
        offset, value = chunk.split(":")
        raw = bytes.fromhex(value)
        data[int(offset, 16) : int(offset, 16) + len(raw)] = raw
    return bytes(data[:size])


def dump(tree: Tree) -> str:
    """The text that `load` reads."""
    lines = (line for path in sorted(tree.entries) for line in _lines(tree, path))
    lacks = [f"lacks {layer}: {why}" for layer, why in (tree.layers or {}).items()]
    if tree.layers == {}:
        lacks = ["lacks nothing"]
    return "\n".join([f"uid {tree.uid}", *lacks, *lines]) + "\n"


def _lines(tree: Tree, path: str) -> Iterator[str]:
    entry, name = tree.entries[path], path
    path = _quoted(path)
    if entry.denied:
        yield f"{path} !"
    if entry.link is not None:
        yield f"{path} -> {_quoted(entry.link, link=True)}"
    if entry.seals is not None:
        yield f"{path} ~ {entry.seals}"
    if entry.node is not None:
        yield f"{path} @ {entry.node}"
    if entry.device is not None:
        yield f"{path} # {entry.device}"
    if entry == Entry() and not any(one.startswith(name + "/") for one in tree.entries):
        yield f"{path}/"
    if entry.data is None:
        return
    try:
        text = entry.data.decode("ascii")
        plain = all(character.isprintable() or character in "\n\t" for character in text)
    except UnicodeDecodeError:
        plain = False
    if not plain:
        rows = ((at, entry.data[at : at + 16]) for at in range(0, len(entry.data), 16))
        yield f"{path} = {len(entry.data)}" + "".join(f" {at:x}:{row.hex()}" for at, row in rows if any(row))
    elif text.count("\n") <= 1:
        yield f"{path}: {text.rstrip()}"
    else:
        yield f"{path}:"
        yield from (f"    {line}" for line in text.rstrip("\n").split("\n"))


class Recorder:
    """Looks at a system, and writes down in `tree` all that was looked at."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.uid = system.uid
        self.tree = Tree(uid=system.uid)

    def _note(self, path: str, **values: object) -> None:
        if any(value is not None for value in values.values()):
            self.tree.update(self._place(path), **values)

    def _place(self, path: str) -> str:
        """Where a path really lies, so that a file reached in two ways is written once; notes the links on the way."""
        place = ""
        for part in path.strip("/").split("/"):
            step = f"{place}/{part}"
            try:
                target = self._system.target(step)
            except Denied:
                target = None
            if target is None:
                place = step
                continue
            self.tree.update(step, link=target)
            resolved = self._system.resolve(step)
            if resolved is None:
                return step  # leads nowhere, like an fd of a socket
            if resolved != posixpath.normpath(posixpath.join(place, target)):
                self._place(posixpath.normpath(posixpath.join(place or "/", target)))  # links behind links
            place = resolved
        return place

    def data(self, path: str) -> bytes | None:
        """See `System`."""
        try:
            found = self._system.data(path)
        except Denied:
            self.tree.update(path, denied=True)
            raise
        # What no check looks into is nobody's business.
        self._note(
            path,
            data=b"" if found and path.endswith("maps") and not (b"vfio" in found or b"/resource" in found) else found,
        )
        return found

    def names(self, path: str) -> list[str]:
        """See `System`."""
        try:
            found = self._system.names(path)
        except Denied:
            self.tree.update(path, denied=True)
            raise
        place = self._place(path).rstrip("/")
        for name in found:  # that they are there; what they are is noted when they are looked at
            self.tree.entries.setdefault(f"{place}/{name}", Entry())
        return found

    def target(self, path: str) -> str | None:
        """See `System`."""
        self._place(path)
        try:
            return self._system.target(path)
        except Denied:
            self.tree.update(path, denied=True)
            raise

    def resolve(self, path: str) -> str | None:
        """See `System`."""
        found = self._system.resolve(path)
        if found is not None:
            self.tree.entries.setdefault(self._place(path), Entry())
        return found

    def node(self, path: str) -> Node | None:
        """See `System`."""
        found = self._system.node(path)
        self._note(path, node=found)
        return found

    def device(self, path: str) -> str | None:
        """See `System`."""
        found = self._system.device(path)
        place = path if path.startswith("/proc/") else self._place(path)  # what an fd leads to is of the fd
        self.tree.update(place, device=found or _NONE)
        return found

    def seals(self, path: str) -> int | None:
        """See `System`."""
        found = self._system.seals(path)
        self._note(path, seals=found)
        return found

    def lacks(self) -> Mapping[str, str] | None:
        """See `System`."""
        found = self._system.lacks()
        self.tree.layers = None if found is None else dict(found)
        return found
