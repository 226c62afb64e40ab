"""Processes that hold something of a device: by /proc, which shows the auditor's own to anybody, and all to root."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.system import Denied

DEVICE_FD = "anon_inode:[vfio-device]"
DEVICE_NODE = re.compile(r"/dev/vfio/devices/vfio\d+")
GROUP_NODE = re.compile(r"/dev/vfio/(\d+|noiommu-\d+)")
PACKET_MEMORY = "/memfd:ixy_vfio"
SIMULATED_BAR = "/memfd:ixy-sim-bar0-"
SYSFS_BAR = re.compile(r"/\S*/?devices/pci\S*/resource\d(_wc)?")  # wherever sysfs is mounted
O_PATH = 0o10000000  # open(2): a name of a file, without any right to it
MEMORY_NODES = {"c 1:1": "/dev/mem", "c 1:2": "/dev/kmem", "c 1:4": "/dev/port"}  # devices.txt of Linux
REGION_SHIFT = 40  # vfio_pci: file offset = region << 40 | offset in the BAR
PAGE = 4096
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+ \d+) *(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Area:
    """One line of /proc/PID/maps."""

    line: str
    start: int
    end: int
    rights: str
    offset: int
    file: str  # device and inode
    path: str

    @property
    def is_real_bar(self) -> bool:
        """Pages of a BAR of a real device."""
        return DEVICE_FD in self.path or DEVICE_NODE.match(self.path) is not None

    @property
    def is_bar(self) -> bool:
        """Pages of a BAR, of a real device or a simulated one."""
        return self.is_real_bar or self.path.startswith(SIMULATED_BAR)

    @property
    def is_packet_memory(self) -> bool:
        """Memory from the helper: rings or packets."""
        return self.path.removesuffix(" (deleted)") == PACKET_MEMORY

    @property
    def region(self) -> int:
        """Number of the BAR."""
        return self.offset >> REGION_SHIFT

    @property
    def bar_range(self) -> tuple[int, int]:
        """(first byte, end) within the BAR."""
        first = self.offset & (1 << REGION_SHIFT) - 1
        return first, first + self.end - self.start


def _capabilities(status: Mapping[str, str], *sets: str) -> int:
    found = 0
    for name in sets or ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        found |= int(status.get(name, "0"), 16)
    return found


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: user, capabilities, filters and no_new_privs are each thread's own."""

    pid: int
    tid: int
    status: Mapping[str, str]

    @property
    def uids(self) -> set[int]:
        """Real, effective, saved and file system user id."""
        return {int(uid) for uid in self.status.get("Uid", "").split()}

    @property
    def capabilities(self) -> int:
        """What it has, may take, or hands on."""
        return _capabilities(self.status)

    def fact(self, key: str) -> Reading:
        """A line of its status as evidence."""
        path = f"/proc/{self.pid}/status" if self.pid == self.tid else f"/proc/{self.pid}/task/{self.tid}/status"
        return Reading(path, f"{key}: {' '.join(self.status.get(key, '(no such line)').split())}")

    def __str__(self) -> str:
        name = self.status.get("Name", "?")
        who = "" if self.pid == self.tid else f" thread {self.tid} of"
        return f"{name} ({who.lstrip()}{' ' if who else ''}pid {self.pid}{_of(self.status)})"


