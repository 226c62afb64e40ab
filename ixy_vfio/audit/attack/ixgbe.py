"""The 82599 and its kin in loopback: set up by the driver's own initialisation, without its data path."""

import time

from ixy_vfio.audit.attack.engine import wait
from ixy_vfio.audit.attack.loopback import DESCRIPTORS, LoopbackNic, Registers
from ixy_vfio.core import pci
from ixy_vfio.core.errors import DeviceError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.datapath.format import Ring
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import init
from ixy_vfio.drivers.ixgbe.link import Retry
from ixy_vfio.drivers.ixgbe.models import Media, model_of
from ixy_vfio.drivers.ixgbe.regs.mac import AUTOC, HLREG0, LINKS
from ixy_vfio.drivers.ixgbe.regs.packet import FCTRL
from ixy_vfio.hw import ixgbe as hw
from ixy_vfio.transport.base import Device

FORCE_LINK_UP = 1  # AUTOC.FLU, MACC.FLU
MACC = 0x04330  # X540, X550
REGISTERS = Registers(hw.RDT.offset(), hw.TDT.offset(), hw.RAL.offset())


def engine(device: Device, rings: DmaMemory, work: DmaMemory) -> LoopbackNic:
    """An engine on a device of this family."""
    model = model_of(pci.identify(device)[1])
    bar = device.bar0

    def set_up(transmit: int) -> None:
        rings.view[:] = bytes(rings.size)
        pci.set_bus_master(device, False)
        init.reset(bar)
        pair = (
            Ring(rings.address, rings.iova, DESCRIPTORS),
            Ring(rings.address + 4096, transmit, DESCRIPTORS),
        )
        config = PortConfig(rx_ring=DESCRIPTORS, tx_ring=DESCRIPTORS, promiscuous=False)
        pci.set_bus_master(device, True)
        init.configure(bar, init.Setup(model, config, False, None, (pair,), Retry(bar, model)))
        FCTRL.modify(bar, bam=0)
        # 3.7.6 MAC loopback: nothing goes to the wire, and no far end is needed.
        HLREG0.modify(bar, lpbk=1)
        if model.media is Media.COPPER:
            bar.write32(MACC, bar.read32(MACC) | FORCE_LINK_UP)
        else:
            bar.write32(hw.AUTOC.offset(), int(AUTOC.read(bar)) | FORCE_LINK_UP)

    def receive() -> None:
        init.enable_receive(bar, queues=1)
        time.sleep(0.02)
        if not wait(lambda: bool(LINKS.read(bar).link_up)):
            raise DeviceError(f"{device.address}: no link in loopback")

    return LoopbackNic(device, rings, work, REGISTERS, set_up, receive)
