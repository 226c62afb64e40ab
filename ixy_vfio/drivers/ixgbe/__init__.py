"""The driver for Intel 82599 (X520), X540 and X550. Start with device.py, then init.py beside the datasheet."""

from collections.abc import Sequence

from ixy_vfio.core import pci
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.core.registers import Register
from ixy_vfio.datapath.format import Format
from ixy_vfio.drivers.contract import Look, NetDevice, PortConfig
from ixy_vfio.transport.base import Device

# device.py brings the compiler along, which takes a second: a look at registers does not need it.


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


def look(device: Device) -> Look:
    """What `device` says of itself."""
    from ixy_vfio.drivers.ixgbe import counters, init, link
    from ixy_vfio.drivers.ixgbe.models import model_of

    bar = device.bar0
    return Look(
        model=model_of(pci.identify(device)[1]).name,
        link=link.read(bar),
        mac=init.read_mac(bar),
        counters=counters.read_all(bar, counters.QUEUE_COUNTERS),
    )


def registers() -> Sequence[type[Register]]:
    """Every register that the driver knows."""
    from ixy_vfio.drivers.ixgbe import regs

    return regs.ALL
