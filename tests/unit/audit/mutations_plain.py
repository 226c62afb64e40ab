"""The plain thing that each check is for."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import CONTROL, HELPER, NIC, WORKER, edit, link, node, poke, process, write
from tests.unit.audit.mutating import (
    CMDLINE,
    DEVICE_FD,
    FAIL,
    GROUPS,
    OTHER,
    PARAMETERS,
    TABLES,
    WARN,
    mutate,
    mutation,
)

mutate("passthrough_default", "iommu.passthrough", WARN, edit, CMDLINE, "intel_iommu=on", "intel_iommu=on iommu=pt")
mutate("one_group_in_passthrough", "iommu.passthrough", WARN, write, f"{GROUPS}/28/type", "identity")
mutate("lazy_unmap", "iommu.lazy", WARN, write, f"{GROUPS}/28/type", "DMA-FQ")
mutate("no_interrupt_remapping", "iommu.intremap", FAIL, edit, "/proc/interrupts", "IR-", "")
mutate("interrupt_source_not_checked", "iommu.intremap", FAIL, edit, CMDLINE, "ro ", "ro intremap=nosid ")
mutate(
    "compatibility_format_passes",
    "iommu.compatibility_format",
    FAIL,
    edit,
    "/sys/kernel/debug/iommu/intel/iommu_regset",
    "c7000000",
    "c7800000",
)
mutate("firmware_did_not_opt_in", "iommu.early_dma", WARN, poke, "/sys/firmware/acpi/tables/DMAR", 37, b"\x01")
mutate(
    "acs_override", "iommu.acs_override", FAIL, edit, CMDLINE, "ro ", "ro pcie_acs_override=downstream,multifunction "
)
mutate(
    "redirection_off_by_option",
    "iommu.acs_override",
    FAIL,
    edit,
    CMDLINE,
    "ro ",
    "ro pci=disable_acs_redir=0000:00:02.0 ",
)
mutate(
    "unsafe_interrupts",
    "vfio.unsafe_interrupts",
    FAIL,
    write,
    PARAMETERS.format("vfio_iommu_type1", "allow_unsafe_interrupts"),
    "Y",
)
mutate(
    "unsafe_interrupts_when_iommufd_is_loaded",
    "vfio.unsafe_interrupts",
    FAIL,
    write,
    "/etc/modprobe.d/vfio.conf",
    "# easy\noptions iommufd allow_unsafe_interrupts=1",
)
mutate("noiommu_mode", "vfio.noiommu", FAIL, write, PARAMETERS.format("vfio", "enable_unsafe_noiommu_mode"), "Y")
mutate("noiommu_node", "vfio.noiommu", FAIL, node, "/dev/vfio/noiommu-0", 0o600)
mutate("noiommu_taint", "vfio.noiommu", WARN, write, "/proc/sys/kernel/tainted", "64")
mutate("denylist_off", "vfio.parameters", WARN, write, PARAMETERS.format("vfio_pci", "disable_denylist"), "Y")
mutate(
    "kernel_without_seccomp",
    "kernel.config",
    WARN,
    edit,
    "/boot/config-6.12.57+deb13-amd64",
    "CONFIG_SECCOMP_FILTER=y",
    "# CONFIG_SECCOMP_FILTER is not set",
)
mutate(
    "lockdown_off", "kernel.lockdown", WARN, write, "/sys/kernel/security/lockdown", "[none] integrity confidentiality"
)
mutate("world_writable_group", "nodes.vfio", FAIL, node, "/dev/vfio/26", 0o666)
mutate("group_given_to_a_user", "nodes.vfio", WARN, node, "/dev/vfio/26", 0o600, uid=1000)
mutate("world_writable_iommufd", "nodes.vfio", FAIL, node, "/dev/iommu", 0o666)
mutate("physical_memory_for_all", "nodes.memory", FAIL, node, "/dev/mem", 0o666)
mutate("uio_node_for_all", "nodes.uio", FAIL, node, "/dev/uio0", 0o666)
mutate("registers_for_all", "nodes.sysfs", FAIL, node, f"{NIC}/resource0", 0o666, kind="-")
mutate("configuration_for_a_user", "nodes.sysfs", FAIL, node, f"{NIC}/config", 0o644, uid=1000, kind="-")
mutate(
    "foreign_driver_in_the_group", "device.group", FAIL, link, f"{OTHER}/iommu_group", "../../kernel/iommu_groups/26"
)
mutate(
    "bridge_does_not_redirect",
    "device.acs",
    FAIL,
    poke,
    "/sys/devices/pci0000:00/0000:00:02.0/config",
    0x116,
    b"\x11\0",
)
mutate(
    "reserved_by_the_firmware",
    "device.reserved",
    FAIL,
    write,
    f"{GROUPS}/26/reserved_regions",
    "0x00000000791ee000 0x00000000791f1fff direct",
)
mutate("ats_on", "device.ats", FAIL, poke, f"{NIC}/config", 0x1A6, b"\0\x80")
mutate("no_reset", "device.reset", FAIL, write, f"{NIC}/reset_method", "")
mutate("virtual_functions_left", "device.sriov", FAIL, write, f"{NIC}/sriov_numvfs", "2")
mutate("eeprom_changed", "device.eeprom", FAIL, write, "/var/lib/ixy_vfio/eeprom/0000:03:00.0.last", "00000000")
mutate(
    "control_with_a_capability",
    "session.privileges",
    FAIL,
    edit,
    f"/proc/{CONTROL}/status",
    "CapEff:\t0000000000000000",
    "CapEff:\t0000000000004000",
)
mutate("worker_without_filter", "session.sandbox", FAIL, edit, f"/proc/{WORKER}/status", "Seccomp:\t2", "Seccomp:\t0")
mutate(
    "control_may_gain_privileges",
    "session.sandbox",
    WARN,
    edit,
    f"/proc/{CONTROL}/status",
    "NoNewPrivs:\t1",
    "NoNewPrivs:\t0",
)
mutate("worker_with_the_device", "session.fds", FAIL, link, f"/proc/{WORKER}/fd/20", DEVICE_FD)
mutate("worker_with_a_file", "session.fds", FAIL, link, f"/proc/{WORKER}/fd/20", "/home/user/notes")
mutate(
    "worker_maps_the_msix_bar", "session.bar", FAIL, edit, f"/proc/{WORKER}/maps", "rw-s 00006000", "rw-s 40000001000"
)
mutate(
    "writable_and_executable",
    "session.exec",
    FAIL,
    edit,
    f"/proc/{WORKER}/maps",
    "7f51d0004000 r-xp",
    "7f51d0004000 rwxp",
)
mutate("mapping_not_sealed", "session.mseal", WARN, edit, f"/proc/{WORKER}/smaps", "me ms sl", "me ms")
mutate("common_container", "session.container", WARN, Tree.remove, f"/proc/{HELPER}/fd/8")
mutate(
    "more_rights_than_the_ledger",
    "session.dma",
    FAIL,
    edit,
    "/run/ixy_vfio/leases/0000:03:00.0.ledger",
    "0x2000 rw rings",
    "0x2000 r rings",
)
mutate("mapping_gone", "session.dma", WARN, edit, TABLES, "0x0000001000000 |\t", "# ")
mutate(
    "helper_with_all_capabilities",
    "helper.capabilities",
    FAIL,
    edit,
    f"/proc/{HELPER}/status",
    "CapEff:\t0000000400000000",
    "CapEff:\t000001ffffffffff",
)
mutate(
    "unit_not_hardened",
    "helper.unit",
    WARN,
    edit,
    "/etc/systemd/system/ixy-vfio-helper.service",
    "NoNewPrivileges=yes",
    "NoNewPrivileges=no",
)
mutate("socket_of_a_user", "helper.socket", FAIL, node, "/run/ixy_vfio/helper.sock", 0o666, uid=1000, kind="s")
mutate("directory_of_the_socket_for_a_user", "helper.socket", FAIL, node, "/run/ixy_vfio", 0o755, uid=1000, kind="d")
mutate("policy_of_a_user", "helper.policy", FAIL, node, "/etc/ixy_vfio/policy.toml", 0o644, uid=1000, kind="-")
mutate(
    "helper_from_a_directory_of_a_user", "helper.code", FAIL, node, "/usr/local/lib/ixy_vfio", 0o755, uid=1000, kind="d"
)
mutate(
    "worker_without_limits",
    "session.limits",
    WARN,
    edit,
    f"/proc/{WORKER}/limits",
    "Max open files            0   ",
    "Max open files            1024",
)
mutate("worker_that_can_be_traced", "session.limits", WARN, node, f"/proc/{WORKER}/environ", 0o400, uid=1000, kind="-")


@mutation("kernel.layers", WARN)
def landlock_off(tree: Tree) -> None:
    tree.layers = {"landlock": "Operation not supported"}


@mutation("nodes.memory", WARN)
def physical_memory_open(tree: Tree) -> None:
    process(tree, 1500, uid=0, name="flashrom")
    link(tree, "/proc/1500/fd/3", "/dev/mem")


@mutation("nodes.uio")
def registers_mapped_through_sysfs(tree: Tree) -> None:
    process(tree, 1400, uid=0, name="ixy-fwd")
    write(tree, "/proc/1400/maps", f"7f0000000000-7f0000080000 rw-s 00000000 00:15 1821 {NIC}/resource0")


@mutation("device.holders")
def second_holder(tree: Tree) -> None:
    process(tree, 1300)
    link(tree, "/proc/1300/fd/9", DEVICE_FD)


@mutation("device.iommu", FAIL, "device.group", "device.reserved", "device.eeprom")
def device_without_group(tree: Tree) -> None:
    """A device that waits for a user; one that is used cannot lose its group."""
    link(tree, f"{OTHER}/driver", "../../../../bus/pci/drivers/vfio-pci")
    poke(tree, f"{OTHER}/config", 4, b"\2")
    tree.remove(f"{OTHER}/iommu_group")


@mutation("device.bus_master", FAIL, "device.eeprom")
def stale_bus_master(tree: Tree) -> None:
    """A device that waits for a user: its driver was killed."""
    link(tree, f"{OTHER}/driver", "../../../../bus/pci/drivers/vfio-pci")


@mutation("session.bar")
def worker_maps_all_of_the_bar(tree: Tree) -> None:
    old = "7f51c0001000-7f51c0002000 rw-s 00001000"
    edit(tree, f"/proc/{WORKER}/maps", old, "7f51c0000000-7f51c0080000 rw-s 00000000")


@mutation("session.seals")
def memory_can_shrink(tree: Tree) -> None:
    tree.update(f"/proc/{WORKER}/map_files/7f5200000000-7f5200200000", seals=5)


@mutation("session.dma")
def mapping_outside_the_ledger(tree: Tree) -> None:
    row = "0x0000000090000 |\t0x0\t0x104dc7003\t0x104dc8003\t0x104dca003\t0x90000003"
    edit(tree, TABLES, "0x0000001000000 |", f"{row}\n0x0000001000000 |")


@mutation("session.level", WARN, "session.fds", "session.bar", "session.mseal", "session.limits")
def no_workers(tree: Tree) -> None:
    tree.remove("/proc/1201")
    tree.remove("/proc/1202")


@mutation("session.privileges", FAIL, "session.limits")
def root_worker(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/status", "Uid:\t1000\t1000\t1000\t1000", "Uid:\t0\t0\t0\t0")
