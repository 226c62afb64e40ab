"""What single checks say where the mutations of the sound machine do not reach."""

import pytest

from ixy_vfio.audit.model import CHECKS, Severity, Status, host_check, passed
from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import NIC, edit, link, look, machine, node, poke, result, write


def no_iommu(tree: Tree) -> None:
    tree.remove("/sys/class/iommu")
    tree.remove("/sys/kernel/iommu_groups")


def test_iommu_turned_off_on_the_command_line() -> None:
    tree = machine("sound")
    no_iommu(tree)
    edit(tree, "/proc/cmdline", "intel_iommu=on", "intel_iommu=off")
    finding = result(look(tree), "iommu.present").findings[0]
    assert finding.text == "turned off by intel_iommu=off on the kernel's command line"


@pytest.mark.parametrize(("table", "maker"), [("DMAR", "Intel"), ("IVRS", "AMD")])
def test_iommu_that_the_kernel_does_not_use(table: str, maker: str) -> None:
    tree = machine("cloud-vm")
    tree.update(f"/sys/firmware/acpi/tables/{table}", denied=True)
    finding = result(look(tree), "iommu.present").findings[0]
    assert finding.text == f"the machine has an IOMMU of {maker}, but the kernel does not use it"
    option = f"{maker.upper()}_IOMMU"
    edit(tree, "/boot/config-6.8.0-1021-aws", f"CONFIG_{option}=y", f"# CONFIG_{option} is not set")
    finding = result(look(tree), "iommu.present").findings[0]
    assert finding.text == f"the machine has an IOMMU of {maker}, but the kernel was built without {option}"


def test_a_virtual_iommu_without_interrupt_remapping() -> None:
    tree = machine("sound")
    tree.remove("/sys/class/iommu/dmar0")
    link(tree, "/sys/class/iommu/virtio2", "../../devices/virtual/iommu/virtio2")
    edit(tree, "/proc/interrupts", "IR-", "")
    finding = result(look(tree), "iommu.intremap").findings[0]
    assert (finding.status, finding.text) == (Status.FAIL, "this IOMMU remaps no interrupts (a virtual one?)")


def test_amd_firmware_that_remaps_before_boot() -> None:
    tree = machine("amd-epyc")
    tree.uid = 0
    tree.remove("/sys/firmware/acpi/tables/IVRS")
    for flags, status in ((0x03, Status.PASS), (0x01, Status.WARN)):
        tree.update("/sys/firmware/acpi/tables/IVRS", data=b"IVRS" + bytes(32) + bytes([flags, 0, 0, 0]))
        assert result(look(tree), "iommu.early_dma").status is status


def test_x2apic_turned_off() -> None:
    tree = machine("amd-epyc")
    edit(tree, "/proc/cmdline", "ro ", "ro nox2apic ")
    assert result(look(tree), "iommu.compatibility_format").status is Status.WARN


def test_an_old_kernel() -> None:
    tree = machine("sound")
    write(tree, "/proc/sys/kernel/osrelease", "5.4.0-150-generic")
    report = look(tree)
    assert result(report, "kernel.version").findings[0].text == "5.4.0-150-generic is older than 5.8"
    assert result(report, "session.mseal").findings[0].text == "Linux 5.4.0-150-generic has no mseal"
    assert result(report, "device.reset", "0000:03:00.0").status is Status.PASS


def test_reset_before_it_was_listed() -> None:
    tree = machine("sound")
    write(tree, "/proc/sys/kernel/osrelease", "5.10.0")
    tree.remove(f"{NIC}/reset_method")
    assert result(look(tree), "device.reset", "0000:03:00.0").findings[0].text == "it has a reset"
    tree.remove(f"{NIC}/reset")
    assert result(look(tree), "device.reset", "0000:03:00.0").status is Status.FAIL


def test_a_device_bound_to_uio() -> None:
    tree = machine("sound")
    link(tree, "/sys/devices/pci0000:00/0000:00:03.0/0000:04:00.0/driver", "../../bus/pci/drivers/uio_pci_generic")
    finding = result(look(tree), "nodes.uio").findings[0]
    assert finding.text == "driven past the IOMMU: 0000:04:00.0 [8086:0953] driver uio_pci_generic"


def test_a_viable_group_of_two() -> None:
    tree = machine("sound")
    link(tree, "/sys/devices/pci0000:00/0000:00:02.0/0000:03:00.1/iommu_group", "../../kernel/iommu_groups/26")
    finding = result(look(tree), "device.group", "0000:03:00.0").findings[0]
    assert finding.text == "shares group 26 with 0000:03:00.1 [8086:10fb] driver vfio-pci"
    assert finding.status is Status.WARN


def test_a_bridge_that_a_quirk_vouches_for() -> None:
    tree = machine("sound")
    poke(tree, "/sys/devices/pci0000:00/0000:00:02.0/config", 0x110, b"\x0b")  # no ACS any more
    assert result(look(tree), "device.acs", "0000:03:00.0").status is Status.PASS
    link(tree, "/sys/devices/pci0000:00/0000:00:02.0/iommu_group", "../../../kernel/iommu_groups/26")
    assert result(look(tree), "device.acs", "0000:03:00.0").status is Status.FAIL
    assert result(look(tree), "device.acs", "0000:03:00.1").status is Status.PASS


def test_regions_that_vfio_may_give_up() -> None:
    tree = machine("sound")
    write(tree, "/sys/kernel/iommu_groups/26/reserved_regions", "0x9d800000 0x9fffffff direct-relaxable")
    assert result(look(tree), "device.reserved", "0000:03:00.0").status is Status.WARN


def test_a_parameter_on_the_command_line_of_the_kernel() -> None:
    tree = machine("sound")
    tree.remove("/sys/module/vfio_iommu_type1")
    edit(tree, "/proc/cmdline", "ro ", "ro vfio_iommu_type1.allow_unsafe_interrupts=1 ")
    assert result(look(tree), "vfio.unsafe_interrupts").status is Status.FAIL


def test_a_user_who_may_write_the_policy_directory() -> None:
    tree = machine("sound")
    node(tree, "/etc/ixy_vfio", 0o775, kind="d")
    assert result(look(tree), "helper.policy").status is Status.FAIL


def test_what_cannot_be_understood_is_skipped() -> None:
    tree = machine("sound")
    write(tree, f"{NIC}/sriov_numvfs", "many")
    finding = result(look(tree), "device.sriov", "0000:03:00.0").findings[0]
    assert finding.status is Status.SKIP
    assert finding.text.startswith("could not be judged: ValueError")


def test_a_new_check_is_ten_lines() -> None:
    @host_check("test.new", Severity.LOW)
    def new(host):  # type: ignore[no-untyped-def] # as a newcomer writes it
        """A new thing holds.

        Why: because.

        Fix: do it.
        """
        yield passed("fine", host.command_line)

    try:
        found = result(look(machine("sound")), "test.new")
    finally:
        check = CHECKS.pop("test.new")
    assert (found.status, found.title, check.why, check.remedy) == (
        Status.PASS,
        "A new thing holds",
        "because.",
        "do it.",
    )


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_says_what_why_and_how_to_fix(check: object) -> None:
    from ixy_vfio.audit.model import Check

    assert isinstance(check, Check)
    assert check.why
    assert check.remedy
    assert len(check.title) < 80
    assert "\n" not in check.title
