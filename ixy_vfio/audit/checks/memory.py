"""DMA memory of a session: its seals, its domain, and whether the IOMMU maps what the ledger says."""

import re

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Finding, Findings, Severity, fail, passed, session_check, skip, warn
from ixy_vfio.audit.processes import GROUP_NODE, PAGE
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.rights import WRITE, strangers
from ixy_vfio.audit.sessions import Kind, Session

LEDGERS = "/run/ixy_vfio/leases"  # ADDRESS.ledger: a line `IOVA SIZE rw PURPOSE` for each mapping of a device
INTEL = "/sys/kernel/debug/iommu/intel"
SEALS = 0x7  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW, linux/fcntl.h
MAY_READ, MAY_WRITE = 1, 2  # bits of a VT-d page table entry
Pages = dict[int, str]  # IOVA of a page -> rights


@session_check("session.seals", Severity.MEDIUM, needs_root=True)
def seals(host: Host, session: Session) -> Findings:
    """Memory that devices write cannot shrink.

    Asks for the seals of packet memory through /proc/PID/map_files (root): it must be sealed against shrinking,
    growing and further seals.

    Holds unless: one mapping of it, in any process of the session, lacks a seal. SKIP if the memory of one of them, or
    one seal, is hidden, or none was found.

    Why: who can shrink a shared memfd makes every process that touches it die, and frees pages while a device is told
    to write to them.

    Fix: let the helper make the memory; it seals it before it passes it.
    """
    if session.kind is Kind.OTHER:
        yield skip("its memory is its own")
        return
    bad, unknown, seen = [], 0, 0
    for process in session.processes:
        for area in process.mappings:
            if not area.is_packet_memory:
                continue
            seen += 1
            path = f"/proc/{process.pid}/map_files/{area.start:x}-{area.end:x}"
            found = host.system.seals(path)
            unknown += found is None
            if found is not None and found & SEALS != SEALS:
                bad.append(Reading(path, f"seals {found:#x}"))
    if bad:
        yield fail("packet memory is not sealed", *bad)
    elif unknown or not seen:
        yield skip("the seals of packet memory are not shown" if seen else "it has no packet memory")
    else:
        yield passed("packet memory is sealed")


@session_check("session.container", Severity.HIGH)
def container(host: Host, session: Session) -> Findings:
    """Each device has an IOMMU domain of its own.

    Counts, in each process that has any, containers (/dev/vfio/vfio) against groups, and iommufds (/dev/iommu)
    against device nodes.

    Holds unless: a process has more groups than containers, or more nodes of devices than iommufds; all by the numbers
    of their nodes, whatever they are called. SKIP while the fds of the helper, or of a process of another program's
    session, are hidden. That two processes have a domain in common is not seen.

    Why: in a common container every device reaches the memory of all. A device that is taken over by one bug then
    reads the packets of the others. And who holds the node of a device can attach it to any address space of the same
    iommufd.

    Fix: one container or iommufd for each device, as our helper has; DPDK: one process for each device.
    """
    shared, counted, hidden = [], 0, []
    for process in filter(None, (*session.processes, session.helper)):
        if process.shown_fds is None and process not in session.workers:
            hidden.append(process)
        held = list((process.shown_fds or {}).values())
        groups = {what for what in held if GROUP_NODE.fullmatch(what)}
        nodes = {what for what in held if what.startswith("/dev/vfio/devices/")}
        domains = {"/dev/vfio/vfio": groups, "/dev/iommu": nodes}
        counted += sum(map(held.count, domains))
        if many := [one for domain, what in domains.items() if len(what) > held.count(domain) > 0 for one in what]:
            shared.append((process, sorted(many)))
    if shared:
        text = "; ".join(f"{process}: {', '.join(what)} in one" for process, what in shared)
        yield warn(text, *(Reading(f"/proc/{process.pid}/fd", " ".join(what)) for process, what in shared))
    elif session.kind is Kind.SIMULATED:
        yield skip("a simulated device: no IOMMU is involved")
    elif not counted or hidden:
        yield skip("who holds its container is not shown")
    else:
        yield passed("one domain for each device")


