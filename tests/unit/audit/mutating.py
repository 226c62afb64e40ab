"""What a mutation is: one thing that is broken on the sound machine, and what the audit must make of it."""

from collections.abc import Callable
from typing import NamedTuple

from ixy_vfio.audit.model import Status
from ixy_vfio.audit.tree import Tree

PASS, SKIP, WARN, FAIL = Status
CMDLINE = "/proc/cmdline"
GROUPS = "/sys/kernel/iommu_groups"
PARAMETERS = "/sys/module/{}/parameters/{}"
OTHER = "/sys/devices/pci0000:00/0000:00:03.0/0000:04:00.0"
BRIDGE = "/sys/devices/pci0000:00/0000:00:02.0"
DEVICE_FD = "anon_inode:[vfio-device]"
TABLES = "/sys/kernel/debug/iommu/intel/0000:03:00.0/domain_translation_struct"
REGISTERS = "/sys/kernel/debug/iommu/intel/iommu_regset"
CONFIG = "/boot/config-6.12.57+deb13-amd64"
UNIT = "/etc/systemd/system/ixy-vfio-helper.service"
LAUNCHER = "/usr/local/sbin/ixy-vfio-helper"


class Mutation(NamedTuple):
    """`status` is what its check says; those of `blind` can tell nothing any more."""

    name: str
    check: str
    status: Status
    mutate: Callable[[Tree], None]
    blind: frozenset[str] = frozenset()


MUTATIONS: list[Mutation] = []


def mutation(check: str, status: Status = FAIL, *blind: str) -> Callable[[Callable[[Tree], None]], None]:
    """A function that mutates."""

    def add(function: Callable[[Tree], None]) -> None:
        MUTATIONS.append(Mutation(function.__name__, check, status, function, frozenset(blind)))

    return add


def mutate(
    name: str, check: str, status: Status, change: Callable[..., None], *arguments: object, **options: object
) -> None:
    """A mutation that is one change."""
    MUTATIONS.append(Mutation(name, check, status, lambda tree: change(tree, *arguments, **options)))
