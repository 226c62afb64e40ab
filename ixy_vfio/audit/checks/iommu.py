"""The IOMMU of the machine, and what the kernel does with it."""

import re
from collections.abc import Iterator

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Severity, fail, host_check, passed, skip, warn
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.system import Denied

NO_IOMMU = "there is no IOMMU that is on"
REGISTERS = "/sys/kernel/debug/iommu/intel/iommu_regset"
# VT-d specification, 11.4.4: translation, interrupt remapping, compatibility format
GSTS_TES, GSTS_IRES, GSTS_CFIS = 1 << 31, 1 << 25, 1 << 23
UNMAPPED = ("IO-APIC", "PCI-MSI", "PCI-MSIX", "HPET-MSI")  # interrupt controllers of a PC, when nothing remaps them
ECAP_EIM, FEATURE_XT = 1 << 4, 1 << 2  # VT-d 11.4.3 extended interrupt mode; AMD IOMMU 3.4 extended features, XTSup
DMAR_OPT_IN, IVRS_DMA_REMAP = 1 << 2, 1 << 1  # ACPI DMAR flags (VT-d 8.1); IVRS IVinfo (AMD IOMMU 5.2.1)


@host_check("iommu.present", Severity.HIGH)
def present(host: Host) -> Findings:
    """An IOMMU is there, and on.

    Looks for IOMMUs that the kernel drives (/sys/class/iommu) and for the groups it has put devices into. When there
    is none, the firmware's tables (DMAR of Intel, IVRS of AMD) say whether there could be one.

    Holds unless: an IOMMU is listed, but no group; all groups were made up by VFIO's no-IOMMU mode; the IOMMU's own
    status says that it does not translate (Intel, where debugfs shows it to root). It is about the machine: one device
    may still be left out, see device.iommu.

    Why: without an IOMMU every device can read and write all memory, and so can everybody who may drive a device, as
    PCILeech and Thunderclap (NDSS 2019) show. VFIO then offers its no-IOMMU mode at most, which isolates nothing.

    Fix: turn on VT-d or AMD-Vi in the firmware's setup, and boot with intel_iommu=on (AMD's is on by default); take
    away iommu=off, intel_iommu=off or amd_iommu=off. A virtual machine needs a virtual IOMMU from its host.
    """
    evidence = host.names("/sys/class/iommu")
    idle = [line for line in _status_registers(host) if not int(line.split()[-1], 16) & GSTS_TES]
    if idle:
        yield fail("an IOMMU does not translate (TES)", Reading(REGISTERS, idle[0]))
        return
    if host.iommus and any(not host.is_noiommu(group) for group in host.groups):
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

    Holds unless: one group is in passthrough (by the command line, a quirk of the kernel, or a write to its `type`);
    the default is, for devices that are plugged in later: by iommu=pt, or iommu.passthrough= with any word that the
    kernel takes for true. SKIP if the kernel does not show the types.

    Why: a device in an identity domain reaches all memory while a kernel driver has it, and until VFIO takes it. What
    a session did to a device's firmware would then act without an IOMMU once the kernel's driver has the device back.

    Fix: boot without iommu=pt and with iommu.passthrough=0. It costs kernel-driven NICs some throughput, and a
    session over VFIO nothing: its domain is never the default one.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    identity = [group for group in host.groups if "identity" in host.group_type(group)]
    unknown = [group for group in host.groups if host.group_type(group).value is None]
    if host.has_option("iommu", "pt") or host.is_on("iommu.passthrough"):
        yield warn(f"the default is passthrough ({len(identity)} of {len(host.groups)} groups)", host.command_line)
    elif identity:
        groups = ", ".join(identity)
        yield warn(f"groups in passthrough: {groups}", *(host.group_type(group) for group in identity[:8]))
    elif unknown:
        yield skip(f"the type of group {unknown[0]} is not shown", host.group_type(unknown[0]))
    else:
        yield passed("no group is in passthrough", host.command_line)


