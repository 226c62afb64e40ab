"""What differs between the members of the family. Only QEMU's 82576 was ever driven: I350 and I210 never were."""

from dataclasses import dataclass

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.hw.devices import DRIVERS, INTEL


@dataclass(frozen=True, slots=True)
class Model:
    """One kind of device."""

    name: str
    queues: int  # DPDK's figures
    addresses: int  # receive addresses: Linux's figures
    later: bool  # from the 82580 on: IVAR goes by pairs of queues, the PHY has PHPM, a queue has DVMOLR
    clears_rqdpc: bool = True  # a read clears RQDPC, as Linux has it


_KINDS = {
    "82576": (16, 24, False, True),
    "I350": (8, 32, True, True),
    "I210": (4, 16, True, False),
    "I211": (2, 16, True, False),
}


def model_of(device_id: int) -> Model:
    """The model behind a PCI device id. DeviceError for one that is not in the table (any more)."""
    name = DRIVERS["igb"].get((INTEL, device_id))
    if name is None:
        raise DeviceError(f"the device id reads {device_id:#06x}, which is no igb device's")
    return Model(name, *_KINDS[name.split()[0]])
