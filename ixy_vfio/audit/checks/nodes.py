"""Files that give power over devices: who owns them, who may open them, who has them open."""

from ixy_vfio.audit.host import DEVICES, Host, PciDevice
from ixy_vfio.audit.model import (
    Finding,
    Findings,
    Severity,
    device_check,
    fail,
    host_check,
    passed,
    skip,
    warn,
)
from ixy_vfio.audit.processes import (
    MEMORY_NODES,
    Process,
    blind,
    device_names,
    is_device_fd,
    is_sysfs_bar,
    processes_of,
)
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.rights import READ, WRITE, is_one_users, replaceable, strangers
from ixy_vfio.audit.sessions import Kind, sessions_of, strays_of

EXECUTE = 1
MEMORY = ("/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore")
UIO_DRIVERS = ("uio_pci_generic", "igb_uio")
DRIVER_FILES = ("bind", "unbind", "new_id", "remove_id")


@host_check("nodes.vfio", Severity.HIGH, needs=("/proc",))
def vfio_nodes(host: Host) -> Findings:
    """Only root can open the device nodes of VFIO.

    Looks at owner, group, mode and ACL of the nodes of groups, devices and iommufd, in /dev/vfio and in /dev, and at
    the directories above them. /dev/vfio/vfio alone may be open to all, as udev makes it: it does nothing without a
    group. With our helper nobody but root needs any of the others.

    Holds unless: everybody, a group that is not root's, or a user has any right to a node (the kernel gives a whole
    device for the right to read), by mode or by ACL; others can put nodes in their places; such a node lies in /dev
    under another name. A node of one user (and of that user's own group) is a warning: that is a decision. Further
    nodes of the same device elsewhere (made by mknod, or for a container) are not seen. In a container SKIP: /dev is
    not the machine's.

    Why: who can open a group's or device's node can drive the device, and let it do DMA to any memory of its own
    process.

    Fix: remove the udev rule, chmod or setfacl that opened it; give devices to users by the helper's policy.
    """
    host.require_whole()
    everybody: list[tuple[str, str, Reading]] = []
    users: list[tuple[str, str, Reading]] = []
    there: list[Reading] = []
    for path in _vfio_nodes(host):
        node, reading = host.node(path)
        if node is None:
            continue
        there.append(reading)
        if who := strangers(host, node, READ | WRITE | EXECUTE):
            (users if is_one_users(host, node) else everybody).append((path, who, reading))
    if everybody:
        said = "; ".join(f"{path} is open to {who}" for path, who, _ in everybody)
        yield fail(said, *(reading for *_, reading in everybody))
    if users:
        said = "; ".join(f"{path} is owned by {who}" for path, who, _ in users)
        yield warn(said, *(reading for *_, reading in users))
    if loose := [
        one for top in ("/dev/vfio", "/dev/vfio/devices") if host.exists(top) for one in replaceable(host, top)
    ]:
        yield fail(f"others than root can replace nodes: {', '.join(one.path for one in loose)}", *loose)
    if not there:
        yield passed("there are none", host.names("/dev/vfio"))
    else:
        yield passed(f"{len(there)} nodes, root's alone", *there)


def _vfio_nodes(host: Host) -> list[str]:
    """Their paths: all in their usual places, and in /dev those that are the same devices by number."""
    found = [f"/dev/vfio/{name}" for name in host.system.names("/dev/vfio") if name not in ("vfio", "devices")]
    found += [f"/dev/vfio/devices/{name}" for name in host.system.names("/dev/vfio/devices")]
    names = {
        number: name for number, name in device_names(host).items() if name.startswith(("/dev/vfio/", "/dev/iommu"))
    }
    for name in host.system.names("/dev"):
        usual = names.get(host.system.device(f"/dev/{name}") or "", "")
        if usual and usual not in ("/dev/vfio/vfio", "/dev/iommu"):
            found.append(f"/dev/{name}")
    return [*found, "/dev/iommu"]


@host_check("nodes.memory", Severity.HIGH, needs_root=True, needs=("/proc",))
def memory_nodes(host: Host) -> Findings:
    """Nobody but root can reach physical memory and ports.

    Looks at owner, group, mode and ACL of /dev/mem, /dev/kmem, /dev/port and /proc/kcore, and at who has them open
    (root).

    Holds unless: everybody, a user, or a group that has members may read or write one of them (Debian's group kmem may
    read, and has none); others can put nodes in their places; a process has one open, whatever name it was opened by.
    Who has it open is shown to root only: else SKIP.

    Why: they step around everything else here.

    Fix: chmod o-rwx; end the program that has it open; boot with lockdown=integrity.
    """
    host.require_whole()
    readings, good = [], True
    for path in MEMORY:
        node, reading = host.node(path)
        if node is None:
            continue
        readings.append(reading)
        # A group without members may read, not write.
        if who := strangers(host, node, WRITE) or strangers(host, node, READ, empty_groups=True):
            good = False
            yield fail(f"{path} is open to {who}", reading)
    for process in processes_of(host):
        for fd, what in (process.shown_fds or {}).items():
            if what in MEMORY_NODES.values():
                good = False
                yield warn(f"{process} has {what} open", process.fd(fd))
    if good and blind(host):
        yield skip(f"the modes are right; who has them open is {blind(host)}", *readings)
    elif good:
        yield passed("root's alone" if readings else "there are none", *readings)


