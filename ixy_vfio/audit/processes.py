"""Processes that hold something of a device: by /proc, which shows the auditor's own to anybody, and all to root."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Reading
from ixy_vfio.audit.system import Denied

DEVICE_FD = "anon_inode:[vfio-device]"
DEVICE_NODE = re.compile(r"/dev/vfio/devices/vfio\d+")
GROUP_NODE = re.compile(r"/dev/vfio/(\d+|noiommu-\d+)")
PACKET_MEMORY = "/memfd:ixy_vfio"
SIMULATED_BAR = "/memfd:ixy-sim-bar0-"
SYSFS_BAR = re.compile(r"/sys/devices/pci\S*/resource\d(_wc)?")
REGION_SHIFT = 40  # vfio_pci: file offset = region << 40 | offset in the BAR
PAGE = 4096
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+ \d+) *(.*)")


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


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `fds` and `mappings` raise Denied when they were hidden from the auditor."""

    pid: int
    status: Mapping[str, str]
    argv: tuple[str, ...]
    shown_fds: Mapping[int, str] | None
    shown_mappings: tuple[Area, ...] | None

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
    def capabilities(self) -> int:
        """What it has, or may take: effective and permitted."""
        return int(self.status.get("CapEff", "0"), 16) | int(self.status.get("CapPrm", "0"), 16)

    @property
    def fds(self) -> Mapping[int, str]:
        """Number -> what it is."""
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

    def fd(self, number: int) -> Reading:
        """A file descriptor as evidence."""
        return Reading(f"/proc/{self.pid}/fd/{number}", self.fds[number])

    def map(self, mapping: Area) -> Reading:
        """A mapping as evidence."""
        return Reading(f"/proc/{self.pid}/maps", mapping.line)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def is_sysfs_bar(path: str) -> bool:
    """Whether it is the file by which sysfs gives a BAR away."""
    return SYSFS_BAR.fullmatch(path) is not None


def is_device_fd(what: str) -> bool:
    """Whether a file descriptor that leads to `what` gives power over a device."""
    return what == DEVICE_FD or bool(GROUP_NODE.fullmatch(what)) or bool(DEVICE_NODE.fullmatch(what))


def read_all(host: Host) -> Iterator[Process]:
    """Every process but kernel threads, as far as the auditor may see it."""
    for name in host.system.names("/proc"):
        if name.isdigit() and (status := host.read(f"/proc/{name}/status").value) and "VmSize" in status:
            yield _process(host, int(name), status)


def _process(host: Host, pid: int, status: str) -> Process:
    facts = {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines())}
    try:
        words = tuple((host.read(f"/proc/{pid}/cmdline").value or "").split("\0"))
        words = words if len(words) > 1 else tuple(words[0].split())  # a recorded tree has spaces
    except Denied:
        words = ()
    return Process(pid, facts, words, _fds(host, pid), _mappings(host, pid))


def _fds(host: Host, pid: int) -> dict[int, str] | None:
    directory = f"/proc/{pid}/fd"
    try:
        return {int(fd): host.system.target(f"{directory}/{fd}") or "" for fd in host.system.names(directory)}
    except Denied:
        return None


def _mappings(host: Host, pid: int) -> tuple[Area, ...] | None:
    try:
        text = host.read(f"/proc/{pid}/maps").value or ""
    except Denied:
        return None
    if "vfio" not in text and "/resource" not in text:
        return ()  # most processes: nothing of interest
    return tuple(parse_mapping(line) for line in text.splitlines())


def parse_mapping(line: str) -> Area:
    """One line of /proc/PID/maps. Raises ValueError."""
    found = _MAPPING.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"not a line of /proc/PID/maps: {line}")
    start, end, rights, offset, file, path = found.groups()
    return Area(line, int(start, 16), int(end, 16), rights, int(offset, 16), file, path)
