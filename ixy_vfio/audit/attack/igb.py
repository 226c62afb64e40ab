"""Intel 82576 (QEMU's igb) in loopback: an independent device. No driver of ours; only what the attacks need.

Register offsets and bits: Intel 82576 datasheet, chapter 8.
"""

import time

from ixy_vfio.audit.attack.engine import wait
from ixy_vfio.audit.attack.loopback import DESCRIPTORS, LoopbackNic, Registers
from ixy_vfio.core import pci
from ixy_vfio.core.errors import DeviceError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.transport.base import Device

IDS = (0x8086, 0x10C9)
ENABLE = 1 << 25  # RXDCTL, TXDCTL
CTRL, STATUS, MDIC, RCTL, TCTL, IMC = 0x0000, 0x0008, 0x0020, 0x0100, 0x0400, 0x150C
RESTART_PHY = 1 << 26 | 1 << 21 | 0x1200  # MDIC: write register 0 of PHY 1: negotiate, anew
CTRL_SLU, CTRL_RST = 1 << 6, 1 << 26
STATUS_LU = 1 << 1
RCTL_ENABLE, RCTL_MAC_LOOPBACK, RCTL_STRIP_CRC = 1 << 1, 1 << 6, 1 << 26
TCTL_ENABLE, TCTL_PAD = 1 << 1, 1 << 3
RAL = 0x5400
RDBAL, SRRCTL, RXDCTL, TDBAL, TXDCTL = 0xC000, 0xC00C, 0xC028, 0xE000, 0xE028
BASE_HIGH, LENGTH, TAIL = 0x04, 0x08, 0x18  # from RDBAL and TDBAL
SRRCTL_ADVANCED_2K = 1 << 25 | 2
REGISTERS = Registers(RDBAL + TAIL, TDBAL + TAIL, RAL)


def engine(device: Device, rings: DmaMemory, work: DmaMemory) -> LoopbackNic:
    """An engine on an 82576."""
    bar = device.bar0

    def set_up(transmit: int) -> None:
        rings.view[:] = bytes(rings.size)
        pci.set_bus_master(device, False)
        bar.write32(CTRL, bar.read32(CTRL) | CTRL_RST)
        time.sleep(0.01)
        bar.write32(IMC, 0xFFFF_FFFF)
        pci.set_bus_master(device, True)
        bar.write32(CTRL, bar.read32(CTRL) | CTRL_SLU)
        bar.write32(MDIC, RESTART_PHY)
        for base, iova, control in ((RDBAL, rings.iova, RXDCTL), (TDBAL, transmit, TXDCTL)):
            bar.write32(base, iova & 0xFFFF_FFFF)
            bar.write32(base + BASE_HIGH, iova >> 32)
            bar.write32(base + LENGTH, DESCRIPTORS * 16)
            if base == RDBAL:
                bar.write32(SRRCTL, SRRCTL_ADVANCED_2K)
            bar.write32(control, bar.read32(control) | ENABLE)
        bar.write32(TCTL, TCTL_ENABLE | TCTL_PAD)

    def receive() -> None:
        bar.write32(RCTL, RCTL_ENABLE | RCTL_MAC_LOOPBACK | RCTL_STRIP_CRC)
        if not wait(lambda: bool(bar.read32(STATUS) & STATUS_LU)):
            raise DeviceError(f"{device.address}: no link in loopback")

    return LoopbackNic(device, rings, work, REGISTERS, set_up, receive)
