"""A session: what its processes may do, and how far the one that sees packets is from the device."""

from collections.abc import Iterable

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Severity, fail, passed, session_check, skip, warn
from ixy_vfio.audit.processes import PAGE, Area, Process, Thread, is_sysfs_bar, parse_mapping
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.sessions import Kind, Level, Session, level
from ixy_vfio.hw.devices import QUEUE_PAGES, driver_for

WORKER_FDS = ("socket:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "pipe:")
NO_MORE = ("Max open files", "Max processes", "Max file size")  # lines of /proc/PID/limits
NETWORKS = dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "raw", "raw6"), 9) | {
    "packet": 8,
    "netlink": 9,
}  # inode's column
SIMULATED = "a simulated device: no IOMMU is involved"


def names(processes: Iterable[Process | Thread]) -> str:
    """For a sentence."""
    return ", ".join(map(str, processes))


@session_check("session.iommu", Severity.HIGH)
def iommu(host: Host, session: Session) -> Findings:
    """The session's devices are held back by an IOMMU.

    Says plainly when a session runs on simulated devices: DMA is then done by the simulator, in software.

    Holds unless: a device of the session has no group, or one of VFIO's no-IOMMU mode; device.iommu fails then, and
    this one is SKIP, as it is when the devices are not known.

    Why: what is shown on a simulated device says nothing about the isolation of a real one.

    Fix: none needed. Audit a session on a real device.
    """
    groups = {one: host.devices[one].group for one in session.devices if one in host.devices}
    without = [one for one in session.devices if not (group := groups.get(one)) or host.is_noiommu(group)]
    if session.kind is Kind.SIMULATED:
        yield skip(SIMULATED)
    elif without:
        yield skip(f"no IOMMU group: {', '.join(without)}; see device.iommu")
    elif not session.devices:
        yield skip("which devices it has is not shown (before Linux 6.18 to root only)")
    else:
        yield passed(", ".join(f"{one} in group {group}" for one, group in groups.items()))


@session_check("session.level", Severity.MEDIUM)
def isolation_level(host: Host, session: Session) -> Findings:
    """Whoever sees packets does not hold the device.

    L1: one process has both. L2: workers, children of the process that holds the device, see the packets; they have
    queues and packet memory. L3: as L2, on a virtual function.

    Holds unless: no child of the process that holds the device has registers or packet memory mapped. Whether that
    process looks at packets itself, beside its workers, cannot be seen from outside. SKIP if a worker is hidden.

    Why: in L1 a packet that takes the program over has all registers; of a physical function also those that write
    EEPROM and flash, which is there for good.

    Fix: run the application as a worker, by any command of ixy-vfio. In L1, use a virtual function.
    """
    found = level(host, session)
    if found is not Level.L1:
        yield passed(found.value)
    elif session.kind is Kind.SIMULATED:
        yield passed(f"{found.value} (simulated)")
    else:
        yield warn(found.value, *(Reading(f"/proc/{one.pid}/fd", "holds the device") for one in session.holders))


@session_check("session.privileges", Severity.HIGH)
def privileges(host: Host, session: Session) -> Findings:
    """No process of it is root, or can become root by itself.

    Looks at the user ids and capabilities of every thread of every process, and at what each may gain.

    Holds unless: one thread has user id 0 (real, effective, saved, or for files), or any capability: effective,
    permitted, to be handed on (inheritable, ambient). A group of root's, which owns files and nodes, is a warning. That
    a user may call sudo is not seen: session.sandbox asks for no_new_privs, which forbids it.

    Why: a driver needs neither. A root driver that a packet takes over has the machine, and the IOMMU holds back its
    device only.

    Fix: run it as an ordinary user; let the helper give it the device.
    """
    threads = [thread for one in session.processes for thread in one.threads]
    bad = [one for one in threads if 0 in one.uids or one.capabilities or not one.uids]
    grouped = [one for one in threads if "0" in f"{one.status.get('Gid', '')} {one.status.get('Groups', '')}".split()]
    if bad:
        yield fail(f"privileged: {names(bad)}", *(one.fact(key) for one in bad for key in ("Uid", "CapEff", "CapPrm")))
    elif grouped:
        yield warn(
            f"in root's group: {names(grouped)}", *(one.fact(key) for one in grouped for key in ("Gid", "Groups"))
        )
    else:
        yield passed("no root, no capabilities", *(one.fact("Uid") for one in session.processes))


