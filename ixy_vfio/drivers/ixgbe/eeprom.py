"""EEPROM auto-read, and the semaphores that share the device with its firmware and its other port.

This driver never reads or writes a word of the EEPROM itself: the device loads its MAC address from there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntFlag

from ixy_vfio.core.errors import DeadlineError, DeviceError
from ixy_vfio.core.mmio import Mmio, polls, section
from ixy_vfio.drivers.ixgbe.regs.general import EEC, SW_FW_SYNC, SWSM


class Resource(IntFlag):
    """Bits of SW_FW_SYNC that software takes (8.2.3.4)."""

    EEPROM = 1
    PHY0 = 2
    PHY1 = 4
    MAC = 8


@section("4.6.3")
def wait_auto_read(bar: Mmio) -> None:
    """Wait until the device has loaded its defaults. DeviceError when there is no EEPROM to load them from."""
    if not EEC.wait(bar, ard=1, within=1.0).pres:
        raise DeviceError("the device has no EEPROM: its MAC address and link settings are unknown")


@section("10.5.4")
def _take_semaphore(bar: Mmio) -> None:
    """SMBI (against the other port's driver), then SWESMBI (against firmware)."""
    try:
        SWSM.wait(bar, smbi=0, within=0.1)  # the read that finds 0 has set it
    except DeadlineError:
        # Left behind by a driver that died: nobody holds it for longer than some microseconds. DPDK breaks it too.
        SWSM().write(bar)
        SWSM.wait(bar, smbi=0, within=0.1)
    SWSM(smbi=1, swesmbi=1).write(bar)
    SWSM.wait(bar, swesmbi=1, within=0.1)


def _take(bar: Mmio, resource: Resource, *, despite_software: bool = False) -> tuple[bool, SW_FW_SYNC]:
    """Take a resource if nobody holds it; whether it is ours, and what the register said."""
    _take_semaphore(bar)
    sync = SW_FW_SYNC.read(bar)
    free = not (sync.fw if despite_software else sync.sw | sync.fw) & resource
    if free:
        sync.replace(sw=sync.sw | resource).write(bar)
    SWSM().write(bar)
    return free, sync


@contextmanager
def held(bar: Mmio, resource: Resource) -> Iterator[None]:
    """Hold a shared resource. DeadlineError when firmware does not let go of it within a second.

    Software that does not is a driver that died: no reset takes its mark away, so it is taken over, as DPDK does.
    """
    taken = False
    for _ in polls(1.0):
        taken, sync = _take(bar, resource)
        if taken:
            break
    else:
        taken, sync = _take(bar, resource, despite_software=True)
    if not taken:
        raise DeadlineError(f"SW_FW_SYNC: {resource.name} is not free after 1 s: last value {int(sync):#010x}")
    try:
        yield
    finally:
        _take_semaphore(bar)
        sync = SW_FW_SYNC.read(bar)
        sync.replace(sw=sync.sw & ~resource).write(bar)
        SWSM().write(bar)
