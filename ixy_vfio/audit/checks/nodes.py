"""Files that give power over devices: who owns them, who may write them, who has them open."""

from ixy_vfio.audit.host import DEVICES, Host, PciDevice
from ixy_vfio.audit.model import Findings, Reading, Severity, device_check, fail, host_check, passed, skip, warn
from ixy_vfio.audit.processes import Process, is_device_fd, is_sysfs_bar
from ixy_vfio.audit.sessions import strays_of
from ixy_vfio.audit.system import Node

OTHERS_WRITE, GROUP_WRITE = 0o002, 0o020
RESOURCES = tuple(f"resource{number}" for number in range(6))


def _open(node: Node, secret: bool) -> bool:
    """Whether others than root may write, or if it is `secret`, read."""
    return bool(node.mode & (0o066 if secret else 0o022)) or bool(node.uid and node.mode & 0o600)


@host_check("nodes.vfio", Severity.HIGH)
def vfio_nodes(host: Host) -> Findings:
    """No device node of VFIO is open to everybody.

    Looks at the modes of /dev/vfio/* and /dev/iommu. /dev/vfio/vfio alone may be open to all, as udev makes it: it
    does nothing without a group. With our helper nobody but root needs any of the others.

    Why: who can open a group's or device's node can drive the device, and let it do DMA to any memory of its own
    process.

    Fix: remove the udev rule or chmod that opened it; give devices to users by the helper's policy.
    """
    paths = [f"/dev/vfio/{name}" for name in host.system.names("/dev/vfio") if name not in ("vfio", "devices")]
    paths += [f"/dev/vfio/devices/{name}" for name in host.system.names("/dev/vfio/devices")]
    nodes = [(path, *host.node(path)) for path in [*paths, "/dev/iommu"]]
    open_to_all = [(path, reading) for path, node, reading in nodes if node and node.mode & OTHERS_WRITE]
    owned = [(path, reading) for path, node, reading in nodes if node and node.uid and not node.mode & OTHERS_WRITE]
    if open_to_all:
        yield fail(f"everybody may open {', '.join(path for path, _ in open_to_all)}", *(r for _, r in open_to_all))
    if owned:
        yield warn(f"a user other than root owns {', '.join(path for path, _ in owned)}", *(r for _, r in owned))
    there = [reading for _, node, reading in nodes if node]
    if not there:
        yield passed("there are none", host.names("/dev/vfio"))
    elif not open_to_all and not owned:
        yield passed(f"{len(there)} nodes, for root (and a group) only", *there)


@host_check("nodes.memory", Severity.HIGH)
def memory_nodes(host: Host) -> Findings:
    """Nobody but root can reach physical memory and ports.

    Looks at owner and mode of /dev/mem, /dev/kmem and /dev/port, and at who has them open (root).

    Why: they step around everything else here.

    Fix: chmod o-rwx; end the program that has it open; boot with lockdown=integrity.
    """
    readings = []
    for path in ("/dev/mem", "/dev/kmem", "/dev/port"):
        node, reading = host.node(path)
        if node is None:
            continue
        readings.append(reading)
        if node.mode & 0o007 or node.mode & GROUP_WRITE or node.uid:
            yield fail(f"{path} is open to others than root", reading)
            return
    if host.root:
        for process in host.processes:
            for number, what in (process.shown_fds or {}).items():
                if what in ("/dev/mem", "/dev/kmem", "/dev/port"):
                    yield warn(f"{process} has {what} open", process.fd(number))
                    return
    yield passed("root's alone" if readings else "there are none", *readings)


@host_check("nodes.uio", Severity.HIGH)
def uio(host: Host) -> Findings:
    """No PCI device is driven from user space past the IOMMU.

    Looks for devices bound to uio_pci_generic or igb_uio, at /dev/uio*, and for processes that have resourceN of a
    device in sysfs open or mapped (root), as the original ixy and Snabb do.

    Why: both give registers away without an IOMMU domain: the program can tell the device to do DMA to any address
    that the default domain allows, which is all memory when there is no IOMMU or it is in passthrough.

    Fix: bind the device to vfio-pci.
    """
    bound = [device for device in host.devices.values() if device.driver in ("uio_pci_generic", "igb_uio")]
    open_nodes = [
        (path, reading)
        for path in (f"/dev/{name}" for name in host.system.names("/dev") if name.startswith("uio"))
        for node, reading in [host.node(path)]
        if node is not None and node.mode & OTHERS_WRITE
    ]
    if bound:
        yield fail(
            f"driven past the IOMMU: {', '.join(map(str, bound))}",
            *(Reading(f"{DEVICES}/{device.address}/driver", device.driver) for device in bound),
        )
    if open_nodes:
        yield fail(f"everybody may open {', '.join(path for path, _ in open_nodes)}", *(r for _, r in open_nodes))
    mapping = [(process, reading) for process in host.processes for reading in _sysfs_bars(process)]
    if mapping:
        names = ", ".join(map(str, {process.pid: process for process, _ in mapping}.values()))
        yield fail(f"registers mapped through sysfs by {names}", *(reading for _, reading in mapping))
    if not bound and not open_nodes and not mapping:
        yield passed("no UIO driver, nobody maps registers through sysfs")


def _sysfs_bars(process: Process) -> list[Reading]:
    fds = [number for number, what in (process.shown_fds or {}).items() if is_sysfs_bar(what)]
    areas = [area for area in process.shown_mappings or () if is_sysfs_bar(area.path)]
    return [process.fd(number) for number in fds] + [process.map(area) for area in areas]


@device_check("nodes.sysfs", Severity.HIGH)
def sysfs(host: Host, device: PciDevice) -> Findings:
    """The device's registers and configuration in sysfs are root's alone.

    Looks at owner and mode of resource0 to resource5 and of config.

    Why: who can open resourceN maps the BAR past VFIO, and all of it; who can write config turns bus mastering on, or
    moves BARs.

    Fix: chown root and chmod 0600 the resources, 0644 config; remove the script or udev rule that changed them.
    """
    found = [(name, *host.node(f"{DEVICES}/{device.address}/{name}")) for name in (*RESOURCES, "config")]
    bad = [(name, reading) for name, node, reading in found if node and _open(node, secret=name != "config")]
    if bad:
        yield fail(f"open to others than root: {', '.join(name for name, _ in bad)}", *(reading for _, reading in bad))
    else:
        yield passed("root's alone", *(reading for _, node, reading in found if node))


@device_check("device.holders", Severity.HIGH, needs_root=True)
def holders(host: Host, device: PciDevice) -> Findings:
    """Only one session has the device.

    Looks through the fds of all processes (root) for this device, its group and its node.

    Why: a duplicate of a device's fd gives the whole device: registers, interrupts, reset; and while it is open, DMA
    goes on after the driver was killed, because the kernel sees no last close.

    Fix: find out where that process got it, and end it.
    """
    if not host.root:
        yield skip("who has a device open is shown to root only")
        return
    sessions = host.sessions.of(device.address)
    strangers = strays_of(host, device.address)
    if strangers:
        fds = [one.fd(number) for one in strangers for number, what in one.fds.items() if is_device_fd(what)]
        yield fail(f"held by {', '.join(map(str, strangers))} too", *fds)
    elif len(sessions) > 1:
        yield fail(f"held by {' and by '.join(str(session.holders[0]) for session in sessions)}")
    elif sessions:
        yield passed(f"held by {', '.join(map(str, sessions[0].holders))}")
    else:
        yield passed("nobody has it open")
