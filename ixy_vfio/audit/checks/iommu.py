"""The IOMMU of the machine, and what the kernel does with it."""

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Reading, Severity, fail, host_check, passed, skip, warn
from ixy_vfio.audit.system import Denied

NO_IOMMU = "there is no IOMMU that is on"
GSTS_IRES, GSTS_CFIS = 1 << 25, 1 << 23  # VT-d specification, 11.4.4: interrupt remapping, compatibility format
ECAP_EIM, FEATURE_XT = 1 << 4, 1 << 2  # VT-d 11.4.3 extended interrupt mode; AMD IOMMU 3.4 extended features, XTSup
DMAR_OPT_IN, IVRS_DMA_REMAP = 1 << 2, 1 << 1  # ACPI DMAR flags (VT-d 8.1); IVRS IVinfo (AMD IOMMU 5.2.1)


@host_check("iommu.present", Severity.HIGH)
def present(host: Host) -> Findings:
    """An IOMMU is there, and on.

    Looks for IOMMUs that the kernel drives (/sys/class/iommu) and for the groups it has put devices into. When there
    is none, the firmware's tables (DMAR of Intel, IVRS of AMD) say whether there could be one.

    Why: without an IOMMU every device can read and write all memory, and so can everybody who may drive a device, as
    PCILeech and Thunderclap (NDSS 2019) show. VFIO then offers its no-IOMMU mode at most, which isolates nothing.

    Fix: turn on VT-d or AMD-Vi in the firmware's setup, and boot with intel_iommu=on (AMD's is on by default); take
    away iommu=off, intel_iommu=off or amd_iommu=off. A virtual machine needs a virtual IOMMU from its host.
    """
    evidence = host.names("/sys/class/iommu")
    if host.iommus and host.groups:
        yield passed(f"{', '.join(host.iommus)}; {len(host.groups)} groups", evidence)
        return
    for name in ("intel_iommu", "amd_iommu", "iommu"):
        if host.has_option(name, "off"):
            yield fail(f"turned off by {name}=off on the kernel's command line", host.command_line)
            return
    for table, maker in (("DMAR", "Intel"), ("IVRS", "AMD")):
        if host.exists(path := f"/sys/firmware/acpi/tables/{table}"):
            _, options = host.config
            built = not options or options.get(f"{maker.upper()}_IOMMU") == "y"
            why = "does not use it" if built else f"was built without {maker.upper()}_IOMMU"
            yield fail(f"the machine has an IOMMU of {maker}, but the kernel {why}", Reading(path, "present"))
            return
    yield fail("no IOMMU: the firmware has neither a DMAR nor an IVRS table", evidence)


@host_check("iommu.passthrough", Severity.LOW)
def passthrough(host: Host) -> Findings:
    """The kernel's own devices are behind the IOMMU too.

    Looks for groups whose default domain is `identity`, and for iommu=pt on the command line.

    Why: a device in an identity domain reaches all memory while a kernel driver has it, and until VFIO takes it. What
    a session did to a device's firmware would then act without an IOMMU once the kernel's driver has the device back.

    Fix: boot without iommu=pt and with iommu.passthrough=0. It costs kernel-driven NICs some throughput, and a
    session over VFIO nothing: its domain is never the default one.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    identity = [group for group in host.groups if "identity" in host.group_type(group)]
    if host.has_option("iommu", "pt") or host.has_option("iommu.passthrough", "1", "y", "on"):
        yield warn(f"the default is passthrough ({len(identity)} of {len(host.groups)} groups)", host.command_line)
    elif identity:
        groups = ", ".join(identity)
        yield warn(f"groups in passthrough: {groups}", *(host.group_type(group) for group in identity[:8]))
    else:
        yield passed("no group is in passthrough", host.command_line)


@host_check("iommu.lazy", Severity.LOW)
def lazy(host: Host) -> Findings:
    """The kernel unmaps strictly: at once, not later.

    Looks for groups whose default domain is lazy (`DMA-FQ`: unmapped pages stay reachable for up to 10 ms). Sessions
    over VFIO are always strict; this is about the kernel's own devices.

    Why: a hostile device can write into a page that the kernel has already given to somebody else; Markuze, Morrison
    and Tsafrir (ASPLOS 2016) measured and used that window.

    Fix: boot with iommu.strict=1. Kernel-driven NICs lose throughput.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    groups = [group for group in host.groups if "DMA-FQ" in host.group_type(group)]
    if groups:
        yield warn(
            f"{len(groups)} of {len(host.groups)} groups are lazy", host.group_type(groups[0]), host.command_line
        )
    else:
        yield passed("no group is lazy", host.command_line)