@host_check("iommu.lazy", Severity.LOW)
def lazy(host: Host) -> Findings:
    """The kernel unmaps strictly: at once, not later.

    Looks for groups whose default domain is lazy (`DMA-FQ`: unmapped pages stay reachable for up to 10 ms). Sessions
    over VFIO are always strict; this is about the kernel's own devices.

    Holds unless: one group is lazy, whatever the command line says. SKIP if the kernel does not show the types.

    Why: a hostile device can write into a page that the kernel has already given to somebody else; Markuze, Morrison
    and Tsafrir (ASPLOS 2016) measured and used that window.

    Fix: boot with iommu.strict=1. Kernel-driven NICs lose throughput.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    groups = [group for group in host.groups if "DMA-FQ" in host.group_type(group)]
    unknown = [group for group in host.groups if host.group_type(group).value is None]
    if groups:
        yield warn(
            f"{len(groups)} of {len(host.groups)} groups are lazy", host.group_type(groups[0]), host.command_line
        )
    elif unknown:
        yield skip(f"the type of group {unknown[0]} is not shown", host.group_type(unknown[0]))
    else:
        yield passed("no group is lazy", host.command_line)


@host_check("iommu.intremap", Severity.HIGH)
def interrupt_remapping(host: Host) -> Findings:
    """Interrupts are remapped, with their source checked.

    Looks at the interrupt controllers in /proc/interrupts (`IR-` at the beginning of their names means remapped), at
    the IOMMU's own status where debugfs shows it (root), and on the command line.

    Holds unless: an interrupt of a device comes by a controller that is not remapped, though others are; only the name
    of an interrupt, which an interface or driver gives itself, has `IR-` in it; an IOMMU's status says that it does
    not remap; the source is not checked (intremap=nosid). AMD's IOMMU has an interrupt of its own that is not remapped.

    Why: an interrupt is a write to 0xFEExxxxx, which the IOMMU does not translate. Without remapping, whoever drives
    a device can send any vector to any processor; Wojtczuk and Rutkowska (2011) took over a hypervisor with that.

    Fix: turn on x2APIC and interrupt remapping in the firmware's setup; boot without intremap=off, intremap=nosid and
    nointremap.
    """
    if not host.iommus:
        yield skip(NO_IOMMU)
        return
    rows = list(_interrupts(host))
    remapped = [row for row in rows if row[0].startswith("IR-")]
    plain = [row for row in rows if _is_plain(*row)]
    idle = [line for line in _status_registers(host) if not int(line.split()[-1], 16) & GSTS_IRES]
    if host.has_option("intremap", "nosid"):
        yield fail("remapped, but the source of an interrupt is not checked: intremap=nosid", host.command_line)
    elif idle:
        yield fail("an IOMMU does not remap interrupts (IRES)", Reading(REGISTERS, idle[0]))
    elif remapped and plain:
        yield fail(
            f"{len(plain)} interrupts are not remapped", *(Reading("/proc/interrupts", " ".join(one)) for one in plain)
        )
    elif remapped:
        yield passed("interrupts are remapped", Reading("/proc/interrupts", " ".join(remapped[0])))
    elif host.has_option("intremap", "off") or host.option("nointremap") is not None:
        yield fail("turned off on the kernel's command line", host.command_line)
    elif host.maker == "other":
        yield fail("this IOMMU remaps no interrupts (a virtual one?)", host.names("/sys/class/iommu"))
    elif not rows:
        yield skip("no interrupts are shown", host.read("/proc/interrupts"))
    else:
        yield fail("no interrupt is remapped", Reading("/proc/interrupts", "no controller named IR-..."))


def _interrupts(host: Host) -> Iterator[tuple[str, str]]:
    """(controller, the rest: number, trigger and name) of each device's interrupt; before it, a count a processor."""
    lines = host.lines("/proc/interrupts")
    processors = len(lines[0].split()) if lines else 0
    for line in lines[1:]:
        number, *more = line.split(maxsplit=processors + 2)
        if number.rstrip(":").isdigit() and len(more) > processors:
            yield more[processors], " ".join(more[processors + 1 :])


def _is_plain(controller: str, rest: str) -> bool:
    kind = controller.removesuffix("-edge").removesuffix("-fasteoi")
    known = kind in UNMAPPED or kind.startswith(tuple(f"{one}-" for one in UNMAPPED))
    return known and not re.search(r"\bAMD-Vi\S*$", rest)


@host_check("iommu.compatibility_format", Severity.MEDIUM)
def compatibility_format(host: Host) -> Findings:
    """Interrupts in compatibility format are blocked.

    A device may send an interrupt in compatibility format, which has no index into the remapping table. In x2APIC
    mode no such interrupt passes. Looks at the status register of every IOMMU where debugfs shows it (root), else at
    whether the processor and the IOMMU can x2APIC, and the command line does not turn it off.

    Holds unless: one of the IOMMUs lets them pass, or one of them does not remap at all. That x2APIC could be used does
    not say that it is (the firmware may opt out): where no status register is shown, SKIP.

    Why: where they pass, interrupt remapping can be stepped around by choosing the old format.

    Fix: boot without nox2apic and intremap=no_x2apic_optout; turn on x2APIC in the firmware's setup.
    """
    if not host.iommus or host.maker == "other":
        yield skip(NO_IOMMU if not host.iommus else "not an IOMMU of a PC")
        return
    registers = _status_registers(host)
    if registers:
        passing = [line for line in registers if int(line.split()[-1], 16) & GSTS_CFIS]
        evidence = Reading(REGISTERS, (passing or registers)[0])
        hidden = len([name for name in host.iommus if name.startswith("dmar")]) - len(registers)
        if passing:
            yield fail("compatibility format passes (CFIS)", evidence)
        elif hidden > 0:
            yield skip(f"the status of {hidden} IOMMUs is not shown", evidence)
        else:
            yield passed("they are blocked", evidence)
    elif host.option("nox2apic") is not None:
        yield warn("x2APIC is turned off: nox2apic", host.command_line)
    elif not (offers := _offers_x2apic(host)).value:
        yield warn("the processor or the IOMMU offers no x2APIC", offers)
    else:
        yield skip("x2APIC is offered and not turned off; whether it is used is not shown", offers)


def _status_registers(host: Host) -> list[str]:
    try:
        lines = host.lines(REGISTERS)
    except Denied:
        return []
    return [" ".join(line.split()) for line in lines if line.startswith("GSTS")]


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

    Holds unless: neither flag is set, and the option is not there, or does nothing: it works where the machine was
    booted by UEFI. A flag is the firmware's word; nobody can check it from here.

    Why: a device that was made hostile in an earlier session, or was plugged in, can write to the kernel while it
    boots.

    Fix: turn on kernel DMA protection (pre-boot DMA protection) in the firmware's setup, or boot with
    efi=disable_early_pci_dma.
    """
    if host.has_option("efi", "disable_early_pci_dma") and host.exists("/sys/firmware/efi"):
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

    Holds unless: one of them stands there, anywhere among the words of pci=, with dashes or in quotes. A kernel that
    was patched to do the same without an option is not seen; device.acs looks at the bridges themselves.

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
