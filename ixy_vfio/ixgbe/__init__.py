"""The driver for Intel 82599 (X520), X540 and X550. Start with device.py, then init.py beside the datasheet."""

from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.ixgbe import device as _device
from ixy_vfio.netdev import NetDevice, PortConfig
from ixy_vfio.transport.base import Device


def ring_memory(config: PortConfig) -> int:
    """Bytes of ring memory that `config` needs."""
    return _device.ring_memory(config)


def open(device: Device, config: PortConfig, rings: DmaMemory) -> NetDevice:
    """A port on `device`. Touches no register."""
    return _device.Ixgbe(device, config, rings)
