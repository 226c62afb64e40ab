"""EEPROM auto-read, and what is shared with the device's firmware and its other port.

This driver never reads or writes a word of the EEPROM itself: the device loads its MAC address from there.
"""

from enum import IntFlag

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.drivers.ixgbe.regs.general import EEC, SW_FW_SYNC, SWSM
from ixy_vfio.drivers.semaphore import Semaphore

held = Semaphore(SWSM, SW_FW_SYNC).held


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
