"""A scripted 82576: registers in a dictionary, with only those answers that a driver waits for."""

from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.igb.device import Igb, ring_memory
from ixy_vfio.hw import igb as hw
from tests.unit import ixgbe_support

DEVICE_ID_82576, DEVICE_ID_I350, DEVICE_ID_I210, DEVICE_ID_I211 = 0x10C9, 0x1521, 0x1533, 0x1539
ENABLE = 1 << 25
NEGOTIATED = 0x1140  # what register 0 of the PHY holds
READY, PHY_READ = 1 << 28, 2 << 26


class FakeDevice(ixgbe_support.FakeDevice):
    """The device around it. As the book has it, a queue says that it is enabled only while RXEN or EN is set."""

    msix_vectors = 25

    def __init__(self, device_id: int = DEVICE_ID_82576) -> None:
        super().__init__()
        self.bar0 = bar = ixgbe_support.FakeBar(hw.ALL)
        self.config[2] = device_id
        self.phy = {0: NEGOTIATED | 1 << 11}  # powered down
        bar["EECD"] = 0x300
        bar["RAL[0]"], bar["RAH[0]"] = 0x04030252, 0x80000605
        bar["STATUS"] = 0x80080683 & ~(1 << 19)
        bar.on_write["CTRL"] = lambda value: value & ~(1 << 26)
        bar.on_write["MDIC"] = self._mdic
        for queue in range(hw.QUEUES):
            self._enabled_with(f"RXDCTL[{queue}]", "RCTL")
            self._enabled_with(f"TXDCTL[{queue}]", "TCTL")

    def _mdic(self, value: int) -> int:
        register = value >> 16 & 0x1F
        assert value >> 21 & 0x1F == 1  # the address of the port's own PHY
        if value & PHY_READ:
            return value & ~0xFFFF | self.phy[register] | READY
        self.phy[register] = value & 0xFFFF
        return value | READY

    def _enabled_with(self, queue: str, control: str) -> None:
        bar = self.bar0
        bar.on_read[queue] = lambda: bar[queue] if bar[control] & 2 else bar[queue] & ~ENABLE


def make_port(config: PortConfig | None = None, device_id: int = DEVICE_ID_82576) -> tuple[Igb, FakeDevice]:
    """A port that was not initialised yet, and the device below it."""
    config = config or PortConfig()
    device = FakeDevice(device_id)
    return Igb(device, config, ixgbe_support.ring_memory(ring_memory(config))), device
