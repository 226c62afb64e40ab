"""An ixgbe port. Its life is `port.Port`'s; each member's guarantee is written in `contract.NetDevice`."""

from ixy_vfio.core import memory, pci
from ixy_vfio.drivers import port
from ixy_vfio.drivers.contract import Counters, Link, PortConfig
from ixy_vfio.drivers.ixgbe import counters, init, irq, link
from ixy_vfio.drivers.ixgbe.format import FORMAT
from ixy_vfio.drivers.ixgbe.models import model_of
from ixy_vfio.hw import ixgbe as hw
from ixy_vfio.transport.base import Device

LIMITS = port.Limits(
    queues=16,  # 7.1.2.8: RSS reaches 16; so many counters there are, too
    mtu=range(68, 9711),  # IPv4's minimum; MAXFRS: 9728 bytes with header and CRC
    buffers=range(1024, 16 * 1024 + 1, 1024),  # SRRCTL.BSIZEPACKET
)


def ring_memory(config: PortConfig) -> int:
    """Bytes of ring memory that `config` needs. UsageError when it cannot be."""
    return port.ring_memory(config, LIMITS)


class Ixgbe(port.Port):
    """A port of an 82599, X540 or X550."""

    def __init__(self, device: Device, config: PortConfig, rings: memory.DmaMemory) -> None:
        """Check everything; touch no register. `rings` stays the caller's, and must outlive `stop`."""
        super().__init__(device, config, rings, limits=LIMITS, steps=init, interrupts=irq, format=FORMAT)
        self._model = model_of(pci.identify(device)[1])
        self._totals = counters.Totals(config.queues)
        self._link = link.Retry(self._bar, self._model)

    def _configure(self) -> None:
        setup = init.Setup(self._model, self.config, self._promiscuous, self._mac, self._rings, self._link)
        init.configure(self._bar, setup)
        self._totals = counters.Totals(self.config.queues)

    def _doorbells(self, index: int) -> port.Doorbells:
        return port.Doorbells(hw.RX_QUEUE_PAGES, hw.RDT.offset(index), hw.TX_QUEUE_PAGES, hw.TDT.offset(index))

    def link(self) -> Link:
        """The link, now."""
        return link.read(self._bar)

    def wait_link(self, deadline: float) -> Link:
        """The link, when it is up."""
        return self._link.wait(deadline)

    def counters(self) -> Counters:
        """Totals since `initialise`."""
        return self._totals.update(self._bar)