def _of(status: Mapping[str, str]) -> str:
    """Whose it is: the effective user id, as findings name it."""
    uids = status.get("Uid", "").split()
    return f", uid {uids[1]}" if len(uids) > 1 else ""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `fds` and `mappings` raise Denied when they were hidden from the auditor.

    `fds` are by their paths in /proc; those of a thread that has a table of its own are among them.
    """

    pid: int
    status: Mapping[str, str]
    argv: tuple[str, ...]
    shown_fds: Mapping[str, str] | None
    shown_mappings: tuple[Area, ...] | None
    threads: tuple[Thread, ...]

    @property
    def name(self) -> str:
        """Of the program."""
        return self.status.get("Name", "?")

    @property
    def parent(self) -> int:
        """Process id of the parent."""
        return int(self.status.get("PPid", "0"))

    @property
    def uids(self) -> set[int]:
        """Real, effective, saved and file system user id."""
        return {int(uid) for uid in self.status.get("Uid", "").split()}

    @property
    def is_roots(self) -> bool:
        """Whether it is root's and nobody else's: started by root, not by a user through a program that is set-uid."""
        return self.uids == {0} and "Uid" in self.status

    @property
    def fds(self) -> Mapping[str, str]:
        """Path in /proc -> what it is."""
        if self.shown_fds is None:
            raise Denied(f"/proc/{self.pid}/fd")
        return self.shown_fds

    @property
    def mappings(self) -> tuple[Area, ...]:
        """Its memory."""
        if self.shown_mappings is None:
            raise Denied(f"/proc/{self.pid}/maps")
        return self.shown_mappings

    @property
    def holds_device(self) -> bool:
        """Whether one of its fds is a VFIO device, group or an IOMMU."""
        return any(is_device_fd(what) for what in (self.shown_fds or {}).values())

    @property
    def concerned(self) -> bool:
        """Whether it has anything to do with a device."""
        mappings = self.shown_mappings or ()
        return self.holds_device or any(one.is_bar or one.is_packet_memory for one in mappings)

    def fact(self, key: str) -> Reading:
        """A line of /proc/PID/status as evidence."""
        return Reading(f"/proc/{self.pid}/status", f"{key}: {' '.join(self.status.get(key, '(no such line)').split())}")

    def fd(self, path: str) -> Reading:
        """A file descriptor as evidence."""
        return Reading(path, self.fds[path])

    def map(self, mapping: Area) -> Reading:
        """A mapping as evidence."""
        return Reading(f"/proc/{self.pid}/maps", mapping.line)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}{_of(self.status)})"


def is_sysfs_bar(path: str) -> bool:
    """Whether it is the file by which sysfs gives a BAR away."""
    return SYSFS_BAR.fullmatch(path) is not None


def is_device_fd(what: str) -> bool:
    """Whether a file descriptor that leads to `what` gives power over a device."""
    return what == DEVICE_FD or bool(GROUP_NODE.fullmatch(what)) or bool(DEVICE_NODE.fullmatch(what))


def processes_of(host: Host) -> list[Process]:
    """Every process but kernel threads, as far as it is shown to the auditor."""
    return host.once(_read_all)


def blind(host: Host) -> str:
    """Why not everything of every process is seen; "" if it is."""
    if host.system.uid != 0:
        return "shown to root only"
    hidden = [process for process in processes_of(host) if process.shown_fds is None]
    if hidden:
        return f"hidden even from this root: {hidden[0]} and {len(hidden) - 1} more"
    return f"not shown here: {host.contained}" if host.contained else ""


def _read_all(host: Host) -> list[Process]:
    return list(read_all(host))


def read_all(host: Host) -> Iterator[Process]:
    """Every process but kernel threads, as far as the auditor may see it."""
    names = device_names(host)
    for name in host.system.names("/proc"):
        if name.isdigit():
            try:
                threads = _threads(host, int(name))
            except Denied:  # /proc is mounted with hidepid=1
                continue
            if threads:
                yield _process(host, int(name), threads, names)


def _threads(host: Host, pid: int) -> list[Thread]:
    """Those that have memory; a first thread that has ended, while others go on, has none. None: a kernel thread."""
    first = _status(host, f"/proc/{pid}/status")
    if first.get("PPid") == "2" or (pid == 2 and "VmSize" not in first):
        return []
    tids = sorted(int(name) for name in host.system.names(f"/proc/{pid}/task") if name.isdigit())
    found = [Thread(pid, tid, _status(host, f"/proc/{pid}/task/{tid}/status")) for tid in tids if tid != pid]
    return [one for one in (Thread(pid, pid, first), *found) if "VmSize" in one.status]


def _status(host: Host, path: str) -> dict[str, str]:
    # A process names itself, with any character; the kernel escapes the end of a line only.
    lines = (line.partition(":") for line in host.lines(path))
    return {key: value.strip(" \t") for key, _, value in lines}


def _process(host: Host, pid: int, threads: list[Thread], names: Mapping[str, str]) -> Process:
    try:
        words = tuple((host.read(f"/proc/{pid}/cmdline").value or "").split("\0"))
        words = words if len(words) > 1 else tuple(words[0].split())  # a recorded tree has spaces
    except Denied:
        words = ()
    memory = "" if threads[0].tid == pid else f"/task/{threads[0].tid}"
    fds = _fds(host, threads, names)
    return Process(
        pid, threads[0].status, words, fds, _mappings(host, pid, f"/proc/{pid}{memory}/maps"), tuple(threads)
    )


def _fds(host: Host, threads: list[Thread], names: Mapping[str, str]) -> dict[str, str] | None:
    """Of all threads: one that has unshared its table (CLONE_FILES) shows it below its own id only."""
    found: dict[str, str] = {}
    first: dict[str, str] | None = None
    try:
        for thread in threads:
            top = f"/proc/{thread.pid}" if thread.pid == thread.tid else f"/proc/{thread.pid}/task/{thread.tid}"
            table = {fd: host.system.target(f"{top}/fd/{fd}") or "" for fd in host.system.names(f"{top}/fd")}
            same = {} if first is None else first
            new = {fd: what for fd, what in table.items() if same.get(fd) != what}
            found |= {f"{top}/fd/{fd}": _leads_to(host, f"{top}/fd/{fd}", what, names) for fd, what in new.items()}
            first = table if first is None else first
    except Denied:
        return None
    return found


def device_names(host: Host) -> dict[str, str]:
    """Number of a device node -> its usual name: a node may have another name, or lie elsewhere, as in a container."""
    found = dict(MEMORY_NODES)
    for folder, top in (("/sys/class/vfio", "/dev/vfio"), ("/sys/class/vfio-dev", "/dev/vfio/devices")):
        for name in host.system.names(folder):
            if number := host.read(f"{folder}/{name}/dev").value:
                found[f"c {number}"] = f"{top}/{name}"
    for name, path in (("vfio", "/dev/vfio/vfio"), ("iommu", "/dev/iommu")):
        if number := host.read(f"/sys/class/misc/{name}/dev").value:
            found[f"c {number}"] = path
    for name in host.system.names("/sys/class/uio"):
        if number := host.read(f"/sys/class/uio/{name}/dev").value:
            found[f"c {number}"] = f"/dev/{name}"
    return found


def _leads_to(host: Host, path: str, what: str, names: Mapping[str, str]) -> str:
    """What an fd that is said to lead to a file leads to: by number, for anybody can make files of any name."""
    if not what.startswith("/"):
        return what
    device = host.system.device(path)
    known = device is not None and (names.get(device) or (what if device == host.system.device(what) else None))
    sysfs = is_sysfs_bar(what)
    if not known and not sysfs:
        forged = what.startswith("/dev/") and (device is None or device != host.system.device(what))
        return f"{what} (a file of that name)" if forged else what
    details = host.read(path.replace("/fd/", "/fdinfo/")).value or ""
    facts = dict(line.split(":", 1) for line in details.split("\n") if ":" in line)
    if int(facts.get("flags", "0").strip(), 8) & O_PATH:
        return f"{what} (its name only: O_PATH)"
    if sysfs and not _is_sysfs(host, int(path.split("/")[2]), 0, facts.get("mnt_id", "").strip()):
        return f"{what} (not in sysfs)"
    return known or what


def _is_sysfs(host: Host, pid: int, column: int, mount: str) -> bool:
    """Whether a mount of a process is of sysfs, by its id (column 0) or its device number (column 2)."""
    lines = [line.split() for line in host.lines(f"/proc/{pid}/mountinfo")]
    if not lines or not mount:
        return True  # not recorded
    return any(line[column] == mount and line[line.index("-") + 1] == "sysfs" for line in lines if "-" in line)


def _mappings(host: Host, pid: int, path: str) -> tuple[Area, ...] | None:
    try:
        text = host.read(path).value or ""
    except Denied:
        return None
    if "vfio" not in text and "/resource" not in text and "ixy-sim" not in text:
        return ()  # most processes: nothing of interest
    areas = [parse_mapping(line) for line in text.split("\n") if line]
    return tuple(one for one in areas if not is_sysfs_bar(one.path) or _is_sysfs(host, pid, 2, _device_of(one)))


def _device_of(area: Area) -> str:
    major, _, minor = area.file.split()[0].partition(":")
    return f"{int(major, 16)}:{int(minor, 16)}"


def parse_mapping(line: str) -> Area:
    """One line of /proc/PID/maps. Raises ValueError."""
    found = _MAPPING.fullmatch(line.strip(" "))
    if found is None:
        raise ValueError(f"not a line of /proc/PID/maps: {line}")
    start, end, rights, offset, file, path = found.groups()
    return Area(line, int(start, 16), int(end, 16), rights, int(offset, 16), file, path)
