"""What the picture shows: plain data, so that a report carries it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ixy_vfio.audit.host import Host, PciDevice
from ixy_vfio.audit.processes import Process
from ixy_vfio.audit.sessions import LEASES, Kind, Session, claims, level
from ixy_vfio.audit.system import Denied


@dataclass(slots=True)
class ProcessBox:
    """A process: who it is, what it has open, what it has mapped. None: hidden from the auditor."""

    role: str
    name: str
    pid: int
    uids: list[int]
    fds: list[str] | None
    bar: list[str] | None
    memory: int | None  # bytes of packet memory mapped


@dataclass(slots=True)
class SessionBox:
    """A session: `level` is empty when a worker was hidden."""

    name: str
    kind: str
    level: str
    devices: list[str]
    processes: list[ProcessBox]


@dataclass(slots=True)
class DeviceBox:
    """A device, its group, what is above it, and the ranges it may reach by DMA (of the helper's ledger)."""

    address: str
    ids: str
    driver: str
    group: str
    neighbours: list[str]
    bridges: list[str]
    iova: list[str]


@dataclass(slots=True)
class Scene:
    """All of it."""

    iommus: list[str] = field(default_factory=list)
    devices: list[DeviceBox] = field(default_factory=list)
    sessions: list[SessionBox] = field(default_factory=list)


def draw(host: Host, devices: Sequence[PciDevice], sessions: Sequence[Session]) -> Scene:
    """Gather it."""
    return Scene(host.iommus, [_device(host, one) for one in devices], [_session(host, one) for one in sessions])


def _device(host: Host, device: PciDevice) -> DeviceBox:
    neighbours = (
        []
        if device.group is None
        else [f"{one.address} {one.driver or 'no driver'}" for one in host.group(device.group) if one != device]
    )
    try:
        leased = device.address in claims(host)
        ledger = (host.read(f"{LEASES}/{device.address}.ledger").value or "") if leased else ""
    except Denied:
        ledger = ""
    ids = f"{device.vendor:04x}:{device.device:04x}"
    return DeviceBox(
        device.address, ids, device.driver or "none", device.group or "", neighbours, list(device.bridges),
        [_range(line.split()) for line in ledger.splitlines()],
    )  # fmt: skip


def _range(words: list[str]) -> str:
    size = int(words[1], 16)
    amount = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    return f"{words[0]}, {amount}: {' '.join(words[2:])}"


def _session(host: Host, session: Session) -> SessionBox:
    boxes = [_process("control" if session.workers else "driver", one) for one in session.holders]
    boxes += [_process("worker", one) for one in session.workers]
    if session.helper is not None:
        boxes.insert(0, _process("helper", session.helper))
    try:
        found = level(host, session).name
    except Denied:
        found = ""
    kind = "simulated: no IOMMU involved" if session.kind is Kind.SIMULATED else session.kind.value
    return SessionBox(session.name, kind, found, list(session.devices), boxes)


def _process(role: str, process: Process) -> ProcessBox:
    areas = process.shown_mappings
    fds = None if process.shown_fds is None else list(process.shown_fds.values())
    return ProcessBox(
        role, process.name, process.pid, sorted(process.uids), _count(fds),
        None if areas is None else [
            f"BAR{area.region} {area.bar_range[0]:#x}-{area.bar_range[1] - 1:#x}" for area in areas if area.is_bar
        ],
        None if areas is None else sum(area.end - area.start for area in areas if area.is_packet_memory),
    )  # fmt: skip


def _count(fds: list[str] | None) -> list[str] | None:
    """Kinds of file descriptors, with how many there are of each; those that lead to a device first."""
    if fds is None:
        return None
    names = [what.split(":[")[0] if what.startswith(("socket:", "pipe:")) else what for what in fds]
    names = [what.removeprefix("anon_inode:").strip("[]") for what in names]
    kinds = sorted(set(names), key=lambda kind: ("vfio" not in kind, kind != "/dev/iommu", names.index(kind)))
    return [f"{kind} x{names.count(kind)}" if names.count(kind) > 1 else kind for kind in kinds]
