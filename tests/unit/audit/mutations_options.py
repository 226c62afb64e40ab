"""Options, in all the ways in which the kernel and modprobe take them."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import edit, node, write
from tests.unit.audit.mutating import CMDLINE, CONFIG, FAIL, PARAMETERS, REGISTERS, SKIP, WARN, mutate, mutation

D = "/etc/modprobe.d"


def option(tree: Tree, text: str) -> None:
    """Another option of the kernel."""
    edit(tree, CMDLINE, "ro ", f"ro {text} ")


def modprobe(tree: Tree, module: str, *files: tuple[str, str]) -> None:
    """A module is not loaded; these files are there."""
    tree.remove(f"/sys/module/{module}")
    for path, text in files:
        write(tree, path, text)


def not_loaded(tree: Tree, module: str, text: str) -> None:
    """A module is not loaded; the kernel's command line has another option."""
    tree.remove(f"/sys/module/{module}")
    option(tree, text)


TYPE1 = "vfio_iommu_type1"
FILES = {
    "with_dashes": ((f"{D}/a.conf", "options vfio-iommu-type1 allow_unsafe_interrupts=1"),),
    "with_dashes_in_the_option": ((f"{D}/a.conf", "options vfio_iommu_type1 allow-unsafe-interrupts=1"),),
    "without_a_value": ((f"{D}/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts"),),
    "by_yes": ((f"{D}/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=yes"),),
    "by_on": ((f"{D}/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=On"),),
    "by_true": ((f"{D}/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=true"),),
    "in_quotes": ((f"{D}/a.conf", 'options vfio_iommu_type1 "allow_unsafe_interrupts=1"'),),
    "on_a_line_that_goes_on": ((f"{D}/a.conf", "options vfio_iommu_type1 \\\n  allow_unsafe_interrupts=1"),),
    "after_other_options": ((f"{D}/a.conf", "options vfio_iommu_type1 dma_entry_limit=9\tallow_unsafe_interrupts=Y"),),
    "in_a_later_file": (
        (f"{D}/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=0"),
        (f"{D}/z.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),
    ),
    "in_run": (("/run/modprobe.d/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),),
    "in_usr_local": (("/usr/local/lib/modprobe.d/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),),
    "in_lib": (("/lib/modprobe.d/a.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),),
    "in_the_old_file": (("/etc/modprobe.conf", "options vfio_iommu_type1 allow_unsafe_interrupts=1"),),
    "by_an_install_line": (
        (f"{D}/a.conf", "install vfio_iommu_type1 modprobe -i vfio_iommu_type1 allow_unsafe_interrupts=1"),
    ),
    "by_an_alias": (
        (f"{D}/a.conf", "alias easy vfio-iommu-type1\noptions easy allow_unsafe_interrupts=1"),
    ),
}  # fmt: skip
for name, files in FILES.items():
    mutate(f"unsafe_interrupts_{name}", "vfio.unsafe_interrupts", FAIL, modprobe, TYPE1, *files)
for name, text in {
    "dashes": "vfio-iommu-type1.allow-unsafe-interrupts=1",
    "no_value": "vfio_iommu_type1.allow_unsafe_interrupts",
    "quotes": '"vfio_iommu_type1.allow_unsafe_interrupts=1"',
    "the_last": "vfio_iommu_type1.allow_unsafe_interrupts=0 vfio_iommu_type1.allow_unsafe_interrupts=t",
}.items():
    mutate(f"unsafe_interrupts_by_option_{name}", "vfio.unsafe_interrupts", FAIL, not_loaded, TYPE1, text)
mutate(
    "unsafe_interrupts_of_iommufd", "vfio.unsafe_interrupts", FAIL,
    write, PARAMETERS.format("iommufd", "allow_unsafe_interrupts"), "Y",
)  # fmt: skip
mutate(
    "unsafe_interrupts_that_a_user_can_turn_on", "vfio.unsafe_interrupts", FAIL,
    node, PARAMETERS.format(TYPE1, "allow_unsafe_interrupts"), 0o666, kind="-",
)  # fmt: skip

mutate("noiommu_by_option", "vfio.noiommu", FAIL, not_loaded, "vfio", "vfio.enable-unsafe-noiommu-mode=1")
mutate("noiommu_by_option_without_value", "vfio.noiommu", FAIL, not_loaded, "vfio", "vfio.enable_unsafe_noiommu_mode")
mutate(
    "noiommu_by_modprobe", "vfio.noiommu", FAIL,
    modprobe, "vfio", (f"{D}/a.conf", "options vfio enable_unsafe_noiommu_mode=Y"),
)  # fmt: skip
mutate(
    "noiommu_that_a_group_can_turn_on", "vfio.noiommu", FAIL,
    node, PARAMETERS.format("vfio", "enable_unsafe_noiommu_mode"), 0o664, kind="-", gid=1000,
)  # fmt: skip
mutate("noiommu_cdev", "vfio.noiommu", FAIL, node, "/dev/vfio/devices/noiommu-vfio0", 0o600)
mutate("noiommu_class", "vfio.noiommu", FAIL, write, "/sys/class/vfio/noiommu-0/dev", "511:7")
mutate("noiommu_class_of_devices", "vfio.noiommu", FAIL, write, "/sys/class/vfio-dev/noiommu-vfio0/dev", "510:7")


@mutation("vfio.noiommu")
def noiommu_group(tree: Tree) -> None:
    write(tree, "/sys/kernel/iommu_groups/77/type", "DMA")
    write(tree, "/sys/kernel/iommu_groups/77/name", "vfio-noiommu")


mutate(
    "programs_make_virtual_functions",
    "vfio.parameters",
    WARN,
    write,
    PARAMETERS.format("vfio_pci", "enable_sriov"),
    "Y",
)
mutate("denylist_off_by_option", "vfio.parameters", WARN, not_loaded, "vfio_pci", "vfio-pci.disable_denylist=1")
mutate(
    "denylist_off_by_modprobe", "vfio.parameters", WARN,
    modprobe, "vfio_pci", (f"{D}/a.conf", "options vfio-pci ids=8086:10fb disable_denylist"),
)  # fmt: skip
mutate(
    "denylist_that_a_user_owns", "vfio.parameters", FAIL,
    node, PARAMETERS.format("vfio_pci", "disable_denylist"), 0o644, uid=1000, kind="-",
)  # fmt: skip

for name, text in {
    "yes": "iommu.passthrough=yes", "on": "iommu.passthrough=on", "no_value": "iommu.passthrough",
    "quotes": 'iommu="pt"', "a_list": "iommu=pt,nobypass", "the_last": "iommu.passthrough=0 iommu.passthrough=1",
}.items():  # fmt: skip
    mutate(f"passthrough_by_{name}", "iommu.passthrough", WARN, option, text)
mutate("source_not_checked_in_a_list", "iommu.intremap", FAIL, option, "intremap=no_x2apic_optout,nosid")
mutate("acs_override_with_dashes", "iommu.acs_override", FAIL, option, "pcie-acs-override=downstream")
mutate("acs_override_without_value", "iommu.acs_override", FAIL, option, "pcie_acs_override")
mutate("acs_configured", "iommu.acs_override", FAIL, option, '"pci=noaer,config_acs=000000@pci:0:0"')
mutate(
    "redirection_off_among_others",
    "iommu.acs_override",
    FAIL,
    option,
    "pci=nomsi pci=realloc,disable_acs_redir=00:02.0",
)
mutate("registers_relaxed", "kernel.config", WARN, option, "iomem=relaxed")
for name in ("SECURITY_LANDLOCK", "STRICT_DEVMEM", "IO_STRICT_DEVMEM"):
    mutate(
        f"kernel_without_{name.lower()}",
        "kernel.config",
        WARN,
        edit,
        CONFIG,
        f"CONFIG_{name}=y",
        f"# CONFIG_{name} is not set",
    )
mutate(
    "kernel_with_seccomp_as_a_word",
    "kernel.config",
    WARN,
    edit,
    CONFIG,
    "CONFIG_SECCOMP_FILTER=y",
    "CONFIG_SECCOMP_FILTER=m",
)
mutate("kernel_config_is_nowhere", "kernel.config", SKIP, Tree.remove, CONFIG)
mutate("kernel_config_is_broken", "kernel.config", SKIP, Tree.update, CONFIG, data=b"\x1f\x8bno")
mutate("kernel_config_is_empty", "kernel.config", SKIP, write, CONFIG, "")


@mutation("iommu.early_dma", WARN)
def an_option_of_uefi_on_another_machine(tree: Tree) -> None:
    option(tree, "efi=disable_early_pci_dma")
    data = bytearray(tree.data("/sys/firmware/acpi/tables/DMAR") or b"")
    data[37] = 1
    tree.update("/sys/firmware/acpi/tables/DMAR", data=bytes(data))


@mutation("iommu.compatibility_format", WARN)
def x2apic_turned_off(tree: Tree) -> None:
    tree.remove(REGISTERS)
    option(tree, "nox2apic")
