"""An igb port. Its life is `port.Port`'s; each member's guarantee is written in `contract.NetDevice`."""

from dataclasses import replace

from ixy_vfio.core import memory, pci
from ixy_vfio.drivers import port
from ixy_vfio.drivers.contract import Counters, Link, PortConfig
from ixy_vfio.drivers.igb import counters, init, link
from ixy_vfio.drivers.igb.format import FORMAT
from ixy_vfio.drivers.igb.irq import Irq
from ixy_vfio.drivers.igb.models import model_of
from ixy_vfio.hw import igb as hw
from ixy_vfio.transport.base import Device

LIMITS = port.Limits(
    queues=hw.QUEUES,  # of the 82576; other models have fewer
    mtu=range(68, 9217),  # IPv4's minimum; Linux's MAX_STD_JUMBO_FRAME_SIZE
    buffers=range(1024, 16 * 1024 + 1, 1024),  # SRRCTL.BSIZEPACKET
)


def ring_memory(config: PortConfig) -> int:
    """Bytes of ring memory that `config` needs. UsageError when it cannot be."""
    return port.ring_memory(config, LIMITS)


class Igb(port.Port):
    """A port of an 82576, I350 or I210."""

    def __init__(self, device: Device, config: PortConfig, rings: memory.DmaMemory) -> None:
        """Check everything; touch no register. `rings` stays the caller's, and must outlive `stop`."""
        self._model = model = model_of(pci.identify(device)[1])
        limits, interrupts = replace(LIMITS, queues=model.queues), Irq(model.later, model.queues)
        super().__init__(device, config, rings, limits=limits, steps=init, interrupts=interrupts, format=FORMAT)
        self._totals = counters.Totals(model, config.queues)

    def _configure(self) -> None:
        init.configure(self._bar, init.Setup(self._model, self.config, self._promiscuous, self._mac, self._rings))
        self._totals = counters.Totals(self._model, self.config.queues)

    def _doorbells(self, index: int) -> port.Doorbells:
        return port.Doorbells(hw.RX_QUEUE_PAGES, hw.RDT.offset(index), hw.TX_QUEUE_PAGES, hw.TDT.offset(index))

    def link(self) -> Link:
        """The link, now."""
        return link.read(self._bar)

    def wait_link(self, deadline: float) -> Link:
        """The link, when it is up."""
        return link.wait(self._bar, deadline)

    def counters(self) -> Counters:
        """Totals since `initialise`."""
        return self._totals.update(self._bar)
