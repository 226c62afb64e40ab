"""The driver for copper ports of Intel 82576, I350 and I210. Start with device.py, then init.py."""

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
    from ixy_vfio.drivers.igb import device

    return device.ring_memory(config)


def open(device: Device, config: PortConfig, rings: DmaMemory) -> NetDevice:
    """A port on `device`. Touches no register."""
    from ixy_vfio.drivers.igb.device import Igb

    return Igb(device, config, rings)


def descriptor_format() -> Format:
    """What the descriptors of its queues are like."""
    from ixy_vfio.drivers.igb.format import FORMAT

    return FORMAT


def look(device: Device) -> Look:
    """What `device` says of itself."""
    from ixy_vfio.drivers.igb import counters, init, link
    from ixy_vfio.drivers.igb.models import model_of

    bar, model = device.bar0, model_of(pci.identify(device)[1])
    return Look(
        model=model.name,
        link=link.read(bar),
        mac=init.read_mac(bar),
        counters=counters.read_all(bar, model.queues),
    )


def registers() -> Sequence[type[Register]]:
    """Every register that the driver knows."""
    from ixy_vfio.drivers.igb import regs

    return regs.ALL
