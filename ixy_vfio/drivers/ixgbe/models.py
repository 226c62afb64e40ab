"""What differs between the members of the family. Only the 82599 was ever run, and that simulated."""

from dataclasses import dataclass
from enum import Enum

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.hw.devices import DRIVERS, INTEL


class Media(Enum):
    """What carries the link, and so who brings it up."""

    SFP = "SFP+"  # this driver: laser, serial link at 10 or 1 Gbit/s
    BACKPLANE = "backplane"  # this driver restarts what the EEPROM configured
    COPPER = "10GBASE-T"  # the PHY, by itself


@dataclass(frozen=True, slots=True)
class Model:
    """One kind of device."""

    name: str
    media: Media
    rx_buffer: int  # KiB of receive packet buffer: DPDK's and Linux's figures
    tx_buffer: int = 160  # KiB of transmit packet buffer


_SFP = {0x10FB, 0x1507, 0x154D, 0x1557}
_COPPER = {0x151C, 0x1528, 0x1560, 0x1563, 0x15D1}


def model_of(device_id: int) -> Model:
    """The model behind a PCI device id. DeviceError for one that is not in the table (any more)."""
    name = DRIVERS["ixgbe"].get((INTEL, device_id))
    if name is None:
        raise DeviceError(f"the device id reads {device_id:#06x}, which is no ixgbe device's")
    media = Media.SFP if device_id in _SFP else Media.COPPER if device_id in _COPPER else Media.BACKPLANE
    return Model(name, media, rx_buffer=512 if name.startswith("82599") else 384)
