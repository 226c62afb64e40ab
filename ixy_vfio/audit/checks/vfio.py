"""VFIO's own settings."""

from ixy_vfio.audit import options
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Severity, fail, host_check, passed, warn
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.rights import WRITE, strangers

TAINT_USER = 1 << 6  # Documentation/admin-guide/tainted-kernels.rst
NOIOMMU_NODES = ("/dev/vfio", "/dev/vfio/devices", "/sys/class/vfio", "/sys/class/vfio-dev")


def _on(reading: Reading) -> bool:
    return reading.value is not None and options.is_true(reading.value.rpartition("=")[2])


def _open(host: Host, *parameters: tuple[str, str]) -> list[Reading]:
    """The parameters of loaded modules that others than root can write."""
    found = [host.node(options.parameter_path(module, name)) for module, name in parameters]
    return [reading for node, reading in found if node and strangers(host, node, WRITE)]


@host_check("vfio.unsafe_interrupts", Severity.HIGH)
def unsafe_interrupts(host: Host) -> Findings:
    """VFIO insists on interrupt remapping.

    Looks at allow_unsafe_interrupts of vfio_iommu_type1 and of iommufd; while a module is not loaded, at the command
    line and at the files of modprobe.

    Holds unless: the parameter of a loaded module is on, or others than root can write it; the command line or a file
    of modprobe turns it on when a module will be loaded: in /etc, /run, /usr/local/lib, /usr/lib or /lib, by
    `options` or `install`, by an alias, with dashes for underscores, without a value, or as any word that the kernel
    takes for true. In a container, modprobe's files are not the machine's: while a module is not loaded, SKIP.

    Why: with it, devices are handed out although who drives them can inject any interrupt; see iommu.intremap.

    Fix: remove the option from /etc/modprobe.d and from the kernel's command line; `echo 0` into the parameter.
    """
    places = [(module, "allow_unsafe_interrupts") for module in ("vfio_iommu_type1", "iommufd")]
    readings = [host.parameter(*place) for place in places]
    if bad := [reading for reading in readings if _on(reading)]:
        yield fail("allow_unsafe_interrupts is on", *bad)
    elif loose := _open(host, *places):
        yield fail("others than root can turn allow_unsafe_interrupts on", *loose)
    else:
        yield passed("allow_unsafe_interrupts is off", *readings)


@host_check("vfio.noiommu", Severity.HIGH)
def noiommu(host: Host) -> Findings:
    """Nobody can use VFIO without an IOMMU.

    Looks at enable_unsafe_noiommu_mode, at nodes of that mode, at the groups that it makes up, and at the kernel's
    taint: opening such a node sets flag U.

    Holds unless: the parameter is on (also without a value, with dashes, or when the module will be loaded), or others
    than root can write it; a node noiommu-* lies in /dev/vfio or in /dev/vfio/devices (newer kernels have such nodes
    of single devices, too), or a class in sysfs has it; an IOMMU group is named vfio-noiommu.

    Why: in this mode a device reaches all memory, and so does whoever drives it.

    Fix: remove enable_unsafe_noiommu_mode from modprobe.d and the command line, unbind the devices and `echo 0` into
    the parameter. Taint goes away with a reboot; flag U alone may have another cause.
    """
    place = ("vfio", "enable_unsafe_noiommu_mode")
    nodes = [f"{top}/{name}" for top in NOIOMMU_NODES for name in host.system.names(top) if name.startswith("noiommu-")]
    groups = [group for group in host.groups if host.is_noiommu(group)]
    tainted = host.read("/proc/sys/kernel/tainted")
    loose = _open(host, place)
    if nodes:
        yield fail(f"devices in no-IOMMU mode: {', '.join(nodes)}", *(Reading(node, "is there") for node in nodes))
    if groups:
        names = [Reading(f"/sys/kernel/iommu_groups/{group}/name", "vfio-noiommu") for group in groups]
        yield fail(f"groups of no-IOMMU mode: {', '.join(groups)}", *names)
    parameter = host.parameter(*place)  # raises Unknown in a container
    if _on(parameter):
        yield fail("no-IOMMU mode is on", parameter)
    if loose:
        yield fail("others than root can turn no-IOMMU mode on", *loose)
    if nodes or groups or loose or _on(parameter):
        return
    if int(tainted.value or 0) & TAINT_USER:
        yield warn("the kernel is tainted by a request of user space (U), as no-IOMMU mode does", tainted)
    else:
        yield passed("no-IOMMU mode is off", parameter, tainted)


@host_check("vfio.parameters", Severity.MEDIUM)
def parameters(host: Host) -> Findings:
    """No other option of VFIO lowers its guard.

    Looks at disable_denylist (hands out devices known to be unsafe) and enable_sriov (lets a program create virtual
    functions) of vfio_pci.

    Holds unless: one of them is on, will be on when the module is loaded (see vfio.unsafe_interrupts for all the
    places), or can be written by others than root.

    Why: the denylist has devices that break the machine or its isolation when they are driven from user space. A
    program that drives a physical function answers for every virtual function created on it.

    Fix: remove the option from /etc/modprobe.d and from the kernel's command line.
    """
    places = [("vfio_pci", name) for name in ("disable_denylist", "enable_sriov")]
    readings = [host.parameter(*place) for place in places]
    if bad := [reading for reading in readings if _on(reading)]:
        yield warn(f"{len(bad)} unsafe options of vfio_pci are on", *bad)
    elif loose := _open(host, *places):
        yield fail("others than root can turn an unsafe option on", *loose)
    else:
        yield passed("disable_denylist and enable_sriov are off", *readings)
