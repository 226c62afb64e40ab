"""One device: its files, its group, its bridges, its configuration, who else has it open."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import CONTROL, NIC, edit, link, node, poke, process, thread, write
from tests.unit.audit.mutating import BRIDGE, DEVICE_FD, FAIL, GROUPS, SKIP, WARN, mutate, mutation

RECORD = "/var/lib/ixy_vfio/eeprom/0000:03:00.0.last"
SECOND = f"{BRIDGE}/0000:03:00.1"

# -- files in sysfs

for name, mode, who in (
    ("resource0", 0o604, {}), ("resource2", 0o660, {"gid": 1000}), ("resource0_wc", 0o602, {}),
    ("resource4_resize", 0o600, {"uid": 1000}), ("rom", 0o604, {}), ("config", 0o646, {}),
    ("driver_override", 0o666, {}), ("sriov_numvfs", 0o664, {"gid": 1000}), ("reset", 0o222, {}),
    ("vpd", 0o600, {"uid": 1000}), ("remove", 0o222, {}), ("reset_method", 0o666, {}),
):  # fmt: skip
    mutate(f"{name}_for_others", "nodes.sysfs", FAIL, node, f"{NIC}/{name}", mode, kind="-", **who)
for name in ("bind", "unbind", "new_id"):
    mutate(f"{name}_for_others", "nodes.sysfs", FAIL, node, f"/sys/bus/pci/drivers/vfio-pci/{name}", 0o222, kind="-")

# -- group and IOMMU


@mutation("device.group", WARN)
def two_ports_in_one_group(tree: Tree) -> None:
    link(tree, f"{SECOND}/iommu_group", "../../../../kernel/iommu_groups/26")
    link(tree, f"{GROUPS}/26/devices/0000:03:00.1", "../../../../devices/pci0000:00/0000:00:02.0/0000:03:00.1")


@mutation("device.group")
def bridge_in_the_group_with_a_driver(tree: Tree) -> None:
    link(tree, f"{BRIDGE}/iommu_group", "../../../kernel/iommu_groups/26")
    link(tree, f"{BRIDGE}/driver", "../../../bus/pci/drivers/bridge_tool")


@mutation("device.group")
def platform_device_in_the_group(tree: Tree) -> None:
    link(tree, f"{GROUPS}/26/devices/INTC1001:00", "../../../../devices/platform/INTC1001:00")


def _ids(tree: Tree, vendor: str, device: str, features: str = "") -> None:
    write(tree, f"{NIC}/vendor", vendor)
    write(tree, f"{NIC}/device", device)
    if features:
        write(tree, f"{NIC}/virtio3/features", features)


ALL, WITHOUT = "1" * 64, "1" * 33 + "0" + "1" * 30
mutate("virtio_legacy", "device.virtio", FAIL, _ids, "0x1af4", "0x1000")
mutate("virtio_transitional_of_another_kind", "device.virtio", FAIL, _ids, "0x1af4", "0x103f")
mutate("virtio_transitional_that_claims_it", "device.virtio", FAIL, _ids, "0x1af4", "0x1000", ALL)
mutate("virtio_without_access_platform", "device.virtio", FAIL, _ids, "0x1af4", "0x1041", WITHOUT)
mutate("virtio_with_few_features", "device.virtio", FAIL, _ids, "0x1af4", "0x1041", "1" * 32)
mutate("virtio_that_nobody_knows", "device.virtio", SKIP, _ids, "0x1af4", "0x1041")

# -- bridges

for name, control in (
    ("source", 0x1C),
    ("request", 0x19),
    ("completion", 0x15),
    ("forwarding", 0x0D),
    ("direct", 0x5D),
):
    mutate(f"bridge_without_{name}", "device.acs", FAIL, poke, f"{BRIDGE}/config", 0x11A - 4, bytes([control, 0]))
mutate("bridge_not_shown", "device.acs", SKIP, Tree.remove, "/sys/bus/pci/devices/0000:00:02.0")


@mutation("device.acs", SKIP)
def bridge_shows_its_head_only(tree: Tree) -> None:
    tree.update(f"{BRIDGE}/config", data=(tree.data(f"{BRIDGE}/config") or b"")[:64])


# -- what the device can do

mutate("regions_not_shown", "device.reserved", SKIP, Tree.remove, f"{GROUPS}/26/reserved_regions")
mutate(
    "regions_given_up",
    "device.reserved",
    WARN,
    write,
    f"{GROUPS}/27/reserved_regions",
    "0x1000 0x1fff direct-relaxable",
)
mutate("reset_by_the_bus", "device.reset", WARN, write, f"{NIC}/reset_method", "bus")
mutate("reset_first_by_the_bus", "device.reset", WARN, write, f"{NIC}/reset_method", "bus flr")
mutate("reset_by_cxl", "device.reset", WARN, write, f"{NIC}/reset_method", "cxl_bus")
mutate("reset_not_listed", "device.reset", FAIL, Tree.remove, f"{NIC}/reset_method")


@mutation("device.ats")
def page_requests_on(tree: Tree) -> None:
    poke(tree, f"{NIC}/config", 0x1A0, bytes.fromhex("0f00011b"))
    poke(tree, f"{NIC}/config", 0x1B0, bytes.fromhex("130001000100"))


@mutation("device.ats")
def process_ids_on(tree: Tree) -> None:
    poke(tree, f"{NIC}/config", 0x1A0, bytes.fromhex("0f00011b"))
    poke(tree, f"{NIC}/config", 0x1B0, bytes.fromhex("1b00010000000100"))


@mutation("device.ats", SKIP)
def configuration_shows_its_head_only(tree: Tree) -> None:
    tree.update(f"{NIC}/config", data=(tree.data(f"{NIC}/config") or b"")[:64])


mutate("virtual_function_of_a_program", "device.sriov", FAIL, link, f"{SECOND}/physfn", "../0000:03:00.0")
mutate("virtual_function_that_is_not_counted", "device.sriov", FAIL, link, f"{NIC}/virtfn0", "../0000:03:10.0")
mutate("virtual_function_of_nobody_known", "device.sriov", SKIP, link, f"{SECOND}/physfn", "../0000:99:00.0")
mutate("virtual_functions_in_a_number_of_no_kind", "device.sriov", SKIP, write, f"{NIC}/sriov_numvfs", "many")

mutate("eeprom_of_a_user", "device.eeprom", FAIL, node, RECORD, 0o644, uid=1000, kind="-")
mutate("eeprom_in_a_directory_for_all", "device.eeprom", FAIL, node, "/var/lib/ixy_vfio", 0o777, kind="d")
mutate("eeprom_that_everybody_writes", "device.eeprom", FAIL, node, RECORD, 0o646, kind="-")
mutate("eeprom_recorded_once", "device.eeprom", SKIP, Tree.remove, RECORD)

# -- holders


def _thief(tree: Tree, argv: str = "x", uid: int = 1001, fd: str = "fd/9", parent: int = 1) -> None:
    process(tree, 1300, uid=uid, argv=argv, parent=parent)
    link(tree, f"/proc/1300/{fd}", DEVICE_FD)


mutate("holder_called_as_the_helper", "device.holders", FAIL, _thief, "/usr/bin/python3 -m ixy_vfio_helper serve")
mutate(
    "holder_at_the_helpers_path",
    "device.holders",
    FAIL,
    _thief,
    "python3 /usr/local/lib/ixy_vfio/ixy_vfio_helper serve",
)
mutate("holder_of_root_called_as_the_helper", "device.holders", FAIL, _thief, "ixy-vfio-helper serve", 0)
mutate("holder_called_as_the_simulator", "device.holders", FAIL, _thief, "python3 -m ixy_vfio.sim.lease")
mutate("holder_called_as_the_command", "device.holders", FAIL, _thief, "ixy-vfio sim --ports 2")
mutate("holder_of_root", "device.holders", FAIL, _thief, "sleep 9", 0)


@mutation("device.holders")
def holder_in_one_thread(tree: Tree) -> None:
    _thief(tree, fd="task/1301/fd/4")
    thread(tree, 1300, 1301)


@mutation("device.holders")
def holder_whose_first_thread_has_ended(tree: Tree) -> None:
    _thief(tree, fd="task/1301/fd/4")
    thread(tree, 1300, 1301)
    write(tree, "/proc/1300/status", "Name:\tx\nState:\tZ (zombie)\nPPid:\t1\nUid:\t1001\t1001\t1001\t1001\n")


@mutation("device.holders")
def holder_by_a_node_of_another_name(tree: Tree) -> None:
    process(tree, 1300, uid=1001)
    write(tree, "/sys/class/vfio-dev/vfio0/dev", "510:0")
    link(tree, "/sys/class/vfio-dev/vfio0", "../../devices/pci0000:00/0000:00:02.0/0000:03:00.0/vfio-dev/vfio0")
    write(tree, f"{NIC}/vfio-dev/vfio0/dev", "510:0")
    link(tree, "/proc/1300/fd/9", "/srv/container/dev/nic")
    tree.update("/proc/1300/fd/9", device="c 510:0")


@mutation("device.holders")
def holder_with_a_lease_of_another_that_is_over(tree: Tree) -> None:
    """The record of a lease that is over names a process id that is a program's now."""
    _thief(tree, "ixy-vfio-helper serve", 0)
    write(tree, "/run/ixy_vfio/leases/0000:04:00.0.lease", "1000 1300")


@mutation("device.holders")
def somebody_shares_the_packets(tree: Tree) -> None:
    """Not a child of control: it was given the memory."""
    process(tree, 1300)
    edit(tree, "/proc/1300/status", "Seccomp:\t0", "Seccomp:\t2\nNoNewPrivs:\t1")
    packets = next(line for line in (tree.data(f"/proc/{CONTROL}/maps") or b"").decode().splitlines() if "2051" in line)
    write(tree, "/proc/1300/maps", packets)
    tree.update("/proc/1300/map_files/7f5200000000-7f5200200000", seals=7)
