"""What the machine must have before anything is changed: an IOMMU with interrupt remapping, and vfio-pci."""

import platform
import posixpath
from collections.abc import Sequence

from ixy_vfio_helper.kernel import VFIO_PCI

from ixy_vfio_setup.device import remaps_interrupts
from ixy_vfio_setup.system import SetupError, System

NO_IOMMU = ("intel_iommu=off", "amd_iommu=off", "iommu=off")
NO_REMAPPING = ("intremap=off", "nointremap", "nox2apic")
HOW = "edit GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and restart"
MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
MODULES = ("vfio", "vfio_iommu_type1", "vfio_pci_core", "vfio_pci")
NOTHING = ("false", "true", ":", "exit", "echo")  # commands that stand in modprobe.d in a module's place
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
    banned = forbidden(system, line)
    if not has_vfio_pci(system) and not banned:
        try:
            system.run(["modprobe", "--dry-run", VFIO_PCI])
        except SetupError:
            found.append("this kernel has no vfio-pci; install all modules of its package (CONFIG_VFIO_PCI)")
    return found + banned


def forbidden(system: System, line: Sequence[str]) -> list[str]:
    """Modules that are wanted, not loaded, and forbidden: one line each, with the place. `line`: the kernel's.

    `blacklist` forbids no module that is asked for by its name, as these are.
    """
    wanted = {name for name in MODULES if not system.at(f"/sys/module/{name}").exists()}
    wanted -= {"vfio_pci"} if has_vfio_pci(system) else set()
    found = []
    for word in line:
        key, _, names = word.partition("=")
        if key == "module_blacklist":
            taken = sorted(wanted & {name.replace("-", "_") for name in names.split(",")})
            found += [f"the kernel command line forbids module {name} ({word}): remove it, {HOW}" for name in taken]
    seen = set()
    for folder in MODPROBE:  # a file hides those of its name in the folders that come later
        for path in sorted(system.at(folder).glob("*.conf")):
            if path.name not in seen:
                seen.add(path.name)
                text = path.read_text(errors="replace").replace("\\\n", " ")
                for words in map(str.split, text.splitlines()):
                    name = words[1].replace("-", "_") if words[:1] == ["install"] and len(words) > 2 else ""
                    if name in wanted and posixpath.basename(words[2].rstrip(";")) in NOTHING:
                        found.append(
                            f"{folder}/{path.name} forbids module {name} ({' '.join(words)}): remove that line"
                        )
    return found


def too_many(system: System, pages: int) -> str:
    """Why there cannot be so many more hugepages of 2 MiB; "" if there can. An eighth of the memory stays free."""
    lines = dict(line.split(":", 1) for line in (system.text("/proc/meminfo") or "").splitlines() if ":" in line)
    if not {"MemTotal", "MemAvailable"} <= lines.keys():
        return ""
    total, free = (int(lines[name].split()[0]) // 1024 for name in ("MemTotal", "MemAvailable"))
    left = max(0, free - total // 8)
    if pages * 2 <= left:
        return ""
    return (
        f"{pages} more hugepages of 2 MiB are {pages * 2} MiB; the machine has {total} MiB, of which {free} are free, "
        f"and {left} can be had: ask for fewer (--hugepages N; with 0 pages of 4 KiB take their place, more slowly)"
    )


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