@session_check("session.sandbox", Severity.MEDIUM)
def sandbox(host: Host, session: Session) -> Findings:
    """Its processes are sandboxed: no_new_privs and a system-call filter.

    Looks at NoNewPrivs and Seccomp of every thread in /proc/PID/task. A worker must have both; the process that holds
    the device should.

    Holds unless: one thread of one process lacks one of them: each thread has its own. What a filter allows is not
    shown by any kernel; ours are tested where they are made.

    Why: the IOMMU isolates the device, not the program. Without a filter, a program taken over has the kernel's whole
    interface, and whatever its user may do.

    Fix: use workers of ixy-vfio, which seal themselves; DPDK and SPDK have no sandbox of their own, but run in a
    systemd unit with SystemCallFilter= and NoNewPrivileges=.
    """
    threads = [thread for one in session.processes for thread in one.threads]
    lacks = [one for one in threads if one.status.get("Seccomp") != "2" or one.status.get("NoNewPrivs") != "1"]
    of_workers = {one.pid for one in session.workers}
    workers = [one for one in lacks if one.pid in of_workers]
    evidence = [one.fact(key) for one in lacks for key in ("NoNewPrivs", "Seccomp")]
    if workers and session.kind is not Kind.OTHER:
        yield fail(f"workers without a sandbox: {names(workers)}", *evidence)
    elif lacks:
        yield warn(f"without a full sandbox: {names(lacks)}", *evidence)
    else:
        yield passed("all are sandboxed", *(one.fact("Seccomp") for one in session.processes))


@session_check("session.limits", Severity.LOW)
def limits(host: Host, session: Session) -> Findings:
    """A worker can neither be traced nor make files, processes or descriptors.

    Looks at two layers of a worker's sandbox that other checks do not see: whether the kernel keeps it from being
    traced by other processes of its user (its files in /proc are root's then), and its limits in /proc/PID/limits.
    Whether it uses Landlock is shown by no kernel; kernel.layers says whether it could.

    Holds unless: a worker's files in /proc are its user's; it is being traced now; a limit is not 0, or can be raised
    again (the hard limit). SKIP if its files or limits are hidden, or it is root's, whose files tell nothing.

    Why: each layer holds when another one has a hole. A worker that can be traced can be taken over by any program of
    its user, and gives away the packets it sees.

    Fix: use workers of ixy-vfio, which seal themselves; `ixy-vfio forward --require-sealed` refuses to run where a
    layer is missing.
    """
    if not session.workers or session.kind is Kind.OTHER:
        yield skip("it has no workers of ours")
        return
    good = True
    for one in session.workers:
        node, owner = host.node(f"/proc/{one.pid}/environ")
        reading = host.read(f"/proc/{one.pid}/limits")
        found = {line[:25].strip(): line[25:].split()[:2] for line in (reading.value or "").split("\n")}
        lacks = [name.removeprefix("Max ") for name in NO_MORE if found.get(name) != ["0", "0"]]
        if node is None or 0 in one.uids or reading.value is None:
            good = False
            yield skip(f"{one}: its limits, or whose its files in /proc are, cannot be told", owner, reading)
            continue
        if node.uid:
            good = False
            yield warn(f"{one} can be traced by its user", owner)
        if tracers := [thread for thread in one.threads if thread.status.get("TracerPid", "0") != "0"]:
            good = False
            yield fail(f"{one} is being traced", *(thread.fact("TracerPid") for thread in tracers))
        if lacks:
            good = False
            yield warn(f"{one} is not limited: {', '.join(lacks)}", reading)
    if good:
        yield passed("not dumpable, limits of 0", *(host.read(f"/proc/{one.pid}/limits") for one in session.workers))