@host_check("iommu.intremap", Severity.HIGH)
def interrupt_remapping(host: Host) -> Findings:
    """Interrupts are remapped, with their source checked.

    Looks at the names of the interrupt controllers in /proc/interrupts (`IR-` means remapped), and on the command
    line.

    Why: an interrupt is a write to 0xFEExxxxx, which the IOMMU does not translate. Without remapping, whoever drives
    a device can send any vector to any processor; Wojtczuk and Rutkowska (2011) took over a hypervisor with that.

    Fix: turn on x2APIC and interrupt remapping in the firmware's setup; boot without intremap=off, intremap=nosid and
    nointremap.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    text = host.read("/proc/interrupts").value or ""
    lines = [line.strip() for line in text.splitlines() if "IR-" in line or "-IR" in line]
    if host.has_option("intremap", "nosid"):
        yield fail("remapped, but the source of an interrupt is not checked: intremap=nosid", host.command_line)
    elif lines:
        yield passed("interrupts are remapped", Reading("/proc/interrupts", " ".join(lines[0].split())))
    elif host.has_option("intremap", "off") or host.option("nointremap") is not None:
        yield fail("turned off on the kernel's command line", host.command_line)
    elif host.maker == "other":
        yield fail("this IOMMU remaps no interrupts (a virtual one?)", host.names("/sys/class/iommu"))
    else:
        yield fail("no interrupt is remapped", Reading("/proc/interrupts", "no controller named IR-..."))


@host_check("iommu.compatibility_format", Severity.MEDIUM)
def compatibility_format(host: Host) -> Findings:
    """Interrupts in compatibility format are blocked.

    A device may send an interrupt in compatibility format, which has no index into the remapping table. In x2APIC
    mode no such interrupt passes. Looks at the IOMMU's status register where debugfs shows it (root), else at whether
    the processor and the IOMMU can x2APIC, and the command line does not turn it off.

    Why: where they pass, interrupt remapping can be stepped around by choosing the old format.

    Fix: boot without nox2apic and intremap=no_x2apic_optout; turn on x2APIC in the firmware's setup.
    """
    if not host.iommus or host.maker == "other":
        yield skip(NO_IOMMU if not host.iommus else "not an IOMMU of a PC")
        return
    registers = _status_registers(host)
    if registers:
        passing = [line for line in registers if int(line.split()[-1], 16) & GSTS_CFIS]
        evidence = Reading("/sys/kernel/debug/iommu/intel/iommu_regset", (passing or registers)[0])
        yield fail("compatibility format passes (CFIS)", evidence) if passing else passed("they are blocked", evidence)
    elif host.option("nox2apic") is not None:
        yield warn("x2APIC is turned off: nox2apic", host.command_line)
    elif not (offers := _offers_x2apic(host)).value:
        yield warn("the processor or the IOMMU offers no x2APIC", offers)
    else:
        yield passed("x2APIC is offered and not turned off", offers)


def _status_registers(host: Host) -> list[str]:
    try:
        text = host.read("/sys/kernel/debug/iommu/intel/iommu_regset").value or ""
    except Denied:
        return []
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("GSTS")]


def _offers_x2apic(host: Host) -> Reading:
    """The IOMMU's features; no value when it, or the processor, has no x2APIC."""
    intel = host.maker == "intel"
    name, bit = ("intel-iommu/ecap", ECAP_EIM) if intel else ("amd-iommu/features", FEATURE_XT)
    reading = host.read(f"/sys/class/iommu/{host.iommus[0]}/{name}")
    flags = (host.read("/proc/cpuinfo").value or "").partition("\nflags")[2].partition("\n")[0].split()
    able = "x2apic" in flags and int((reading.value or "0").split(":")[0], 16) & bit
    return reading if able else Reading(reading.path, None)


@host_check("iommu.early_dma", Severity.LOW, needs_root=True)
def early_dma(host: Host) -> Findings:
    """The firmware keeps devices from memory before the kernel runs.

    Looks at the DMAR table's opt-in flag or the IVRS table's remapping flag (root), which firmware sets when it has
    turned the IOMMU on before the operating system, and for efi=disable_early_pci_dma.

    Why: a device that was made hostile in an earlier session, or was plugged in, can write to the kernel while it
    boots.

    Fix: turn on kernel DMA protection (pre-boot DMA protection) in the firmware's setup, or boot with
    efi=disable_early_pci_dma.
    """
    if host.has_option("efi", "disable_early_pci_dma"):
        yield passed("bus mastering is off until the kernel's drivers start", host.command_line)
        return
    for table, offset, flag in (("DMAR", 37, DMAR_OPT_IN), ("IVRS", 36, IVRS_DMA_REMAP)):
        path = f"/sys/firmware/acpi/tables/{table}"
        data = host.system.data(path)
        if data is not None and len(data) > offset:
            evidence = Reading(path, f"flags {data[offset]:#04x}")
            yield (
                passed("the firmware opted in", evidence)
                if data[offset] & flag
                else warn("the firmware did not opt in", evidence)
            )
            return
    yield skip("the firmware has no table of an IOMMU")


@host_check("iommu.acs_override", Severity.HIGH)
def acs_override(host: Host) -> Findings:
    """No option claims isolation that the hardware lacks.

    Looks for options on the command line that split groups (pcie_acs_override of an out-of-tree patch,
    pci=config_acs=) or turn redirection off (pci=disable_acs_redir=).

    Why: devices that are in groups of their own by such an option reach each other's memory past the IOMMU.

    Fix: boot without the option; put the device into a slot whose bridges have ACS, or give the whole group away.
    """
    if host.option("pcie_acs_override") is not None:
        yield fail(f"pcie_acs_override={host.option('pcie_acs_override')}", host.command_line)
        return
    words = (host.option("pci") or "").split(",")
    bad = [word for word in words if word.startswith(("config_acs=", "disable_acs_redir="))]
    if bad:
        yield fail(f"pci={','.join(bad)}", host.command_line)
    else:
        yield passed("no option overrides ACS", host.command_line)
