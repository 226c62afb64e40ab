"""VFIO's own settings."""

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Reading, Severity, fail, host_check, passed, warn

TAINT_USER = 1 << 6  # Documentation/admin-guide/tainted-kernels.rst
YES = ("Y", "y", "1")


def _on(reading: Reading) -> bool:
    return reading.value is not None and reading.value.rpartition("=")[2] in YES


@host_check("vfio.unsafe_interrupts", Severity.HIGH)
def unsafe_interrupts(host: Host) -> Findings:
    """VFIO insists on interrupt remapping.

    Looks at allow_unsafe_interrupts of vfio_iommu_type1 and of iommufd; while a module is not loaded, at the command
    line and at modprobe.d.

    Why: with it, devices are handed out although who drives them can inject any interrupt; see iommu.intremap.

    Fix: remove the option from /etc/modprobe.d and from the kernel's command line; `echo 0` into the parameter.
    """
    readings = [host.parameter(module, "allow_unsafe_interrupts") for module in ("vfio_iommu_type1", "iommufd")]
    bad = [reading for reading in readings if _on(reading)]
    if bad:
        yield fail("allow_unsafe_interrupts is on", *bad)
    else:
        yield passed("allow_unsafe_interrupts is off", *readings)


@host_check("vfio.noiommu", Severity.HIGH)
def noiommu(host: Host) -> Findings:
    """Nobody can use VFIO without an IOMMU.

    Looks at enable_unsafe_noiommu_mode, at /dev/vfio/noiommu-*, and at the kernel's taint: opening such a node sets
    flag U.

    Why: in this mode a device reaches all memory, and so does whoever drives it.

    Fix: remove enable_unsafe_noiommu_mode from modprobe.d and the command line, unbind the devices and `echo 0` into
    the parameter. Taint goes away with a reboot; flag U alone may have another cause.
    """
    parameter = host.parameter("vfio", "enable_unsafe_noiommu_mode")
    nodes = [name for name in host.system.names("/dev/vfio") if name.startswith("noiommu-")]
    tainted = host.read("/proc/sys/kernel/tainted")
    if _on(parameter):
        yield fail("no-IOMMU mode is on", parameter)
    if nodes:
        yield fail(f"devices in no-IOMMU mode: {', '.join(nodes)}", host.names("/dev/vfio"))
    if int(tainted.value or 0) & TAINT_USER and not nodes:
        yield warn("the kernel is tainted by a request of user space (U), as no-IOMMU mode does", tainted)
    elif not nodes and not _on(parameter):
        yield passed("no-IOMMU mode is off", parameter, tainted)


@host_check("vfio.parameters", Severity.MEDIUM)
def parameters(host: Host) -> Findings:
    """No other option of VFIO lowers its guard.

    Looks at disable_denylist (hands out devices known to be unsafe) and enable_sriov (lets a program create virtual
    functions) of vfio_pci.

    Why: the denylist has devices that break the machine or its isolation when they are driven from user space. A
    program that drives a physical function answers for every virtual function created on it.

    Fix: remove the option from /etc/modprobe.d and from the kernel's command line.
    """
    readings = [host.parameter("vfio_pci", name) for name in ("disable_denylist", "enable_sriov")]
    bad = [reading for reading in readings if _on(reading)]
    if bad:
        yield warn(f"{len(bad)} unsafe options of vfio_pci are on", *bad)
    else:
        yield passed("disable_denylist and enable_sriov are off", *readings)
