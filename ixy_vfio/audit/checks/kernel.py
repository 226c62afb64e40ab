"""The kernel below it all."""

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Severity, host_check, passed, skip, warn
from ixy_vfio.audit.reading import Reading

VERSION_FLOOR = (5, 8)
REQUIRED = {  # option -> why
    "STRICT_DEVMEM": "/dev/mem shows all memory",
    "IO_STRICT_DEVMEM": "/dev/mem reaches registers of devices in use",
    "SECCOMP_FILTER": "workers cannot filter system calls",
    "SECURITY_LANDLOCK": "workers cannot give up the file system",
}


@host_check("kernel.version", Severity.LOW, needs=("/proc",))
def version(host: Host) -> Findings:
    """The kernel is new enough for VFIO to be sound.

    The floor is Linux 5.8. Distributions bring fixes to older kernels; that cannot be seen from here.

    Holds unless: the kernel says an older version. SKIP if what it says is no version.

    Why: before 5.8 a driver could make the machine halt by touching disabled registers (CVE-2020-12888).

    Fix: use a newer kernel, or ask the distribution whether it has the fix.
    """
    if host.version == (0, 0):
        yield skip("unknown", host.release)
    elif host.version < VERSION_FLOOR:
        yield warn(f"{host.release.value} is older than 5.8", host.release)
    else:
        yield passed(f"{host.release.value}", host.release)


@host_check("kernel.config", Severity.LOW, needs=("/proc",))
def config(host: Host) -> Findings:
    """The kernel was built with what isolation needs.

    Looks for STRICT_DEVMEM, IO_STRICT_DEVMEM, SECCOMP_FILTER and SECURITY_LANDLOCK in the kernel's configuration, and
    for iomem=relaxed on the command line. VFIO_NOIOMMU may be built in; vfio.noiommu says whether it is used.

    Holds unless: an option is off, not named, or only a module; iomem=relaxed takes IO_STRICT_DEVMEM back. SKIP if the
    configuration of this very release is not to be read.

    Why: each is a layer that a worker or root's tools would otherwise miss.

    Fix: use a kernel of a distribution, or build with these options.
    """
    path, options = host.config
    if not path:
        yield skip("the configuration of this kernel is nowhere to be read")
        return
    needed = {name: why for name, why in REQUIRED.items() if "DEVMEM" not in name or options.get("DEVMEM") == "y"}
    missing = [f"no {name}: {why}" for name, why in needed.items() if options.get(name) != "y"]
    if missing:
        yield warn("; ".join(missing), Reading(path, f"{len(options)} options"))
    elif host.has_option("iomem", "relaxed"):
        yield warn("iomem=relaxed takes IO_STRICT_DEVMEM back", host.command_line)
    else:
        yield passed("all options that matter are set", Reading(path, f"{len(options)} options"))
    if options.get("VFIO_NOIOMMU") == "y" and not missing:
        yield passed("VFIO_NOIOMMU is built in; vfio.noiommu says whether it is used", Reading(path, "VFIO_NOIOMMU=y"))


@host_check("kernel.lockdown", Severity.LOW)
def lockdown(host: Host) -> Findings:
    """Even root cannot change the running kernel.

    Looks at /sys/kernel/security/lockdown.

    Holds unless: lockdown is off, or the kernel has none. SKIP if securityfs is not mounted, or says nothing that is
    known.

    Why: without it, root can write to the kernel by /dev/mem, kexec or module parameters, and can map BARs by
    resourceN; a hole in a root daemon is then a hole in the kernel.

    Fix: boot with Secure Boot, or with lockdown=integrity.
    """
    reading = host.read("/sys/kernel/security/lockdown")
    if "[integrity]" in reading or "[confidentiality]" in reading:
        yield passed("lockdown is on", reading)
    elif "[none]" in reading:
        yield warn("lockdown is off", reading)
    elif reading.value is not None:
        yield skip("not understood", reading)
    elif host.system.names("/sys/kernel/security") or (
        host.config[1].get("SECURITY_LOCKDOWN_LSM", "") != "y" and host.config[0]
    ):
        yield warn("this kernel has no lockdown", reading)
    else:
        yield skip("securityfs is not mounted", reading)


@host_check("kernel.layers", Severity.LOW, needs=())
def layers(host: Host) -> Findings:
    """The kernel offers every layer of a worker's sandbox.

    Asks the kernel, by system calls that change nothing, for the seccomp filter, Landlock (files; TCP ports, since its
    version 4; abstract sockets and signals, since 6) and mseal. What a container's filter forbids counts as missing.
    Whether a process uses Landlock is not shown in /proc by any kernel, so this is all that an outsider sees of it.

    Holds unless: one of these calls fails. What a process made of the layers is the matter of session.sandbox,
    session.limits and session.mseal.

    Why: a worker gives up what it can before it sees a packet; where a layer is missing it runs without, and each layer
    holds when another one has a hole. `ixy-vfio forward --require-sealed` refuses to run then.

    Fix: use Linux 6.12 or newer, with landlock among lsm= on its command line.
    """
    lacks = host.system.lacks()
    active = host.read("/sys/kernel/security/lsm")
    if lacks is None:
        yield skip("not asked: recorded by an older version, or cffi is missing", active)
    elif lacks:
        yield warn(f"missing: {'; '.join(f'{layer} ({why})' for layer, why in lacks.items())}", active)
    else:
        yield passed("seccomp, Landlock 6 and mseal are there", active)
