"""Each single thing that is broken on a sound machine flips its own check, and no other."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ixy_vfio.audit.model import CHECKS, Scope, Status
from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import (
    CONTROL,
    HELPER,
    NIC,
    WORKER,
    edit,
    link,
    look,
    machine,
    node,
    poke,
    process,
    statuses,
    write,
)

LOOKS = {name for name, check in CHECKS.items() if check.scope is not Scope.ATTACK}
CMDLINE = "/proc/cmdline"
GROUPS = "/sys/kernel/iommu_groups"
PARAMETERS = "/sys/module/{}/parameters/{}"
OTHER = "/sys/devices/pci0000:00/0000:00:03.0/0000:04:00.0"
DEVICE_FD = "anon_inode:[vfio-device]"
TABLES = "/sys/kernel/debug/iommu/intel/0000:03:00.0/domain_translation_struct"


class Mutation(NamedTuple):
    name: str
    check: str
    status: Status
    mutate: Callable[[Tree], None]
    blind: frozenset[str] = frozenset()  # checks that can tell nothing any more


MUTATIONS: list[Mutation] = []


def mutation(check: str, status: Status = Status.FAIL, *blind: str) -> Callable[[Callable[[Tree], None]], None]:
    def add(function: Callable[[Tree], None]) -> None:
        MUTATIONS.append(Mutation(function.__name__, check, status, function, frozenset(blind)))

    return add


# -- host


@mutation("iommu.passthrough", Status.WARN)
def passthrough_default(tree: Tree) -> None:
    edit(tree, CMDLINE, "intel_iommu=on", "intel_iommu=on iommu=pt")


@mutation("iommu.passthrough", Status.WARN)
def one_group_in_passthrough(tree: Tree) -> None:
    write(tree, f"{GROUPS}/28/type", "identity")


@mutation("iommu.lazy", Status.WARN)
def lazy_unmap(tree: Tree) -> None:
    write(tree, f"{GROUPS}/28/type", "DMA-FQ")


@mutation("iommu.intremap")
def no_interrupt_remapping(tree: Tree) -> None:
    edit(tree, "/proc/interrupts", "IR-", "")


@mutation("iommu.intremap")
def interrupt_source_not_checked(tree: Tree) -> None:
    edit(tree, CMDLINE, "ro ", "ro intremap=nosid ")


@mutation("iommu.compatibility_format")
def compatibility_format_passes(tree: Tree) -> None:
    edit(tree, "/sys/kernel/debug/iommu/intel/iommu_regset", "c7000000", "c7800000")


@mutation("iommu.early_dma", Status.WARN)
def firmware_did_not_opt_in(tree: Tree) -> None:
    poke(tree, "/sys/firmware/acpi/tables/DMAR", 37, b"\x01")


@mutation("iommu.acs_override")
def acs_override(tree: Tree) -> None:
    edit(tree, CMDLINE, "ro ", "ro pcie_acs_override=downstream,multifunction ")


@mutation("iommu.acs_override")
def redirection_off_by_option(tree: Tree) -> None:
    edit(tree, CMDLINE, "ro ", "ro pci=disable_acs_redir=0000:00:02.0 ")


@mutation("vfio.unsafe_interrupts")
def unsafe_interrupts(tree: Tree) -> None:
    write(tree, PARAMETERS.format("vfio_iommu_type1", "allow_unsafe_interrupts"), "Y")


@mutation("vfio.unsafe_interrupts")
def unsafe_interrupts_when_iommufd_is_loaded(tree: Tree) -> None:
    write(tree, "/etc/modprobe.d/vfio.conf", "# easy\noptions iommufd allow_unsafe_interrupts=1")


@mutation("vfio.noiommu")
def noiommu_mode(tree: Tree) -> None:
    write(tree, PARAMETERS.format("vfio", "enable_unsafe_noiommu_mode"), "Y")


@mutation("vfio.noiommu")
def noiommu_node(tree: Tree) -> None:
    node(tree, "/dev/vfio/noiommu-0", 0o600)


@mutation("vfio.noiommu", Status.WARN)
def noiommu_taint(tree: Tree) -> None:
    write(tree, "/proc/sys/kernel/tainted", "64")


@mutation("vfio.parameters", Status.WARN)
def denylist_off(tree: Tree) -> None:
    write(tree, PARAMETERS.format("vfio_pci", "disable_denylist"), "Y")


@mutation("kernel.config", Status.WARN)
def kernel_without_seccomp(tree: Tree) -> None:
    edit(tree, "/boot/config-6.12.57+deb13-amd64", "CONFIG_SECCOMP_FILTER=y", "# CONFIG_SECCOMP_FILTER is not set")


@mutation("kernel.lockdown", Status.WARN)
def lockdown_off(tree: Tree) -> None:
    write(tree, "/sys/kernel/security/lockdown", "[none] integrity confidentiality")


@mutation("kernel.landlock", Status.WARN)
def landlock_off(tree: Tree) -> None:
    write(tree, "/sys/kernel/security/lsm", "lockdown,capability,yama")


@mutation("nodes.vfio")
def world_writable_group(tree: Tree) -> None:
    node(tree, "/dev/vfio/26", 0o666)


@mutation("nodes.vfio", Status.WARN)
def group_given_to_a_user(tree: Tree) -> None:
    node(tree, "/dev/vfio/26", 0o600, uid=1000)


@mutation("nodes.vfio")
def world_writable_iommufd(tree: Tree) -> None:
    node(tree, "/dev/iommu", 0o666)


@mutation("nodes.memory")
def physical_memory_for_all(tree: Tree) -> None:
    node(tree, "/dev/mem", 0o666)


@mutation("nodes.memory", Status.WARN)
def physical_memory_open(tree: Tree) -> None:
    process(tree, 1500, uid=0, name="flashrom")
    link(tree, "/proc/1500/fd/3", "/dev/mem")


@mutation("nodes.uio")
def uio_node_for_all(tree: Tree) -> None:
    node(tree, "/dev/uio0", 0o666)


@mutation("nodes.uio")
def registers_mapped_through_sysfs(tree: Tree) -> None:
    process(tree, 1400, uid=0, name="ixy-fwd")
    write(tree, "/proc/1400/maps", f"7f0000000000-7f0000080000 rw-s 00000000 00:15 1821 {NIC}/resource0")


# -- device


@mutation("nodes.sysfs")
def registers_for_all(tree: Tree) -> None:
    node(tree, f"{NIC}/resource0", 0o666, kind="-")


@mutation("nodes.sysfs")
def configuration_for_a_user(tree: Tree) -> None:
    node(tree, f"{NIC}/config", 0o644, uid=1000, kind="-")


@mutation("device.holders")
def second_holder(tree: Tree) -> None:
    process(tree, 1300)
    link(tree, "/proc/1300/fd/9", DEVICE_FD)


@mutation("device.iommu", Status.FAIL, "device.group", "device.reserved", "device.eeprom")
def device_without_group(tree: Tree) -> None:
    """A device that waits for a user; one that is used cannot lose its group."""
    link(tree, f"{OTHER}/driver", "../../../../bus/pci/drivers/vfio-pci")
    poke(tree, f"{OTHER}/config", 4, b"\2")
    tree.remove(f"{OTHER}/iommu_group")


@mutation("device.group")
def foreign_driver_in_the_group(tree: Tree) -> None:
    link(tree, f"{OTHER}/iommu_group", "../../kernel/iommu_groups/26")


@mutation("device.acs")
def bridge_does_not_redirect(tree: Tree) -> None:
    poke(tree, "/sys/devices/pci0000:00/0000:00:02.0/config", 0x116, b"\x11\0")


@mutation("device.reserved")
def reserved_by_the_firmware(tree: Tree) -> None:
    write(tree, f"{GROUPS}/26/reserved_regions", "0x00000000791ee000 0x00000000791f1fff direct")


@mutation("device.ats")
def ats_on(tree: Tree) -> None:
    poke(tree, f"{NIC}/config", 0x1A6, b"\0\x80")


@mutation("device.reset")
def no_reset(tree: Tree) -> None:
    write(tree, f"{NIC}/reset_method", "")


@mutation("device.bus_master", Status.FAIL, "device.eeprom")
def stale_bus_master(tree: Tree) -> None:
    """A device that waits for a user: its driver was killed."""
    link(tree, f"{OTHER}/driver", "../../../../bus/pci/drivers/vfio-pci")


@mutation("device.sriov")
def virtual_functions_left(tree: Tree) -> None:
    write(tree, f"{NIC}/sriov_numvfs", "2")


@mutation("device.eeprom")
def eeprom_changed(tree: Tree) -> None:
    write(tree, "/run/ixy_vfio/eeprom/0000:03:00.0.last", "00000000")


# -- session


@mutation("session.privileges")
def root_worker(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/status", "Uid:\t1000\t1000\t1000\t1000", "Uid:\t0\t0\t0\t0")


@mutation("session.privileges")
def control_with_a_capability(tree: Tree) -> None:
    edit(tree, f"/proc/{CONTROL}/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000004000")


@mutation("session.sandbox")
def worker_without_filter(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/status", "Seccomp:\t2", "Seccomp:\t0")


@mutation("session.sandbox", Status.WARN)
def control_may_gain_privileges(tree: Tree) -> None:
    edit(tree, f"/proc/{CONTROL}/status", "NoNewPrivs:\t1", "NoNewPrivs:\t0")


@mutation("session.fds")
def worker_with_the_device(tree: Tree) -> None:
    link(tree, f"/proc/{WORKER}/fd/20", DEVICE_FD)


@mutation("session.fds")
def worker_with_a_file(tree: Tree) -> None:
    link(tree, f"/proc/{WORKER}/fd/20", "/home/user/notes")


@mutation("session.bar")
def worker_maps_all_of_the_bar(tree: Tree) -> None:
    old = "7f51c0001000-7f51c0002000 rw-s 00001000"
    edit(tree, f"/proc/{WORKER}/maps", old, "7f51c0000000-7f51c0080000 rw-s 00000000")


@mutation("session.bar")
def worker_maps_the_msix_bar(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/maps", "rw-s 00006000", "rw-s 40000001000")


@mutation("session.exec")
def writable_and_executable(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/maps", "7f51d0004000 r-xp", "7f51d0004000 rwxp")


@mutation("session.mseal", Status.WARN)
def mapping_not_sealed(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/smaps", "me ms sl", "me ms")


@mutation("session.seals")
def memory_can_shrink(tree: Tree) -> None:
    tree.update(f"/proc/{WORKER}/map_files/7f5200000000-7f5200200000", seals=5)


@mutation("session.container", Status.WARN)
def common_container(tree: Tree) -> None:
    tree.remove(f"/proc/{HELPER}/fd/8")


@mutation("session.dma")
def mapping_outside_the_ledger(tree: Tree) -> None:
    row = "0x0000000090000 |\t0x0\t0x104dc7003\t0x104dc8003\t0x104dca003\t0x90000003"
    edit(tree, TABLES, "0x0000001000000 |", f"{row}\n0x0000001000000 |")


@mutation("session.dma")
def more_rights_than_the_ledger(tree: Tree) -> None:
    edit(tree, "/run/ixy_vfio/leases/0000:03:00.0.ledger", "0x2000 rw rings", "0x2000 r rings")


@mutation("session.dma", Status.WARN)
def mapping_gone(tree: Tree) -> None:
    edit(tree, TABLES, "0x0000001000000 |\t", "# ")


@mutation("session.level", Status.WARN, "session.fds", "session.bar", "session.mseal", "session.limits")
def no_workers(tree: Tree) -> None:
    tree.remove("/proc/1201")
    tree.remove("/proc/1202")


# -- helper


@mutation("helper.capabilities", Status.WARN)
def helper_with_all_capabilities(tree: Tree) -> None:
    edit(tree, f"/proc/{HELPER}/status", "CapEff:\t0000000000204000", "CapEff:\t000001ffffffffff")


@mutation("helper.unit", Status.WARN)
def unit_not_hardened(tree: Tree) -> None:
    edit(tree, "/etc/systemd/system/ixy-vfio-helper.service", "NoNewPrivileges=yes", "NoNewPrivileges=no")


@mutation("helper.socket")
def socket_of_a_user(tree: Tree) -> None:
    node(tree, "/run/ixy_vfio/helper.sock", 0o666, uid=1000, kind="s")


@mutation("helper.socket")
def directory_of_the_socket_for_a_user(tree: Tree) -> None:
    node(tree, "/run/ixy_vfio", 0o755, uid=1000, kind="d")


@mutation("helper.policy")
def policy_of_a_user(tree: Tree) -> None:
    node(tree, "/etc/ixy_vfio/policy.toml", 0o644, uid=1000, kind="-")


@mutation("helper.code")
def helper_from_a_directory_of_a_user(tree: Tree) -> None:
    node(tree, "/usr/lib/ixy_vfio", 0o755, uid=1000, kind="d")


@mutation("session.limits", Status.WARN)
def worker_without_limits(tree: Tree) -> None:
    edit(tree, f"/proc/{WORKER}/limits", "Max open files            0   ", "Max open files            1024")


@mutation("session.limits", Status.WARN)
def worker_that_can_be_traced(tree: Tree) -> None:
    node(tree, f"/proc/{WORKER}/environ", 0o400, uid=1000, kind="-")


def test_the_sound_machine_passes_every_check() -> None:
    report = look(machine("sound"))
    assert statuses(report, Status.PASS) == LOOKS
    assert report.counts == {"FAIL": 0, "WARN": 0, "SKIP": 0, "PASS": 56}


@pytest.mark.parametrize("case", MUTATIONS, ids=lambda case: case.name)
def test_a_mutation_flips_its_own_check_and_no_other(case: Mutation) -> None:
    broken = machine("sound")
    case.mutate(broken)
    report = look(broken)
    assert statuses(report, Status.WARN) | statuses(report, Status.FAIL) == {case.check}
    assert max(one.status for one in report.results) is case.status
    assert statuses(report, Status.SKIP) <= case.blind


def test_every_check_is_flipped_by_some_mutation() -> None:
    # Without an IOMMU, or on an old kernel, other checks fail too; session.iommu only ever skips. Tested elsewhere.
    assert {case.check for case in MUTATIONS} == LOOKS - {"iommu.present", "kernel.version", "session.iommu"}
    assert len(MUTATIONS) >= 20
