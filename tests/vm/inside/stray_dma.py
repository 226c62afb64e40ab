"""Runs in a guest: a transmit queue of a simulated 82599 is given one buffer that is mapped and one that is not.

Registers by the 82599 datasheet, sections 8.2.3.9 and 4.6.8. Prints the status bytes of both descriptors, and what
the kernel logged of the fault.
"""

import json
import os
import struct
import sys
import time

from tests.vm.inside.raw_vfio import CdevDevice, Device, LegacyDevice, Page, bind

RING, BUFFER, UNMAPPED = 0x100000, 0x200000, 0x900000  # IOVAs
LINKS, DMATXCTL = 0x42A4, 0x4A80
TDBAL, TDBAH, TDLEN, TDH, TDT, TXDCTL = 0x6000, 0x6004, 0x6008, 0x6010, 0x6018, 0x6028
ENABLE = 1 << 25
COMMAND = 0x0B  # report status, insert FCS, end of packet


def wait(device: Device, register: int, mask: int) -> None:
    end = time.monotonic() + 20
    while device.read(0, register) & mask != mask:
        if time.monotonic() > end:
            raise TimeoutError(f"register {register:#x} has {device.read(0, register):#x}, not {mask:#x}")
        time.sleep(0.01)


def send(device: Device, ring: Page, slot: int, iova: int) -> int:
    """Transmit 60 bytes from `iova` by a legacy descriptor; returns its status byte after at most 5 s."""
    ring.memory[slot * 16 : slot * 16 + 16] = struct.pack("<QHBBBBH", iova, 60, 0, COMMAND, 0, 0, 0)
    device.write(0, TDT, slot + 1)
    end = time.monotonic() + 5
    while not ring.memory[slot * 16 + 12] and time.monotonic() < end:
        time.sleep(0.01)
    return ring.memory[slot * 16 + 12]


def fault(log: int) -> str:
    """What the kernel logs of a fault at UNMAPPED from now on; "" when that is nothing in 60 s."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            record = os.read(log, 8192).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.1)
            continue
        if f"fault addr {UNMAPPED:#x}" in record:
            return record.partition(";")[2].strip()
    return ""


def main(path: str, address: str, other_end: str) -> None:
    kind = LegacyDevice if path == "legacy" else CdevDevice
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)
    for port in (address, other_end):
        bind(port, "vfio-pci")
    peer = kind(other_end)  # opening it resets it: its laser is on, whatever its last driver did
    device: Device = kind(address)
    ring, buffer = Page(b"\0"), Page(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"\0" * 2)
    device.map(ring, RING)
    device.map(buffer, BUFFER)
    device.bus_master(True)
    wait(device, LINKS, 1 << 30)
    for register, value in ((TDBAL, RING), (TDBAH, 0), (TDLEN, 128), (TDH, 0), (TDT, 0), (DMATXCTL, 1)):
        device.write(0, register, value)
    device.write(0, TXDCTL, device.read(0, TXDCTL) | ENABLE)
    wait(device, TXDCTL, ENABLE)
    result = {"mapped": send(device, ring, 0, BUFFER), "unmapped": send(device, ring, 1, UNMAPPED), "fault": fault(log)}
    device.bus_master(False)  # now: QEMU tries the stray access later than the simulator ends its descriptor
    os.close(peer.fd)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
