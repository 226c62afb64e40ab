"""What the tests of the audit share: recorded machines, and changes to them."""

from functools import cache
from pathlib import Path

from ixy_vfio.audit import tree
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.report import Report, Result
from ixy_vfio.audit.runner import audit
from ixy_vfio.audit.system import Node
from ixy_vfio.audit.tree import Tree

HERE = Path(__file__).parent
NIC = "/sys/devices/pci0000:00/0000:00:02.0/0000:03:00.0"  # the first port of the sound machine
CONTROL, WORKER, HELPER = 1200, 1201, 901  # its processes


@cache
def _recorded(name: str) -> Tree:
    return tree.load((HERE / "trees" / f"{name}.tree").read_text())


def machine(name: str) -> Tree:
    """A recorded machine, to be changed."""
    found = _recorded(name)
    return Tree(dict(found.entries), found.uid, None if found.layers is None else dict(found.layers))


def look(machine: Tree, target: str | None = None) -> Report:
    return audit(Host(machine), target)


def result(report: Report, check: str, subject: str | None = None) -> Result:
    found = [one for one in report.results if one.check == check and subject in (None, one.subject)]
    assert len(found) == 1, f"{check}: {len(found)} results"
    return found[0]


def statuses(report: Report, status: Status) -> set[str]:
    return {one.check for one in report.results if one.status is status}


def write(machine: Tree, path: str, text: str) -> None:
    """A file says something else."""
    machine.update(path, data=text.encode())


def edit(machine: Tree, path: str, old: str, new: str) -> None:
    """Replace a part of a file, that must be there."""
    data = machine.data(path)
    assert data is not None
    assert old.encode() in data, f"{path} does not say {old}"
    machine.update(machine.resolve(path) or path, data=data.replace(old.encode(), new.encode()))


def poke(machine: Tree, path: str, offset: int, value: bytes) -> None:
    """Bytes of a binary file are others."""
    data = bytearray(machine.data(path) or b"")
    data[offset : offset + len(value)] = value
    machine.update(path, data=bytes(data))


def node(machine: Tree, path: str, mode: int, uid: int = 0, kind: str = "c", gid: int = 0, acl: str = "") -> None:
    """A node has another mode, owner, group or ACL."""
    machine.update(path, node=Node(kind, mode, uid, gid, acl))


def link(machine: Tree, path: str, target: str) -> None:
    """A symbolic link, or a file descriptor in /proc/PID/fd, leads elsewhere."""
    machine.update(path, link=target)


def process(machine: Tree, pid: int, uid: int = 1000, parent: int = 1, name: str = "python3", argv: str = "x") -> None:
    """One more process."""
    status = (
        f"Name:\t{name}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmSize:\t9 kB\nCapEff:\t0\nSeccomp:\t0\n"
    )
    write(machine, f"/proc/{pid}/status", status)
    write(machine, f"/proc/{pid}/cmdline", argv)
    write(machine, f"/proc/{pid}/maps", "")


def thread(machine: Tree, pid: int, tid: int, **lines: str) -> None:
    """One more thread of a process; its status is that of the process but for these lines."""
    status = (machine.data(f"/proc/{pid}/status") or b"").decode().splitlines()
    changed = [
        f"{line.partition(':')[0]}:\t{lines.get(line.partition(':')[0], line.partition(':')[2].strip())}"
        for line in status
    ]
    write(machine, f"/proc/{pid}/task/{tid}/status", "\n".join(changed) + "\n")


def append(machine: Tree, path: str, text: str) -> None:
    """A file has more at its end."""
    machine.update(machine.resolve(path) or path, data=(machine.data(path) or b"") + text.encode())