@session_check("session.fds", Severity.HIGH, needs_root=True)
def fds(host: Host, session: Session) -> Findings:
    """A worker has no file descriptors but sockets, pipes and eventfds.

    Looks at the fds of every thread of every worker (root: workers are not dumpable).

    Holds unless: one is anything else, in one thread only too; a socket is listed among those of a network (TCP, UDP,
    raw, packet, netlink), which leads out. SKIP if a worker's fds are hidden.

    Why: a device fd is the whole device; a file or a memfd is a way out of the sandbox.

    Fix: open files in the control process; set close-on-exec and close before the worker starts.
    """
    if not session.workers:
        yield skip("it has no workers")
        return
    networks = {one.pid: _network_sockets(host, one) for one in session.workers}
    bad = [
        (one, fd)
        for one in session.workers
        for fd, what in one.fds.items()
        if not what.startswith(WORKER_FDS) or what in networks[one.pid]
    ]
    if bad:
        text = ", ".join(f"{one} has {networks[one.pid].get(one.fds[fd], one.fds[fd])}" for one, fd in bad)
        yield fail(text, *(one.fd(fd) for one, fd in bad))
    else:
        yield passed(
            f"{sum(len(one.fds) for one in session.workers)} fds in {len(session.workers)} workers, all harmless"
        )


def _network_sockets(host: Host, process: Process) -> dict[str, str]:
    """What the fd of a socket that leads out of the machine is called -> what it is."""
    found = {}
    for kind, column in NETWORKS.items():
        for line in host.lines(f"/proc/{process.pid}/net/{kind}")[1:]:
            words = line.split()
            if len(words) > column:
                found[f"socket:[{words[column]}]"] = f"a {kind} socket"
    return found


def drivers_of(host: Host, session: Session) -> list[str]:
    """Those of its devices. What is simulated, or unknown here, has the pages of an 82599."""
    known = [host.devices[one] for one in session.devices if one in host.devices]
    return sorted({driver_for(one.vendor, one.device) or "ixgbe" for one in known} or {"ixgbe"})


def outside_queue_pages(area: Area, pages: Iterable[tuple[int, int]]) -> bool:
    """Whether a mapping of a BAR has more than queue pages."""
    first, end = area.bar_range
    return area.region != 0 or not any(low <= first and end <= high for low, high in pages)


@session_check("session.bar", Severity.HIGH, needs_root=True)
def bar(host: Host, session: Session) -> Findings:
    """A worker has the queue pages of the device's registers, and no others.

    The kernel shows in /proc/PID/maps which part of which BAR is mapped (root). Of an 82599 a worker may have
    0x1000-0x1fff, 0x6000-0x7fff and 0xd000-0xdfff of BAR 0, of an 82576 0xc000-0xcfff and 0xe000-0xefff.

    Holds unless: a worker has mapped any other page of any BAR, by the device's fd, its node, or sysfs. SKIP if the
    memory of a worker is hidden, or has a page that is one of queues of one of the session's devices and not of
    another: a mapping does not say whose it is.

    Why: other pages hold reset, interrupts, filters, and EEPROM and flash access.

    Fix: map the BAR in the control process only, and unmap all but these pages before the worker starts.
    """
    if not session.workers:
        yield skip("it has no workers")
        return
    pages = [(one, area) for one in session.workers for area in one.mappings if area.is_bar or is_sysfs_bar(area.path)]
    drivers = drivers_of(host, session)
    bad, unclear = [], []
    for one, area in pages:
        strange = [driver for driver in drivers if outside_queue_pages(area, QUEUE_PAGES[driver])]
        if is_sysfs_bar(area.path) or strange == drivers:
            bad.append((one, area))
        elif strange:
            unclear.append((one, area))
    if bad:
        text = ", ".join(f"{one} has {_place(area)}" for one, area in bad)
        yield fail(text, *(one.map(area) for one, area in bad))
    elif unclear:
        text = ", ".join(f"{one} has {_place(area)}" for one, area in unclear)
        yield skip(f"{text}: whose it is cannot be seen", *(one.map(area) for one, area in unclear))
    else:
        yield passed("queue pages only", *(one.map(area) for one, area in pages))


def _place(area: Area) -> str:
    first, end = area.bar_range
    return f"BAR{area.region} {first:#x}-{end - 1:#x}"


