"""Runs in a guest: a simulated 82599 signals by INTx, then by MSI, to a program that has it by Linux's VFIO.

Registers by the 82599 datasheet, section 8.2.3.5. Prints how often each kind signals: after a cause, when nothing more
happens, after an unmask while the cause is there and one when it is gone (INTx alone), and after a second cause.
"""

import fcntl
import json
import os
import select
import struct
import sys

from tests.vm.inside.raw_vfio import Device, LegacyDevice, bind

EICR, EICS, EIMS, EIMC = 0x800, 0x808, 0x880, 0x888
CAUSE = 1 << 20  # link status change
INTX, MSI = 0, 1  # VFIO_PCI_*_IRQ_INDEX
NONE, EVENTFD, UNMASK, TRIGGER = 1, 4, 16, 32  # VFIO_IRQ_SET_*


def set_irqs(device: Device, flags: int, index: int, count: int, data: bytes = b"") -> None:
    request = struct.pack("=IIIII", 20 + len(data), flags, index, 0, count) + data
    fcntl.ioctl(device.fd, 0x3B6E, request)


def signals(fd: int, patience: float) -> int:
    """How often `fd` was signalled; waits for the first one."""
    return os.eventfd_read(fd) if select.select([fd], [], [], patience)[0] else 0


def try_kind(device: Device, index: int) -> list[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    set_irqs(device, TRIGGER | EVENTFD, index, 1, struct.pack("=i", fd))
    device.write(0, EIMS, CAUSE)
    device.write(0, EICS, CAUSE)
    told = [signals(fd, 30), signals(fd, 0.5)]
    if index == INTX:
        set_irqs(device, UNMASK | NONE, index, 1)
        told.append(signals(fd, 30))
    device.read(0, EICR)
    if index == INTX:
        set_irqs(device, UNMASK | NONE, index, 1)
        told.append(signals(fd, 0.5))
    device.write(0, EICS, CAUSE)
    told.append(signals(fd, 30))
    device.write(0, EIMC, CAUSE)
    device.read(0, EICR)
    set_irqs(device, TRIGGER | NONE, index, 0)
    os.close(fd)
    return told


def main(address: str) -> None:
    bind(address, "vfio-pci")
    device = LegacyDevice(address)
    device.bus_master(True)
    print(json.dumps({"intx": try_kind(device, INTX), "msi": try_kind(device, MSI)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
