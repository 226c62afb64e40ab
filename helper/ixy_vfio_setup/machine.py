"""What the machine must have before anything is changed: an IOMMU with interrupt remapping, and vfio-pci."""

import platform

from ixy_vfio_helper.kernel import VFIO_PCI, remaps_interrupts

from ixy_vfio_setup.system import SetupError, System

NO_IOMMU = ("intel_iommu=off", "amd_iommu=off", "iommu=off")
NO_REMAPPING = ("intremap=off", "nointremap", "nox2apic")
HOW = "edit GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and restart"
UNSAFE = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def missing(system: System) -> list[str]:
    """What the machine lacks, one line each, with the remedy; none if it is fit."""
    line = (system.text("/proc/cmdline") or "").split()
    found = []
    groups = system.at("/sys/kernel/iommu_groups")
    if not (groups.is_dir() and any(groups.iterdir())):
        found.append(_no_iommu(system, line))
    elif platform.machine() == "x86_64" and not remaps_interrupts(system.text("/proc/interrupts") or ""):
        off = [word for word in line if word in NO_REMAPPING]
        remedy = (
            f"remove {' '.join(off)} from the kernel command line: {HOW}"
            if off
            else "turn on x2APIC and interrupt remapping (VT-d, AMD-Vi) in the firmware's setup"
        )
        found.append(f"interrupts are not remapped, so a device could forge them; {remedy}")
    if (system.text(UNSAFE) or "").strip() == "Y":
        found.append("VFIO's unsafe no-IOMMU mode is on; remove vfio.enable_unsafe_noiommu_mode, and restart")
    if not has_vfio_pci(system):
        try:
            system.run(["modprobe", "--dry-run", VFIO_PCI])
        except SetupError:
            found.append("this kernel has no vfio-pci; install all modules of its package (CONFIG_VFIO_PCI)")
    return found


def _no_iommu(system: System, line: list[str]) -> str:
    off = [word for word in line if word in NO_IOMMU]
    if off:
        return f"no IOMMU: remove {' '.join(off)} from the kernel command line: {HOW}"
    if "AuthenticAMD" in (system.text("/proc/cpuinfo") or ""):
        return "no IOMMU: turn on IOMMU (AMD-Vi) in the firmware's setup, and restart"
    return f"no IOMMU: turn on VT-d in the firmware's setup, and add intel_iommu=on to the kernel command line: {HOW}"


def has_vfio_pci(system: System) -> bool:
    """Whether vfio-pci is loaded, or built in."""
    return system.at(f"/sys/bus/pci/drivers/{VFIO_PCI}").is_dir()


def has_systemd(system: System) -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return system.at("/run/systemd/system").is_dir()