@host_check("nodes.uio", Severity.HIGH, needs_root=True)
def uio(host: Host) -> Findings:
    """No PCI device is driven from user space past the IOMMU.

    Looks for devices bound to uio_pci_generic, igb_uio or any other driver that makes a UIO device of them, at the
    modes of /dev/uio*, and for processes that have such a node, or resourceN of a device in sysfs, open or mapped
    (root), as the original ixy and Snabb do.

    Holds unless: a PCI device has such a driver, whatever its name; others than root may open a node; a process has a
    node or registers open, also by another name, in a container, or in one thread only. A name that was opened without
    rights (O_PATH), and files of the same names that are not sysfs', are no harm. What processes have open is shown to
    root only: else SKIP.

    Why: both give registers away without an IOMMU domain: the program can tell the device to do DMA to any address
    that the default domain allows, which is all memory when there is no IOMMU or it is in passthrough.

    Fix: bind the device to vfio-pci.
    """
    good = True
    for finding in _uio_findings(host):
        good = False
        yield finding
    if good and blind(host):
        yield skip(f"no UIO driver; who maps registers through sysfs is {blind(host)}")
    elif good:
        yield passed("no UIO driver, nobody maps registers through sysfs")


def _uio_findings(host: Host) -> list[Finding]:
    found = []
    bound = [
        device
        for device in host.devices.values()
        if device.driver in UIO_DRIVERS or (device.driver and host.exists(f"{DEVICES}/{device.address}/uio"))
    ]
    if bound:
        evidence = [Reading(f"{DEVICES}/{device.address}/driver", device.driver) for device in bound]
        found.append(fail(f"driven past the IOMMU: {', '.join(map(str, bound))}", *evidence))
    for name in host.system.names("/dev"):
        node, reading = host.node(f"/dev/{name}") if name.startswith("uio") else (None, None)
        if node is not None and reading is not None and (who := strangers(host, node, READ | WRITE)):
            found.append(fail(f"/dev/{name} is open to {who}", reading))
    mapping = [(process, reading) for process in processes_of(host) for reading in _sysfs_bars(process)]
    if mapping:
        names = ", ".join(map(str, {process.pid: process for process, _ in mapping}.values()))
        found.append(fail(f"registers reached past VFIO by {names}", *(reading for _, reading in mapping)))
    return found


def _sysfs_bars(process: Process) -> list[Reading]:
    fds = [fd for fd, what in (process.shown_fds or {}).items() if is_sysfs_bar(what) or what.startswith("/dev/uio")]
    areas = [area for area in process.shown_mappings or () if is_sysfs_bar(area.path)]
    return [process.fd(fd) for fd in fds] + [process.map(area) for area in areas]


@device_check("nodes.sysfs", Severity.HIGH)
def sysfs(host: Host, device: PciDevice) -> Findings:
    """The device's files in sysfs are root's alone.

    Looks at owner, group, mode and ACL of every file of the device in sysfs, and of those that bind devices to its
    driver.

    Holds unless: others than root may read resourceN or rom, or write any file (config, driver_override, reset, remove,
    sriov_numvfs, vpd, bind, new_id and so on).

    Why: who can open resourceN maps the BAR past VFIO, and all of it; who can write config turns bus mastering on, or
    moves BARs; who can write driver_override or new_id gives the device to another driver.

    Fix: chown root and chmod go-rwx the resources, go-w the others; remove the script or udev rule that changed them.
    """
    paths = [f"{DEVICES}/{device.address}/{name}" for name in host.system.names(f"{DEVICES}/{device.address}")]
    paths += [f"{DEVICES}/{device.address}/driver/{name}" for name in DRIVER_FILES]
    bad, seen = [], []
    for path in paths:
        node, reading = host.node(path)
        name = path.rpartition("/")[2]
        if node is None or node.kind != "-":
            continue
        secret = (name.startswith("resource") and name != "resource") or name == "rom"
        if strangers(host, node, READ | WRITE if secret else WRITE):
            bad.append((name, reading))
        elif secret or name == "config":
            seen.append(reading)
    if bad:
        yield fail(f"open to others than root: {', '.join(name for name, _ in bad)}", *(reading for _, reading in bad))
    elif not paths:
        yield skip("its directory in sysfs is not there")
    else:
        yield passed("root's alone", *seen)


@device_check("device.holders", Severity.HIGH, needs_root=True)
def holders(host: Host, device: PciDevice) -> Findings:
    """Only one session has the device.

    Looks through the fds of all processes and threads (root) for this device, its group and its node. The helper's own
    process for the lease is known by the record of its lease, which only root can write, and by who listens on its
    socket: not by its name.

    Holds unless: another process has a duplicate, also by a node of another name, in a thread with a table of its own,
    when its first thread has ended, or when it calls itself as the helper or as the simulator; a process that is no
    child of the session shares its memory. Before Linux 6.18 nothing says which device an fd is of: then one that
    could be of this device counts. SKIP unless everything is seen.

    Why: a duplicate of a device's fd gives the whole device: registers, interrupts, reset; and while it is open, DMA
    goes on after the driver was killed, because the kernel sees no last close.

    Fix: find out where that process got it, and end it.
    """
    sessions = sessions_of(host).of(device.address)
    sessions += [one for one in sessions_of(host).sessions if not one.devices and any(map(_holds, one.processes))]
    strangers = [*strays_of(host, device.address)]
    strangers += [process for one in sessions[:1] if one.kind is Kind.OURS for process in one.holders[1:]]
    if strangers:
        fds = [one.fd(fd) for one in strangers for fd, what in (one.shown_fds or {}).items() if is_device_fd(what)]
        yield fail(f"held by {', '.join(map(str, strangers))} too", *fds)
    elif len(sessions) > 1:
        yield fail(f"held by {' and by '.join(str(session.holders[0]) for session in sessions)}")
    elif blind(host):
        yield skip(f"who has a device open is {blind(host)}")
    elif sessions:
        yield passed(f"held by {', '.join(map(str, sessions[0].holders))}")
    else:
        yield passed("nobody has it open")


def _holds(process: Process) -> bool:
    return process.holds_device
