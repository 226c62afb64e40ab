"""The machine: its IOMMUs, its kernel, and the nodes of its devices."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import NIC, append, edit, link, node, process, thread, write
from tests.unit.audit.mutating import FAIL, GROUPS, OTHER, REGISTERS, SKIP, WARN, mutate, mutation

INTERRUPTS = "/proc/interrupts"
SECOND = "\nIOMMU: dmar1 Register Base Address: fbffd000\nGSTS            \t0x1c\t\t0x00000000{}\n"

# -- IOMMU

mutate("no_translation", "iommu.present", FAIL, edit, REGISTERS, "c7000000", "47000000")
mutate("no_translation_by_the_second", "iommu.present", FAIL, append, REGISTERS, SECOND.format("47000000"))
mutate("no_remapping_by_the_status", "iommu.intremap", FAIL, edit, REGISTERS, "c7000000", "c5000000")
mutate("no_remapping_by_the_second", "iommu.intremap", FAIL, append, REGISTERS, SECOND.format("c5000000"))
mutate(
    "compatibility_format_by_the_second",
    "iommu.compatibility_format",
    FAIL,
    append,
    REGISTERS,
    SECOND.format("c7800000"),
)
mutate("status_not_shown", "iommu.compatibility_format", SKIP, Tree.remove, REGISTERS)
mutate(
    "status_of_one_not_shown", "iommu.compatibility_format", SKIP, link, "/sys/class/iommu/dmar1", "../../devices/dmar1"
)
mutate(
    "one_interrupt_is_not_remapped",
    "iommu.intremap",
    FAIL,
    edit,
    INTERRUPTS,
    "IR-PCI-MSIX-0000:04:00.0",
    "PCI-MSIX-0000:04:00.0",
)
mutate("interrupts_not_shown", "iommu.intremap", SKIP, write, INTERRUPTS, "CPU0 CPU1\n")
mutate("lazy_group_of_a_session", "iommu.lazy", WARN, write, f"{GROUPS}/26/type", "DMA-FQ")


@mutation("iommu.intremap")
def remapped_by_the_name_of_an_interface(tree: Tree) -> None:
    edit(tree, INTERRUPTS, "IR-", "")
    edit(tree, INTERRUPTS, "nvme0q0", "IR-PCI-MSI")


@mutation("iommu.intremap")
def remapped_by_the_name_of_a_timer(tree: Tree) -> None:
    edit(tree, INTERRUPTS, "IR-", "")
    edit(tree, INTERRUPTS, "timer", "eth0-IR-IO-APIC")


@mutation("iommu.passthrough", SKIP, "iommu.lazy")
def types_not_shown(tree: Tree) -> None:
    tree.remove(f"{GROUPS}/28/type")


# -- kernel

mutate("lockdown_unknown", "kernel.lockdown", SKIP, write, "/sys/kernel/security/lockdown", "perhaps")
mutate("no_lockdown", "kernel.lockdown", WARN, Tree.remove, "/sys/kernel/security/lockdown")
mutate("securityfs_not_mounted", "kernel.lockdown", SKIP, Tree.remove, "/sys/kernel/security")


def _lacks(tree: Tree, layers: dict[str, str] | None) -> None:
    tree.layers = layers


for layer in ("landlock-network", "landlock-scope", "mseal", "seccomp"):
    mutate(f"no_{layer}", "kernel.layers", WARN, _lacks, {layer: "Function not implemented"})
mutate("layers_not_asked", "kernel.layers", SKIP, _lacks, None)

# -- nodes

for name, mode, gid in (
    ("read_by_everybody", 0o604, 0), ("written_by_everybody", 0o602, 0), ("run_by_everybody", 0o601, 0),
    ("read_by_a_group", 0o640, 1000), ("written_by_a_group", 0o620, 1000), ("of_an_empty_group", 0o660, 15),
):  # fmt: skip
    mutate(f"node_{name}", "nodes.vfio", FAIL, node, "/dev/vfio/27", mode, gid=gid)
    mutate(f"iommufd_{name}", "nodes.vfio", FAIL, node, "/dev/iommu", mode, gid=gid)
mutate("node_by_acl_of_a_group", "nodes.vfio", FAIL, node, "/dev/vfio/26", 0o660, acl="g=0,g1000=6")
mutate("node_by_acl_to_a_user", "nodes.vfio", FAIL, node, "/dev/vfio/26", 0o660, acl="u1000=4,g=0")
mutate("device_node_by_acl", "nodes.vfio", FAIL, node, "/dev/vfio/devices/vfio0", 0o660, acl="u65534=6,g=0")
mutate("device_node_for_everybody", "nodes.vfio", FAIL, node, "/dev/vfio/devices/vfio0", 0o604)
mutate("iommufd_of_a_user", "nodes.vfio", WARN, node, "/dev/iommu", 0o600, uid=1000)
mutate("directory_of_nodes_for_everybody", "nodes.vfio", FAIL, node, "/dev/vfio", 0o777, kind="d")
mutate("directory_of_nodes_of_a_user", "nodes.vfio", FAIL, node, "/dev/vfio", 0o755, uid=1000, kind="d")


@mutation("nodes.vfio")
def node_of_roots_group_which_has_a_member(tree: Tree) -> None:
    edit(tree, "/etc/group", "root:x:0:", "root:x:0:alice")
    node(tree, "/dev/vfio/26", 0o660)


@mutation("nodes.vfio")
def node_by_another_name(tree: Tree) -> None:
    write(tree, "/sys/class/vfio/26/dev", "511:0")
    tree.update("/dev/vfio/26", device="c 511:0")
    tree.update("/dev/nic", device="c 511:0")
    node(tree, "/dev/nic", 0o666)


mutate("ports_for_everybody", "nodes.memory", FAIL, node, "/dev/port", 0o606)
mutate("memory_written_by_a_group", "nodes.memory", FAIL, node, "/dev/mem", 0o660, gid=15)
mutate("memory_of_a_group_with_members", "nodes.memory", FAIL, node, "/dev/mem", 0o640, gid=1000)
mutate("memory_of_kmem_which_has_a_member", "nodes.memory", FAIL, edit, "/etc/group", "kmem:x:15:", "kmem:x:15:alice")
mutate(
    "memory_of_the_group_of_a_user", "nodes.memory", FAIL, edit, "/etc/passwd", "alice:x:1000:1000", "alice:x:1000:15"
)
mutate("memory_by_acl", "nodes.memory", FAIL, node, "/dev/mem", 0o640, acl="u1000=4,g=4")
mutate("core_for_everybody", "nodes.memory", FAIL, node, "/proc/kcore", 0o444, kind="-")


@mutation("nodes.memory", WARN)
def memory_open_by_another_name(tree: Tree) -> None:
    process(tree, 1500, uid=0, name="tool")
    link(tree, "/proc/1500/fd/3", "/srv/container/dev/ram")
    tree.update("/proc/1500/fd/3", device="c 1:1")


@mutation("nodes.memory", WARN)
def memory_open_in_one_thread(tree: Tree) -> None:
    process(tree, 1500, uid=0, name="tool")
    thread(tree, 1500, 1501)
    link(tree, "/proc/1500/task/1501/fd/3", "/dev/port")
    tree.update("/proc/1500/task/1501/fd/3", device="c 1:4")


mutate("uio_node_read_by_everybody", "nodes.uio", FAIL, node, "/dev/uio0", 0o604)
mutate("uio_node_of_a_group", "nodes.uio", FAIL, node, "/dev/uio0", 0o660, gid=1000)
mutate("uio_node_of_a_user", "nodes.uio", FAIL, node, "/dev/uio0", 0o600, uid=1000)


@mutation("nodes.uio")
def uio_driver_of_another_name(tree: Tree) -> None:
    link(tree, f"{OTHER}/driver", "../../../../bus/pci/drivers/my_dpdk")
    write(tree, f"{OTHER}/uio/uio0/name", "my_dpdk")


def _registers(tree: Tree, pid: int, fd: str, path: str, **status: str) -> None:
    process(tree, pid, uid=0, name="ixy-fwd")
    if status:
        thread(tree, pid, pid + 1, **status)
    link(tree, f"/proc/{pid}/{fd}", path)


mutate("registers_open", "nodes.uio", FAIL, _registers, 1400, "fd/3", f"{NIC}/resource0")
mutate("registers_open_combined", "nodes.uio", FAIL, _registers, 1400, "fd/3", f"{NIC}/resource0_wc")
mutate("registers_open_by_another_mount", "nodes.uio", FAIL, _registers, 1400, "fd/3", f"/host{NIC}/resource0")
mutate(
    "registers_open_in_one_thread", "nodes.uio", FAIL, _registers, 1400, "task/1401/fd/3", f"{NIC}/resource2", Name="x"
)
mutate("uio_node_open", "nodes.uio", FAIL, _registers, 1400, "fd/3", "/dev/uio0")


@mutation("nodes.uio")
def registers_open_when_the_first_thread_has_ended(tree: Tree) -> None:
    _registers(tree, 1400, "task/1401/fd/3", f"{NIC}/resource0", Name="x")
    write(tree, "/proc/1400/status", "Name:\tixy-fwd\nState:\tZ (zombie)\nPPid:\t1\nUid:\t0\t0\t0\t0\n")
