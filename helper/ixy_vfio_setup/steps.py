"""The steps of a setup, in their order, and the way back of each kind of record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_helper.kernel import PciDevice

from ixy_vfio_setup.give import Bind, Grant, grant
from ixy_vfio_setup.install import Directory, File, Run, install
from ixy_vfio_setup.journal import Journal
from ixy_vfio_setup.resources import Hugepages, Module, hugepages
from ixy_vfio_setup.serving import Background, Enable, Reload, serve
from ixy_vfio_setup.step import POLICY, Step
from ixy_vfio_setup.system import System

KINDS: dict[str, type[Step]] = {
    step.kind: step
    for step in (Run, Module, Hugepages, Directory, File, Grant, Reload, Enable, Background, Bind)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be set up."""

    device: PciDevice
    user: str  # how people call them
    uid: int
    what: str  # which device it is
    memory: int | None  # MiB of all leases of the user
    hugepages: int | None  # of 2 MiB
    other: bool  # also a NIC that no driver here knows
    start: bool  # start the helper also without systemd
    down: bool = False  # also if the interface is up

    @property
    def wanted(self) -> int:
        """Hugepages that should be free: by default as many as the user may have memory."""
        return self.hugepages if self.hugepages is not None else (self.memory or 256) // 2


def steps(system: System, journal: Journal, tree: Path, python: str, request: Request) -> Iterator[Step]:
    """All steps, in their order. The NIC itself is taken last. Raises Refusal."""
    yield Run(journal)
    yield Module(system)
    yield hugepages(system, journal, request.wanted, request.hugepages is None)
    yield from install(system, tree, python)
    given = grant(system, request.device.address, request.user, request.uid, request.what, request.memory)
    yield Directory(system, POLICY.rpartition("/")[0])
    yield given
    yield from serve(system, tree, request.start)
    yield Bind(system, request.device, request.down, request.other)
