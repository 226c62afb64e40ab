"""Sessions: the processes that use devices together, found by what they share.

A session of ours is a control process, which holds the device fds, and its children, the workers; all of them map
packet memory that the helper made (the memfd `ixy_vfio`). A session of another program (DPDK, QEMU, SPDK) is a process
that has a node below /dev/vfio open, with its children. The helper's processes and the simulator belong to none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ixy_vfio_helper import addresses

from ixy_vfio.audit.host import DEVICES, SIMULATED_DOMAIN, Host
from ixy_vfio.audit.processes import DEVICE_FD, DEVICE_NODE, GROUP_NODE, Process, processes_of
from ixy_vfio.audit.system import Denied

RUN = "/run/ixy_vfio/"
LEASES = "/run/ixy_vfio/leases"  # a file per leased device: "UID PID-OF-THE-HELPER"


class Kind(Enum):
    """Whose session it is."""

    OURS = "ixy_vfio"
    SIMULATED = "simulated"
    OTHER = "another program"


class Level(Enum):
    """How far the program that sees packets is from the device."""

    L1 = "L1: one process sees packets and holds the device"
    L2 = "L2: sealed workers see packets, another process holds the device"
    L3 = "L3: as L2, on a virtual function"


@dataclass(frozen=True, slots=True)
class Session:
    """Processes that use `devices` (addresses) together. `holders` have device fds; `workers` are their children."""

    kind: Kind
    devices: tuple[str, ...]
    holders: tuple[Process, ...]
    workers: tuple[Process, ...]
    helper: Process | None = None
    name: str = ""  # as findings call it: without process ids where it can be, so that two audits can be compared

    @property
    def processes(self) -> tuple[Process, ...]:
        """All of them."""
        return self.holders + self.workers


@dataclass(frozen=True, slots=True)
class Sessions:
    """All that was found. `strays` hold a device, and are in no session."""

    sessions: tuple[Session, ...]
    helpers: tuple[Process, ...]
    strays: tuple[Process, ...]

    def of(self, address: str) -> list[Session]:
        """The sessions that use a device."""
        return [session for session in self.sessions if address in session.devices]


def sessions_of(host: Host) -> Sessions:
    """Who uses devices."""
    return host.once(_find)


def _find(host: Host) -> Sessions:
    everybody = processes_of(host)
    helpers = helpers_of(host)
    apart = {one.pid for one in helpers} | {one.pid for one in everybody if is_simulator(one)}
    concerned = {one.pid: one for one in everybody if one.concerned and one.pid not in apart}
    for one in everybody:  # a worker hides its memory: not dumpable
        if one.shown_mappings is None and one.parent in concerned and one.pid not in apart:
            concerned.setdefault(one.pid, one)
    found = [_session(host, family, helpers) for family in _families(list(concerned.values()))]
    strays = tuple(one.holders[0] for one in found if _is_stray(one, found))
    return Sessions(tuple(_named([one for one in found if not _is_stray(one, found)])), helpers, strays)


def _named(sessions: Sequence[Session]) -> Iterator[Session]:
    taken: set[str] = set()
    for one in sessions:
        what = one.holders[0].name if one.kind is Kind.OTHER else "session"
        name = f"{what} {','.join(one.devices)}" if one.devices else f"{what} pid {one.holders[0].pid}"
        if name in taken:
            name += f" pid {one.holders[0].pid}"
        taken.add(name)
        yield replace(one, name=name)


def _runs(process: Process, *names: str) -> bool:
    """Whether one of the first words of its command line is a program or module of these names."""
    return any(word.rpartition("/")[2] in names for word in process.argv[:6])


def helpers_of(host: Host) -> tuple[Process, ...]:
    """The processes of the real helper: the listening one, and one for each lease.

    Anybody can have any command line. The helper is known by what only root can do: its leases are written down in a
    directory of root's; its socket lies in one (root sees who listens). A user may start root's programs with any
    words (sudo); those are root's by some user ids only, or hold neither.
    """
    leases = {pid for _, pid in claims(host).values()}
    sockets = {f"socket:[{inode}]" for inode in _listening(host)}
    roots = [one for one in processes_of(host) if one.is_roots and one.pid != 1]  # systemd holds the socket, too
    servers = {one.pid for one in roots if sockets & set((one.shown_fds or {}).values())}
    if not servers:  # hidden: then by the leases
        servers = {one.parent for one in roots if one.pid in leases} - {1}
    return tuple(one for one in roots if one.pid in servers or one.parent in servers)


def _listening(host: Host) -> list[str]:
    """The inodes of sockets that lie where only root can have put them."""
    lines = [line.split() for line in host.lines("/proc/net/unix")]
    return [line[6] for line in lines if len(line) == 8 and line[7].startswith(RUN)]


def is_simulator(process: Process) -> bool:
    """The simulator, or the helper that comes with it. It has nothing of a real device."""
    if process.holds_device or any(area.is_real_bar for area in process.shown_mappings or ()):
        return False
    first = [word for word in process.argv[1:6] if not word.startswith("-")]
    return any(word.startswith("ixy_vfio.sim") for word in first) or ("sim" in first and _runs(
        process, "ixy-vfio", "ixy_vfio.cli", "cli.py"))  # fmt: skip


def _families(processes: Sequence[Process]) -> list[list[Process]]:
    """Put together who shares packet memory, and children with their parents."""
    families: list[tuple[set[str], list[Process]]] = []  # marks that its members share, members
    for one in sorted(processes, key=lambda one: one.pid):
        marks = {f"pid {one.pid}"} | {area.file for area in one.shown_mappings or () if area.is_packet_memory}
        sought = marks | {f"pid {one.parent}"}
        joined = [family for family in families if family[0] & sought]
        families = [family for family in families if not family[0] & sought]
        members = [member for family in joined for member in family[1]]
        families.append((marks.union(*(family[0] for family in joined)), [*members, one]))
    return [members for _, members in families]


def _session(host: Host, family: Sequence[Process], helpers: Sequence[Process]) -> Session:
    pids = {one.pid for one in family}
    workers = tuple(one for one in family if one.parent in pids)
    holders = tuple(one for one in family if one.parent not in pids)
    areas = [area for one in family for area in one.shown_mappings or ()]
    packets = any(area.is_packet_memory for area in areas)
    real = any(area.is_real_bar for area in areas) or any(one.holds_device for one in family)
    if not real:  # memory of these names can be made by anybody
        named = {word for one in holders for word in one.argv if word.startswith(SIMULATED_DOMAIN)}
        return Session(Kind.SIMULATED, tuple(sorted(named)), holders, workers)
    devices = {address for one in family for address in devices_of(host, one)}
    helper = _helper(host, devices, family, helpers) if devices or packets else None
    if helper is not None:
        devices |= devices_of(host, helper)
    # Memory of that name can be made by anybody: ours is the session that the helper has a lease for. A user who may
    # not see the leases takes the word for it.
    ours = helper is not None or (packets and not host.exists(LEASES))
    kind = Kind.OURS if ours else Kind.OTHER
    return Session(kind, tuple(sorted(devices)), holders, workers, helper)


def devices_of(host: Host, process: Process) -> set[str]:
    """The devices that a process has open, as far as /proc tells."""
    found: set[str] = set()
    for path, what in (process.shown_fds or {}).items():
        if group := GROUP_NODE.fullmatch(what):
            found |= {one.address for one in host.group(group[1]) if one.in_user_space}
        elif DEVICE_NODE.fullmatch(what):
            target = host.system.resolve(f"/sys/class/vfio-dev/{what.rpartition('/')[2]}") or ""
            found |= {part for part in target.split("/")[-3:] if part in host.devices}
        elif what == DEVICE_FD:  # Linux 6.18 and later say which
            lines = host.lines(path.replace("/fd/", "/fdinfo/"))
            paths = [line.split()[-1] for line in lines if line.startswith("vfio-device-syspath:")]
            found |= {path.rpartition("/")[2] for path in paths}
    return found


def strays_of(host: Host, address: str) -> list[Process]:
    """Strays that hold a device, or may: before Linux 6.18 nothing says which device an fd is of."""
    return [one for one in sessions_of(host).strays if address in (devices_of(host, one) or host.devices)]


def claims(host: Host) -> dict[str, tuple[int, int]]:
    """Device -> (uid, process id of the helper) of the leases that the helper recorded."""
    if (node := host.node(LEASES)[0]) is None or node.uid or node.mode & 0o022:
        return {}  # not root's alone: helper.socket says so
    try:
        files = [name for name in host.system.names(LEASES) if name.endswith(".lease")]
        texts = {name.removesuffix(".lease"): (host.read(f"{LEASES}/{name}").value or "").split() for name in files}
    except Denied:
        return {}
    return {
        address: (int(words[0]), int(words[1]))
        for address, words in texts.items()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and _is_there(host, words[1])
    }


def _is_there(host: Host, pid: str) -> bool:
    try:
        return host.exists(f"/proc/{pid}/status")
    except Denied:  # it is there, and hidden (hidepid=1)
        return True


def _helper(host: Host, devices: set[str], family: Sequence[Process], helpers: Sequence[Process]) -> Process | None:
    """The helper's process that holds this user's lease of the devices; when they are unknown, their only one."""
    uids = set().union(*(one.uids for one in family))
    leases = {address: pid for address, (uid, pid) in claims(host).items() if uid in uids}
    pids = {pid for address, pid in leases.items() if address in devices} if devices else set(leases.values())
    found = [one for one in helpers if one.pid in pids]
    return found[0] if len(found) == 1 else None


def _is_stray(one: Session, found: Sequence[Session]) -> bool:
    """A process with nothing but an fd of a device that a session uses is a second holder, not a session."""
    if one.kind is not Kind.OTHER or any(GROUP_NODE.fullmatch(what) for what in _fds(one)) or _maps(one):
        return False
    others = [other for other in found if other is not one and _maps(other)]
    return any(not one.devices or set(one.devices) & set(other.devices) for other in others)


def _fds(session: Session) -> list[str]:
    return [what for one in session.processes for what in (one.shown_fds or {}).values()]


def _maps(session: Session) -> bool:
    areas = [area for one in session.processes for area in one.shown_mappings or ()]
    return any(area.is_bar or area.is_packet_memory for area in areas)


def level(host: Host, session: Session) -> Level:
    """The isolation level. Raises Denied when a worker cannot be seen."""
    if not any(area.is_bar or area.is_packet_memory for one in session.workers for area in one.mappings):
        return Level.L1
    virtual = session.devices and all(host.exists(f"{DEVICES}/{address}/physfn") for address in session.devices)
    return Level.L3 if virtual else Level.L2


def parse_address(text: str) -> str | None:
    """A PCI address with its domain, or None."""
    try:
        return addresses.full_address(text, addresses.ANY)
    except ValueError:
        return None
