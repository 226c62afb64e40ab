"""A session: what its processes may do, and how far the one that sees packets is from the device."""

from collections.abc import Iterable

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Reading, Severity, fail, passed, session_check, skip, warn
from ixy_vfio.audit.processes import PAGE, Area, Process, parse_mapping
from ixy_vfio.audit.sessions import Kind, Level, Session, level

# Pages of BAR0 that hold nothing but queues: base, length, head, tail of rings. 82599 datasheet, section 8.2.3.8 and 9.
QUEUE_PAGES = ((0x1000, 0x2000), (0x6000, 0x8000), (0xD000, 0xE000))
WORKER_FDS = ("socket:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "pipe:")
NO_MORE = ("Max open files", "Max processes", "Max file size")  # lines of /proc/PID/limits
SIMULATED = "a simulated device: no IOMMU is involved"


def names(processes: Iterable[Process]) -> str:
    """For a sentence."""
    return ", ".join(map(str, processes))


@session_check("session.iommu", Severity.HIGH)
def iommu(host: Host, session: Session) -> Findings:
    """The session's devices are held back by an IOMMU.

    Says plainly when a session runs on simulated devices: DMA is then done by the simulator, in software.

    Why: what is shown on a simulated device says nothing about the isolation of a real one.

    Fix: none needed. Audit a session on a real device.
    """
    without = [address for address in session.devices if address in host.devices and not host.devices[address].group]
    if session.kind is Kind.SIMULATED:
        yield skip(SIMULATED)
    elif without:
        yield skip(f"no IOMMU group: {', '.join(without)}; see device.iommu")
    elif not session.devices:
        yield skip("which devices it has is not shown (before Linux 6.18 to root only)")
    else:
        yield passed(", ".join(f"{one} in group {host.devices[one].group}" for one in session.devices))


@session_check("session.level", Severity.MEDIUM)
def isolation_level(host: Host, session: Session) -> Findings:
    """Whoever sees packets does not hold the device.

    L1: one process has both. L2: workers, children of the process that holds the device, see the packets; they have
    queues and packet memory. L3: as L2, on a virtual function.

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

    Looks at the user ids and capabilities of every process.

    Why: a driver needs neither. A root driver that a packet takes over has the machine, and the IOMMU holds back its
    device only.

    Fix: run it as an ordinary user; let the helper give it the device.
    """
    bad = [one for one in session.processes if 0 in one.uids or one.capabilities]
    if bad:
        yield fail(f"privileged: {names(bad)}", *(one.fact(key) for one in bad for key in ("Uid", "CapEff")))
    else:
        yield passed("no root, no capabilities", *(one.fact("Uid") for one in session.processes))


@session_check("session.sandbox", Severity.MEDIUM)
def sandbox(host: Host, session: Session) -> Findings:
    """Its processes are sandboxed: no_new_privs and a system-call filter.

    Looks at NoNewPrivs and Seccomp in /proc/PID/status. A worker must have both; the process that holds the device
    should.

    Why: the IOMMU isolates the device, not the program. Without a filter, a program taken over has the kernel's whole
    interface, and whatever its user may do.

    Fix: use workers of ixy-vfio, which seal themselves; DPDK and SPDK have no sandbox of their own, but run in a
    systemd unit with SystemCallFilter= and NoNewPrivileges=.
    """
    lacks = [
        one for one in session.processes if one.status.get("Seccomp") != "2" or one.status.get("NoNewPrivs") != "1"
    ]
    workers = [one for one in lacks if one in session.workers]
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
        soft = {line[:25].strip(): line[25:].split()[:1] for line in (reading.value or "").splitlines()}
        lacks = [name.removeprefix("Max ") for name in NO_MORE if soft.get(name) != ["0"]]
        if node is not None and node.uid and 0 not in one.uids:
            good = False
            yield warn(f"{one} can be traced by its user", owner)
        if lacks:
            good = False
            yield warn(f"{one} is not limited: {', '.join(lacks)}", reading)
    if good:
        yield passed("not dumpable, limits of 0", *(host.read(f"/proc/{one.pid}/limits") for one in session.workers))


@session_check("session.fds", Severity.HIGH, needs_root=True)
def fds(host: Host, session: Session) -> Findings:
    """A worker has no file descriptors but sockets, pipes and eventfds.

    Looks at /proc/PID/fd of every worker (root: workers are not dumpable).

    Why: a device fd is the whole device; a file or a memfd is a way out of the sandbox.

    Fix: open files in the control process; set close-on-exec and close before the worker starts.
    """
    if not session.workers:
        yield skip("it has no workers")
        return
    bad = [
        (one, number) for one in session.workers for number, what in one.fds.items() if not what.startswith(WORKER_FDS)
    ]
    if bad:
        text = ", ".join(f"{one} has {one.fds[number]}" for one, number in bad)
        yield fail(text, *(one.fd(number) for one, number in bad))
    else:
        yield passed(
            f"{sum(len(one.fds) for one in session.workers)} fds in {len(session.workers)} workers, all harmless"
        )


def outside_queue_pages(area: Area) -> bool:
    """Whether a mapping of a BAR has more than queue pages."""
    first, end = area.bar_range
    return area.region != 0 or not any(low <= first and end <= high for low, high in QUEUE_PAGES)


@session_check("session.bar", Severity.HIGH, needs_root=True)
def bar(host: Host, session: Session) -> Findings:
    """A worker has the queue pages of the device's registers, and no others.

    The kernel shows in /proc/PID/maps which part of which BAR is mapped (root). Of an 82599 a worker may have
    0x1000-0x1fff, 0x6000-0x7fff and 0xd000-0xdfff of BAR 0.

    Why: other pages hold reset, interrupts, filters, and EEPROM and flash access.

    Fix: map the BAR in the control process only, and unmap all but these pages before the worker starts.
    """
    if not session.workers:
        yield skip("it has no workers")
        return
    pages = [(one, area) for one in session.workers for area in one.mappings if area.is_bar]
    bad = [(one, area) for one, area in pages if outside_queue_pages(area)]
    if bad:
        text = ", ".join(f"{one} has {_place(area)}" for one, area in bad)
        yield fail(text, *(one.map(area) for one, area in bad))
    else:
        yield passed("queue pages only", *(one.map(area) for one, area in pages))


def _place(area: Area) -> str:
    first, end = area.bar_range
    return f"BAR{area.region} {first:#x}-{end - 1:#x}"


@session_check("session.exec", Severity.MEDIUM, needs_root=True)
def executable(host: Host, session: Session) -> Findings:
    """No memory is writable and executable.

    Looks at the rights in /proc/PID/maps. Registers and packet memory must not be executable at all. libffi, which the
    compiler uses for callbacks, makes one page that is writable and executable. A worker of ours takes the right to
    write from it; control cannot (libffi writes there when Python ends), but looks at no packet: one such page there is
    a warning.

    Why: who can write code needs no other hole. Compiled code of Numba is executable, but no longer writable.

    Fix: compile before the worker seals itself; do not load libraries that make such memory.
    """
    bad = [
        (one, area)
        for one in session.processes
        for area in one.mappings
        if "x" in area.rights and ("w" in area.rights or area.is_bar or area.is_packet_memory)
    ]
    of_control = [area for one, area in bad if one in session.holders and session.workers]
    if bad and len(of_control) == len(bad) == 1 and not of_control[0].path and _size(of_control[0]) == PAGE:
        yield warn(f"a page of libffi in {bad[0][0]}", bad[0][0].map(bad[0][1]))
    elif bad:
        yield fail(
            f"writable and executable: {names({one.pid: one for one, _ in bad}.values())}", *(a.map(b) for a, b in bad)
        )
    else:
        yield passed("none")


def _size(area: Area) -> int:
    return area.end - area.start


@session_check("session.mseal", Severity.LOW, needs_root=True)
def mseal(host: Host, session: Session) -> Findings:
    """A worker cannot change what it has mapped.

    Looks for the flag `sl` (sealed) of the mappings of registers and packet memory in /proc/PID/smaps (root).

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
    if unsealed:
        yield warn(f"{len(unsealed)} mappings are not sealed", *unsealed[:4])
    else:
        yield passed("registers and packet memory are sealed")


def _unsealed(host: Host, process: Process) -> Iterable[Reading]:
    path = f"/proc/{process.pid}/smaps"
    area: Area | None = None
    for line in (host.read(path).value or "").splitlines():
        if line and line[0] in "0123456789abcdef":
            area = parse_mapping(line)
        elif line.startswith("VmFlags:") and area and (area.is_bar or area.is_packet_memory) and " sl" not in line:
            yield Reading(path, area.line)