@session_check("session.exec", Severity.MEDIUM, needs_root=True)
def executable(host: Host, session: Session) -> Findings:
    """No memory is writable and executable.

    Looks at the rights in /proc/PID/maps, of every process. Registers and packet memory must not be executable at all.
    libffi, which the compiler uses for callbacks, makes one page that is writable and executable. A worker of ours
    takes the right to write from it; control cannot (libffi writes there when Python ends), but looks at no packet:
    one such page there is a warning.

    Holds unless: a mapping is both; the same memory (a shared file or memfd) is mapped to be written at one place and
    to be executed at another; registers or packet memory are executable. SKIP if the memory of a process is hidden.

    Why: who can write code needs no other hole. Compiled code of Numba is executable, but no longer writable.

    Fix: compile before the worker seals itself; do not load libraries that make such memory.
    """
    bad = [
        (one, area)
        for one in session.processes
        for area in one.mappings
        if "x" in area.rights and ("w" in area.rights or area.is_bar or area.is_packet_memory)
    ]
    bad += _twice(session)
    of_control = [area for one, area in bad if one in session.holders and session.workers]
    if bad and len(of_control) == len(bad) == 1 and not of_control[0].path and _size(of_control[0]) == PAGE:
        yield warn(f"a page of libffi in {bad[0][0]}", bad[0][0].map(bad[0][1]))
    elif bad:
        yield fail(
            f"writable and executable: {names({one.pid: one for one, _ in bad}.values())}", *(a.map(b) for a, b in bad)
        )
    else:
        yield passed("none")


def _twice(session: Session) -> list[tuple[Process, Area]]:
    """Executable mappings of what another mapping of the session can write."""
    areas = [(one, area) for one in session.processes for area in one.mappings]
    written = {area.file for _, area in areas if area.rights[1] == "w" and area.rights[3] == "s"}
    return [
        (one, area) for one, area in areas if area.file in written and "x" in area.rights and "w" not in area.rights
    ]


def _size(area: Area) -> int:
    return area.end - area.start


@session_check("session.mseal", Severity.LOW, needs_root=True)
def mseal(host: Host, session: Session) -> Findings:
    """A worker cannot change what it has mapped.

    Looks for the flag `sl` (sealed) of the mappings of registers and packet memory in /proc/PID/smaps (root).

    Holds unless: one of these mappings lacks the flag, or the kernel is older than 6.10. SKIP if a worker's memory is
    hidden, or its flags are not all shown.

    Why: a worker that is taken over could unmap a page and map something else where code trusts an address.

    Fix: use Linux 6.10 or newer, where workers seal their mappings by themselves.
    """
    if not session.workers or session.kind is Kind.OTHER:
        yield skip("it has no workers")
        return
    if host.version < (6, 10):
        yield warn(f"Linux {host.release.value} has no mseal", host.release)
        return
    unsealed = [entry for one in session.workers for entry in _unsealed(host, one)]
    hidden = [one for one in session.workers if not _flags_are_shown(host, one)]
    if unsealed:
        yield warn(f"{len(unsealed)} mappings are not sealed", *unsealed[:4])
    elif hidden:
        yield skip(f"the flags of the memory of {names(hidden)} are not all shown")
    else:
        yield passed("registers and packet memory are sealed")


def _flags_are_shown(host: Host, process: Process) -> bool:
    def count(areas: Iterable[Area]) -> int:
        return sum(area.is_bar or area.is_packet_memory for area in areas)

    heads = [line for line in host.lines(f"/proc/{process.pid}/smaps") if line[:1] in "0123456789abcdef"]
    return count(map(parse_mapping, filter(None, heads))) >= count(process.mappings)


def _unsealed(host: Host, process: Process) -> Iterable[Reading]:
    path = f"/proc/{process.pid}/smaps"
    area: Area | None = None
    for line in host.lines(path):
        if line and line[0] in "0123456789abcdef":
            area = parse_mapping(line)
        elif (
            line.startswith("VmFlags:") and area and (area.is_bar or area.is_packet_memory) and "sl" not in line.split()
        ):
            yield Reading(path, area.line)
