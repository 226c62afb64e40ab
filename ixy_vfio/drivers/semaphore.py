"""The semaphores by which a port shares its device with firmware and with the drivers of other ports.

The mechanism is that of all of Intel's families, only the place and the width of SW_FW_SYNC's halves differ. Sections:
82599 datasheet, revision 3.4.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from ixy_vfio.core.errors import DeadlineError
from ixy_vfio.core.mmio import Mmio, polls, section
from ixy_vfio.core.registers import RS, Register, bit
from ixy_vfio.hw import Register as Row


def swsm(row: Row) -> type[Any]:
    """The software semaphore. A read sets SMBI: who reads 0 has it."""

    class Swsm(Register, row=row, access=RS):
        """See the datasheet section of its row."""

        smbi: int = bit(0, "held by a driver")
        swesmbi: int = bit(1, "held by software, not by firmware")

    return Swsm


@dataclass(frozen=True, slots=True)
class Semaphore:
    """Of one family, by its register classes."""

    swsm: type[Any]  # fields smbi, swesmbi
    sync: type[Any]  # fields sw, fw: a bit for each resource

    @section("10.5.4")
    def _take_register(self, bar: Mmio) -> None:
        """SMBI (against the other port's driver), then SWESMBI (against firmware)."""
        try:
            self.swsm.wait(bar, smbi=0, within=0.1)  # the read that finds 0 has set it
        except DeadlineError:
            # Left behind by a driver that died: nobody holds it for longer than some microseconds. DPDK breaks it too.
            self.swsm().write(bar)
            self.swsm.wait(bar, smbi=0, within=0.1)
        self.swsm(smbi=1, swesmbi=1).write(bar)
        self.swsm.wait(bar, swesmbi=1, within=0.1)

    def _take(self, bar: Mmio, resource: IntFlag, *, despite_software: bool = False) -> tuple[bool, Any]:
        """Take a resource if nobody holds it; whether it is ours, and what the register said."""
        self._take_register(bar)
        sync = self.sync.read(bar)
        free = not (sync.fw if despite_software else sync.sw | sync.fw) & resource
        if free:
            sync.replace(sw=sync.sw | resource).write(bar)
        self.swsm().write(bar)
        return free, sync

    @contextmanager
    def held(self, bar: Mmio, resource: IntFlag) -> Iterator[None]:
        """Hold a shared resource. DeadlineError when firmware does not let go of it within a second.

        Software that does not is a driver that died: no reset takes its mark away, so it is taken over, as DPDK does.
        """
        taken = False
        for _ in polls(1.0):
            taken, sync = self._take(bar, resource)
            if taken:
                break
        else:
            taken, sync = self._take(bar, resource, despite_software=True)
        if not taken:
            raise DeadlineError(f"SW_FW_SYNC: {resource.name} is not free after 1 s: last value {int(sync):#010x}")
        try:
            yield
        finally:
            self._take_register(bar)
            sync = self.sync.read(bar)
            sync.replace(sw=sync.sw & ~resource).write(bar)
            self.swsm().write(bar)