@session_check("session.dma", Severity.HIGH, needs_root=True)
def ledger(host: Host, session: Session) -> Findings:
    """The IOMMU lets devices reach what the helper's ledger says, and nothing else.

    Compares, page by page and with rights, the helper's ledger with the IOMMU's own tables: those of VT-d in debugfs
    (root), else the iommu:map trace events of the helper's process where they are on.

    Holds unless: a page is mapped that the ledger does not have, or with other rights; others than root can write the
    ledger, or put another one in its place. A page of the ledger that is not mapped is a warning. The trace does not
    tell rights, and only what was mapped since it is on. SKIP where neither is shown.

    Why: a mapping that nobody accounts for is memory that a device can read or write without a reason.

    Fix: end the session, and look into the helper's log. To see the tables, mount debugfs and use a kernel with
    INTEL_IOMMU_DEBUGFS; on other IOMMUs turn on events/iommu/map before the session starts.
    """
    if session.kind is not Kind.OURS:
        yield skip("a simulated device: no IOMMU is involved" if session.kind is Kind.SIMULATED else "it has no ledger")
        return
    ledgers = {address: host.read(f"{LEDGERS}/{address}.ledger") for address in session.devices}
    expected = {address: _expected(reading.value or "") for address, reading in ledgers.items()}
    together: Pages = {page: rights for pages in expected.values() for page, rights in pages.items()}
    for address, reading in ledgers.items():
        nodes = [host.node(path) for path in (reading.path, LEDGERS)]
        if loose := [one for node, one in nodes if node and strangers(host, node, WRITE)]:
            yield fail(f"{address}: others than root can change the ledger", *loose)
            continue
        if reading.value is None:
            yield skip(f"{address}: the helper wrote no ledger", reading)
            continue
        source, actual = _tables(host, address)
        if actual is not None:
            yield _compared(address, expected[address], actual, Reading(source, None), reading)
            continue
        source, actual = _trace(host, session)  # of all devices: an event does not say which
        if actual is not None:
            yield _compared(address, together, actual, Reading(source, None), reading)
        else:
            yield skip(f"{address}: this kernel does not show what is mapped", reading)


def _compared(address: str, expected: Pages, actual: Pages, source: Reading, ledger: Reading) -> Finding:
    extra = sorted(page for page, rights in actual.items() if expected.get(page) != rights)
    missing = sorted(set(expected) - set(actual))
    if extra:
        first = Reading(source.path, f"{extra[0]:#x} {actual[extra[0]]}")
        return fail(f"{address}: {len(extra)} pages that the ledger does not allow, from {first.value}", first, ledger)
    if missing:
        first = Reading(source.path, f"{missing[0]:#x} is not mapped")
        return warn(f"{address}: {len(missing)} pages of the ledger are not mapped", first, ledger)
    same = Reading(source.path, f"{len(actual)} pages, as in the ledger")
    return passed(f"{address}: {len(actual)} pages, as the ledger says", same, ledger)


def _expected(text: str) -> Pages:
    pages: Pages = {}
    for line in text.splitlines():
        iova, size, rights = line.split()[:3]
        pages |= dict.fromkeys(range(int(iova, 16), int(iova, 16) + int(size, 16), PAGE), rights)
    return pages


def _tables(host: Host, address: str) -> tuple[str, Pages | None]:
    """(file, pages) of the tables of VT-d; None when this kernel does not show them."""
    for path in (f"{INTEL}/{address}/domain_translation_struct", f"{INTEL}/domain_translation_struct"):
        if text := host.read(path).value:  # the first since Linux 6.7, the second before
            return path, _vtd(text, address)
    return INTEL, None


def _trace(host: Host, session: Session) -> tuple[str, Pages | None]:
    """(file, pages) by the trace of the helper's process; None when nobody turned it on."""
    path = "/sys/kernel/tracing"
    if session.helper is not None and host.read(f"{path}/events/iommu/map/enable").value == "1":
        return f"{path}/trace", _traced(host.read(f"{path}/trace").value or "", session.helper.pid)
    return path, None


def _vtd(text: str, address: str) -> Pages:
    """What drivers/iommu/intel/debugfs.c prints: per device, page frame number and the entries that lead to it."""
    pages: Pages = {}
    ours = False
    for line in text.splitlines():
        if line.startswith("Device "):
            ours = line.split()[1] == address
        elif ours and line.startswith("0x"):
            frame, *entries = line.replace("|", " ").split()
            values = [int(entry, 16) for entry in entries[2:]]  # PDPE, PDE, PTE, as far as they were walked
            leaf = max((depth for depth, value in enumerate(values) if value), default=0)
            rights = ("r" if values[leaf] & MAY_READ else "") + ("w" if values[leaf] & MAY_WRITE else "")
            first = int(frame, 16) * PAGE
            pages |= dict.fromkeys(range(first, first + PAGE * 512 ** (2 - leaf), PAGE), rights)
    return pages


_TRACE = re.compile(r"-(\d+)\s.*\b(map|unmap): IOMMU: iova=0x([0-9a-f]+) .*?\bsize=(\d+)")


def _traced(text: str, pid: int) -> Pages:
    """What the events of one process add up to. They do not say rights: taken as read and write."""
    pages: Pages = {}
    for line in text.split("\n"):
        if (found := _TRACE.search(line)) and int(found[1]) == pid:
            first, size = int(found[3], 16), int(found[4])
            for page in range(first, first + size, PAGE):
                if found[2] == "map":
                    pages[page] = "rw"
                else:
                    pages.pop(page, None)
    return pages
