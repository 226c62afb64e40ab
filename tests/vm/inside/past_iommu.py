"""In a guest, as root: lets a virtio network function obey a command in a ring that no IOMMU mapping names.

The ring lies in a page of this process, and the function is told the page's physical address. If it gets there, it
writes its answer and the used ring. Then the same with a mapping, if it says that it is translated: else the mapping's
address would be somebody's memory. Prints one JSON object. Layouts: Virtual I/O Device 1.2, 2.7, 4.1.4 and 5.1.6.5; an
independent reading.
"""

import json
import os
import sys
import time
from dataclasses import dataclass

from tests.vm.inside.raw_vfio import PAGE, Device, LegacyDevice, Page, bind

IOVA, SIZE, CONTROL = 0x10_0000, 8, 2
DESCRIPTORS, AVAILABLE, USED, COMMAND, ANSWER = 0, 256, 512, 1024, 1056
CONTROL_FEATURES = 3 << 17  # a queue of commands, and those about reception
UNANSWERED = 0x55


@dataclass
class Virtio:
    """The registers of a function."""

    device: Device
    common: tuple[int, int]  # region, offset
    notify: tuple[int, int, int]  # and what an index is multiplied by

    def put(self, offset: int, value: int, size: int) -> None:
        region, base = self.common
        os.pwrite(self.device.fd, value.to_bytes(size, "little"), self.device.region(region)[0] + base + offset)

    def get(self, offset: int, size: int) -> int:
        region, base = self.common
        return int.from_bytes(os.pread(self.device.fd, size, self.device.region(region)[0] + base + offset), "little")

    def offered(self, word: int) -> int:
        self.put(0, word, 4)
        return self.get(4, 4)


def find(device: Device) -> Virtio:
    """By the capabilities in configuration space."""
    found: dict[int, tuple[int, int, int]] = {}
    at = device.read(7, 0x34) & 0xFF
    while at:
        head, where = device.read(7, at), device.read(7, at + 4)
        if head & 0xFF == 9:
            found[head >> 24] = (
                where & 0xFF,
                device.read(7, at + 8),
                device.read(7, at + 16) if head >> 24 == 2 else 0,
            )
        at = head >> 8 & 0xFF
    return Virtio(device, found[1][:2], found[2])


def physical(page: Page) -> int:
    """Where a page lies (Documentation/admin-guide/mm/pagemap.rst)."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(page.address // PAGE * 8)
        return (int.from_bytes(file.read(8), "little") & ((1 << 55) - 1)) * PAGE


def command(virtio: Virtio, page: Page, base: int) -> bool:
    """Turn promiscuous reception on; returns whether the function has answered that it did."""
    memory = page.memory
    memory[:] = bytes(PAGE)
    for index, (where, size, flags) in enumerate(((COMMAND, 3, 1), (ANSWER, 1, 2))):  # another follows; to be written
        descriptor = (base + where).to_bytes(8, "little") + bytes((size, 0, 0, 0, flags, 0, 1, 0))
        memory[DESCRIPTORS + 16 * index : DESCRIPTORS + 16 * index + 16] = descriptor
    memory[COMMAND : COMMAND + 3] = bytes((0, 0, 1))  # class, command, on
    memory[ANSWER] = UNANSWERED
    memory[AVAILABLE : AVAILABLE + 6] = bytes((0, 0, 1, 0, 0, 0))  # one is there: descriptor 0
    virtio.put(20, 0, 1)
    while virtio.get(20, 1):
        time.sleep(0.01)
    for status in (1, 3):  # acknowledged, there is a driver
        virtio.put(20, status, 1)
    for word, wanted in ((0, CONTROL_FEATURES), (1, virtio.offered(1) & 3)):  # version 1; ACCESS_PLATFORM if offered
        virtio.put(8, word, 4)
        virtio.put(12, wanted, 4)
    virtio.put(20, 11, 1)
    assert virtio.get(20, 1) & 8, "it does not accept the features"
    virtio.put(22, CONTROL, 2)
    virtio.put(24, SIZE, 2)
    for offset, where in ((32, DESCRIPTORS), (40, AVAILABLE), (48, USED)):
        virtio.put(offset, (base + where) & 0xFFFF_FFFF, 4)
        virtio.put(offset + 4, (base + where) >> 32, 4)
    virtio.put(28, 1, 2)
    virtio.put(20, 15, 1)
    region, offset, multiplier = virtio.notify
    doorbell = virtio.device.region(region)[0] + offset + virtio.get(30, 2) * multiplier
    os.pwrite(virtio.device.fd, CONTROL.to_bytes(2, "little"), doorbell)
    end = time.monotonic() + 5
    while not memory[USED + 2] and time.monotonic() < end:
        time.sleep(0.02)
    return (memory[USED + 2], memory[ANSWER]) == (1, 0)


def main(address: str) -> None:
    """Attack, then the same with a mapping."""
    bind(address, "vfio-pci")
    device = LegacyDevice(address)
    device.bus_master(True)
    virtio, page = find(device), Page(b"\0")
    told: dict[str, object] = {"offers": virtio.offered(1) >> 1 & 1}
    told["not mapped"] = command(virtio, page, physical(page))
    if told["offers"]:
        device.map(page, IOVA)
        told["mapped"] = command(virtio, page, IOVA)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
