"""The driver for Intel 82599 (X520), X540 and X550. Start with device.py, then init.py beside the datasheet."""

from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.datapath.format import Format
from ixy_vfio.drivers.contract import NetDevice, PortConfig
from ixy_vfio.transport.base import Device

# device.py brings the compiler along; who wants registers and initialisation alone need not wait for it.


def ring_memory(config: PortConfig) -> int:
    """Bytes of ring memory that `config` needs."""
    from ixy_vfio.drivers.ixgbe import device

    return device.ring_memory(config)


def open(device: Device, config: PortConfig, rings: DmaMemory) -> NetDevice:
    """A port on `device`. Touches no register."""
    from ixy_vfio.drivers.ixgbe.device import Ixgbe

    return Ixgbe(device, config, rings)


def descriptor_format() -> Format:
    """What the descriptors of its queues are like."""
    from ixy_vfio.drivers.ixgbe.format import FORMAT

    return FORMAT
