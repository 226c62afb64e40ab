"""Sessions: every thread, descriptor, mapping and limit of their processes, and the ledger."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import CONTROL, HELPER, WORKER, append, edit, link, node, thread, write
from tests.unit.audit.mutating import DEVICE_FD, FAIL, SKIP, WARN, mutate, mutation

STATUS = f"/proc/{CONTROL}/status"
LEDGER = "/run/ixy_vfio/leases/0000:03:00.1.ledger"
LIMITS = f"/proc/{WORKER}/limits"
SMAPS = f"/proc/{WORKER}/smaps"
UIDS = "Uid:\t1000\t1000\t1000\t1000"

# -- privileges and sandbox

for name, uids in (
    ("effective", "1000\t0\t1000\t1000"),
    ("saved", "1000\t1000\t0\t1000"),
    ("of_files", "1000\t1000\t1000\t0"),
):
    mutate(f"control_with_{name}_root", "session.privileges", FAIL, edit, STATUS, UIDS, f"Uid:\t{uids}")
mutate("control_may_take_a_capability", "session.privileges", FAIL, edit, STATUS, "CapPrm:\t0", "CapPrm:\t1")
mutate("control_hands_a_capability_on", "session.privileges", FAIL, edit, STATUS, "CapInh:\t0", "CapInh:\t1")
mutate("control_has_an_ambient_capability", "session.privileges", FAIL, append, STATUS, "CapAmb:\t0000000000000002\n")
mutate("thread_of_control_is_root", "session.privileges", FAIL, thread, CONTROL, 1203, Uid="0\t0\t0\t0")
mutate("thread_of_control_has_a_capability", "session.privileges", FAIL, thread, CONTROL, 1203, CapEff="1")
mutate("thread_of_a_worker_has_a_capability", "session.privileges", FAIL, thread, WORKER, 1203, CapPrm="1")
mutate("control_in_the_group_of_root", "session.privileges", WARN, edit, STATUS, "Gid:\t1000", "Gid:\t0")
mutate("control_in_the_group_of_root_too", "session.privileges", WARN, edit, STATUS, "Groups:\t1000", "Groups:\t0 1000")

mutate("thread_of_control_without_a_filter", "session.sandbox", WARN, thread, CONTROL, 1203, Seccomp="0")
mutate("thread_of_control_may_gain_privileges", "session.sandbox", WARN, thread, CONTROL, 1203, NoNewPrivs="0")
mutate("thread_of_a_worker_without_a_filter", "session.sandbox", FAIL, thread, WORKER, 1203, Seccomp="0")
mutate("thread_of_a_worker_may_gain_privileges", "session.sandbox", FAIL, thread, WORKER, 1203, NoNewPrivs="0")
mutate("worker_in_strict_mode", "session.sandbox", FAIL, edit, f"/proc/{WORKER}/status", "Seccomp:\t2", "Seccomp:\t1")
mutate("control_without_filter", "session.sandbox", WARN, edit, STATUS, "Seccomp:\t2", "Seccomp:\t0")
mutate("control_whose_filter_is_not_shown", "session.sandbox", WARN, edit, STATUS, "Seccomp:\t2\n", "")

# -- limits

for name in ("Max file size  ", "Max processes  ", "Max open files "):
    mutate(
        f"worker_may_raise_{name.strip().replace(' ', '_')}",
        "session.limits",
        WARN,
        edit,
        LIMITS,
        f"{name:<26}0                    0",
        f"{name:<26}0                    9",
    )
    mutate(
        f"worker_with_{name.strip().replace(' ', '_')}",
        "session.limits",
        WARN,
        edit,
        LIMITS,
        f"{name:<26}0 ",
        f"{name:<26}9 ",
    )
mutate("limits_not_shown", "session.limits", SKIP, Tree.remove, LIMITS)
mutate("files_of_a_worker_not_shown", "session.limits", SKIP, Tree.remove, f"/proc/{WORKER}/environ")
mutate(
    "worker_being_traced", "session.limits", FAIL, edit, f"/proc/{WORKER}/status", "TracerPid:\t0", "TracerPid:\t1100"
)
mutate("thread_of_a_worker_being_traced", "session.limits", FAIL, thread, WORKER, 1203, TracerPid="1100")

# -- descriptors

for name, what in {
    "a_group": "/dev/vfio/26", "a_container": "/dev/vfio/vfio", "a_device_node": "/dev/vfio/devices/vfio0",
    "iommufd": "/dev/iommu", "io_uring": "anon_inode:[io_uring]", "userfaultfd": "anon_inode:[userfaultfd]",
    "a_memfd": "/memfd:x (deleted)", "a_namespace": "mnt:[4026531841]", "a_directory": "/",
    "a_process": "anon_inode:[pidfd]",
    "a_seccomp_listener": "anon_inode:seccomp notify", "nothing_known": "",
}.items():  # fmt: skip
    mutate(f"worker_with_{name}", "session.fds", FAIL, link, f"/proc/{WORKER}/fd/20", what)


@mutation("session.fds")
def worker_with_the_device_in_one_thread(tree: Tree) -> None:
    thread(tree, WORKER, 1203)
    link(tree, f"/proc/{WORKER}/task/1203/fd/20", DEVICE_FD)


for kind, row in {
    "tcp": "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 20061 1 0 100 0 0 10 0",
    "udp6": "0: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 1000 0 20061 2 0 0",
    "packet": "0000000000000000 3 3 0003 2 1 0 0 20061",
    "netlink": "0000000000000000 0 77 00000000 0 0 0 2 0 20061",
}.items():
    mutate(f"worker_with_a_{kind}_socket", "session.fds", FAIL, write, f"/proc/{WORKER}/net/{kind}", f"head\n{row}\n")

# -- mappings

MAPS = f"/proc/{WORKER}/maps"
PAGES = "rw-s 00006000 00:0e 1042                       anon_inode:[vfio-device]\n    7f51c0101000"
mutate(
    "worker_maps_the_next_page",
    "session.bar",
    FAIL,
    edit,
    MAPS,
    "7f51c0001000-7f51c0002000",
    "7f51c0001000-7f51c0003000",
)
mutate("worker_maps_another_bar", "session.bar", FAIL, edit, MAPS, "rw-s 00006000", "rw-s 30000006000")
mutate("worker_reads_other_pages", "session.bar", FAIL, edit, MAPS, "rw-s 00001000", "r--s 00000000")
mutate(
    "packets_are_executable", "session.exec", FAIL, edit, MAPS, "rw-s 00000000 00:0f 2051", "r-xs 00000000 00:0f 2051"
)
mutate("registers_are_executable", "session.exec", FAIL, edit, MAPS, "rw-s 00006000", "r-xs 00006000")
mutate(
    "code_of_control_can_be_written",
    "session.exec",
    FAIL,
    edit,
    f"/proc/{CONTROL}/maps",
    "7f51d0004000 r-xp",
    "7f51d0004000 rwxp",
)


@mutation("session.exec")
def code_that_is_mapped_twice(tree: Tree) -> None:
    row = "7f51e0000000-7f51e0001000 {} 00000000 00:01 9999                       /memfd:jit (deleted)\n"
    append(tree, MAPS, row.format("r-xs") + row.replace("e0", "e8").format("rw-s"))


@mutation("session.exec")
def code_that_control_writes_and_a_worker_runs(tree: Tree) -> None:
    row = "7f51e0000000-7f51e0001000 {} 00000000 00:01 9999                       /memfd:jit (deleted)\n"
    append(tree, MAPS, row.format("r-xs"))
    append(tree, f"/proc/{CONTROL}/maps", row.format("rw-s"))


PACKETS = "/memfd:ixy_vfio (deleted)\nSize:               2048 kB\nVmFlags: rd wr sh mr mw me ms"
mutate("packets_not_sealed_in_place", "session.mseal", WARN, edit, SMAPS, f"{PACKETS} sl", PACKETS)
mutate("a_flag_that_looks_alike", "session.mseal", WARN, edit, SMAPS, "ms sl", "ms slx")
mutate("flags_not_shown", "session.mseal", SKIP, write, SMAPS, "")
mutate(
    "flags_of_one_mapping_not_shown",
    "session.mseal",
    SKIP,
    edit,
    SMAPS,
    "7f5200610000-7f5200612000 rw-s 00000000 00:01 2053                       /memfd:ixy_vfio (deleted)\n",
    "",
)

SEALED = f"/proc/{CONTROL}/map_files/7f5200600000-7f5200602000"
for name, found in (("no_seal", 0), ("growing", 3), ("shrinking", 5), ("further_seals", 6)):
    mutate(f"rings_with_{name}", "session.seals", FAIL, Tree.update, SEALED, seals=found)
mutate("seals_not_shown", "session.seals", SKIP, Tree.remove, SEALED)

# -- domains


@mutation("session.container", WARN)
def two_devices_on_one_iommufd(tree: Tree) -> None:
    for fd, what in ((20, "/dev/iommu"), (21, "/dev/vfio/devices/vfio0"), (22, "/dev/vfio/devices/vfio1")):
        link(tree, f"/proc/{HELPER}/fd/{fd}", what)


@mutation("session.container", WARN)
def two_groups_in_one_container_of_another_name(tree: Tree) -> None:
    tree.remove(f"/proc/{HELPER}/fd/8")
    write(tree, "/sys/class/vfio/27/dev", "511:27")
    link(tree, f"/proc/{HELPER}/fd/9", "/srv/dev/second")
    tree.update(f"/proc/{HELPER}/fd/9", device="c 511:27")


mutate("ledger_of_a_user", "session.dma", FAIL, node, LEDGER, 0o644, uid=1000, kind="-")
mutate("ledger_that_everybody_writes", "session.dma", FAIL, node, LEDGER, 0o646, kind="-")
mutate("ledger_of_a_group", "session.dma", FAIL, node, LEDGER, 0o664, kind="-", gid=1000)
mutate("ledger_by_acl", "session.dma", FAIL, node, LEDGER, 0o664, kind="-", acl="u1000=6,g=4")
mutate("ledger_with_fewer_pages", "session.dma", FAIL, edit, LEDGER, "0x1000600000 0x2000", "0x1000600000 0x1000")
mutate("ledger_without_packets", "session.dma", FAIL, edit, LEDGER, "0x1000000000 0x200000 rw packets\n", "")
mutate("ledger_gone", "session.dma", SKIP, Tree.remove, LEDGER)
mutate("tables_not_shown", "session.dma", SKIP, Tree.remove, "/sys/kernel/debug/iommu/intel/0000:03:00.1")
