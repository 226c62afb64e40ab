"""Runs in a guest: what a taken-over control tries with a device's file descriptor and a lease, without any sandbox.

    evil_control.py WAY HELPER PORT0 PORT1 PORT2

Port 0 is the attacker's (uid 1000); port 2 is leased to somebody else (uid 1001), whose memory is full of canaries.
Prints one JSON object: attack -> what the kernel said, and whether the other session was as before.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from ixy_vfio.transport.lease import Lease, Purpose
from ixy_vfio.transport.vfio import VfioDevice
from tests.vm.inside.beside import ATTACKER, PAGE, Other, become, canaries

PCI = Path("/sys/bus/pci/devices")
CONFIG, MSIX = 7, 2
EVENTFD_TRIGGER, NONE_TRIGGER = 0x24, 0x21


def said(attempt: Callable[[], object]) -> str:
    """`done`, or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


class Device:
    """The descriptor, and what can be asked of it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.regions = [self._region(index) for index in range(9)]

    def ioctl(self, number: int, layout: str, *fields: int) -> bytearray:
        data = bytearray(struct.pack("=I" + layout, struct.calcsize("=I" + layout), *fields))
        fcntl.ioctl(self.fd, 0x3B00 + number, data)
        return data

    def _region(self, index: int) -> tuple[int, int]:
        """Offset and size."""
        try:
            _, size, offset = struct.unpack_from("=IQQ", self.ioctl(0x6C, "IIIQQ", 0, index, 0, 0, 0), 12)
        except OSError:
            return index << 40, 0
        return offset, size

    def irqs(self, index: int, start: int, count: int, flags: int = NONE_TRIGGER, *data: int) -> str:
        return said(lambda: self.ioctl(0x6E, "IIII" + "i" * len(data), flags, index, start, count, *data))

    def config(self, offset: int, size: int) -> int:
        return int.from_bytes(os.pread(self.fd, size, self.regions[CONFIG][0] + offset), "little")

    def set_config(self, offset: int, size: int, value: int) -> None:
        os.pwrite(self.fd, value.to_bytes(size, "little"), self.regions[CONFIG][0] + offset)

    def capability(self, kind: int) -> int:
        """Where a capability stands, 0 if nowhere."""
        at, seen = self.config(0x34, 1), 0
        while at and self.config(at, 1) != kind and seen < 48:
            at, seen = self.config(at + 1, 1), seen + 1
        return at


def interrupts(device: Device) -> dict[str, str]:
    eventfd = os.eventfd(0)
    try:
        return {
            "an eventfd for a vector that there is": device.irqs(MSIX, 0, 1, EVENTFD_TRIGGER, eventfd),
            "all off": device.irqs(MSIX, 0, 0),
            "more vectors than there are": device.irqs(MSIX, 0, 65, EVENTFD_TRIGGER, *[eventfd] * 65),
            "a start beyond them": device.irqs(MSIX, 2**32 - 1, 2),
            "four billion of them": device.irqs(MSIX, 1, 2**32 - 1),
            "an index that there is not": device.irqs(9, 0, 1),
            "flags that contradict": device.irqs(MSIX, 0, 1, 0x3F),
            "a descriptor that there is not": device.irqs(MSIX, 0, 1, EVENTFD_TRIGGER, 9999),
            "a descriptor that is no eventfd": device.irqs(MSIX, 0, 1, EVENTFD_TRIGGER, 0),
        }
    finally:
        os.close(eventfd)


def regions(device: Device) -> dict[str, str]:
    def map_at(offset: int, size: int = PAGE) -> str:
        return said(lambda: mmap.mmap(device.fd, size, offset=offset).close())

    bar, size = device.regions[0]
    return {
        "a page of BAR0": map_at(bar),
        "the page behind BAR0": map_at(bar + size),
        "more than BAR0": map_at(bar, size + PAGE),
        "configuration space, mapped": map_at(device.regions[CONFIG][0]),
        "a region that there is not": map_at(9 << 40),
        "the last region": map_at(2**63 - PAGE),
        "a write behind BAR0": said(lambda: os.pwrite(device.fd, b"\xff" * 4, bar + size)),
        "a write to a region that there is not": said(lambda: os.pwrite(device.fd, b"\xff" * 4, 9 << 40)),
    }


def memory(device: Device) -> dict[str, str]:
    """The numbers of a container and of iommufd, on the device; and what the nodes in /dev say."""
    page = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return {
        "MAP_DMA on the device": said(lambda: device.ioctl(0x71, "IQQQ", 3, address, 0x5000_0000, PAGE)),
        "UNMAP_DMA on the device": said(lambda: device.ioctl(0x72, "IQQ", 0, 0x10_0000_0000, PAGE)),
        "IOAS_MAP on the device": said(lambda: device.ioctl(0x85, "IIIQQQ", 7, 1, 0, address, PAGE, 0x5000_0000)),
        "BIND on the device": said(lambda: device.ioctl(0x76, "IiI", 0, 0, 0)),
    }


def nodes(other: str) -> dict[str, str]:
    """The other device's, by name."""

    def opened(path: Path, flags: int = os.O_RDWR) -> str:
        return said(lambda: os.close(os.open(path, flags)))

    found = PCI / other
    cdev = [Path("/dev/vfio/devices") / path.name for path in found.glob("vfio-dev/*")]
    return {
        "its group": opened(Path("/dev/vfio") / os.path.basename(os.readlink(found / "iommu_group"))),
        "its character device": opened(cdev[0]) if cdev else "EACCES",
        "its registers in sysfs": opened(found / "resource0"),
        "its configuration in sysfs": opened(found / "config"),
        "its removal": opened(found / "remove", os.O_WRONLY),
        "its driver's unbind": opened(found / "driver/unbind", os.O_WRONLY),
        "the claim on it": opened(Path("/run/ixy_vfio/leases") / f"{other}.lease"),
    }


def configuration(device: Device, address: str, other: str) -> dict[str, str]:
    """Every word of configuration space to ones and zeros; BAR0 moved over the other device's."""

    def seen() -> bytes:
        """The BARs as the machine sees them."""
        return (PCI / address / "config").read_bytes()[16:40]

    before = seen()
    victim = int((PCI / other / "resource").read_text().split()[0], 16)
    device.set_config(0x10, 4, victim & 0xFFFF_FFFF)
    device.set_config(0x14, 4, victim >> 32)
    device.set_config(4, 2, 0x6)
    moved = "not moved" if seen() == before else "moved"
    for offset in range(0, 4096, 4):
        for word in (0xFFFF_FFFF, 0):
            said(lambda at=offset, value=word: device.set_config(at, 4, value))  # type: ignore[misc]
    device.ioctl(0x6F, "")
    return {
        "BAR0 over the other device's": moved,
        "all of it to ones and zeros": "not moved" if seen() == before else "moved",
        "who it is": f"{device.config(0, 4):08x}",
    }


class ProductData:
    """Vital product data, by the capability in configuration space: vfio-pci does what is asked of it there."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._at = device.capability(3)
        assert self._at

    def read(self, address: int) -> bytes:
        self._device.set_config(self._at + 2, 2, address)
        done = self._device.config(self._at + 2, 2) & 0x8000
        return self._device.config(self._at + 4, 4).to_bytes(4, "little") if done else b""

    def write(self, address: int, data: bytes) -> None:
        self._device.set_config(self._at + 4, 4, int.from_bytes(data, "little"))
        self._device.set_config(self._at + 2, 2, address | 0x8000)

    def room(self) -> int:
        """Where the owner's notes (YA) have zeros."""
        everything = b"".join(self.read(address) for address in range(0, 128, 4))
        return -(-(everything.index(b"YA") + 3) // 4) * 4


def product_data(device: Device) -> dict[str, str]:
    """Where the owner may write, and where not: the name."""
    data = ProductData(device)
    at, name = data.room(), data.read(0)
    before = data.read(at)
    data.write(at, b"evil")
    data.write(0, b"evil")
    return {
        "before": before.hex(),
        "the owner's notes": "written" if data.read(at) == b"evil" else "as before",
        "the name": "as before" if data.read(0) == name else "written",
    }


def clean(device: Device) -> str:
    """The next lease of the device finds what the one before has written; and takes it out."""
    data = ProductData(device)
    at = data.room()
    found = data.read(at)
    data.write(at, bytes(4))
    return "written" if found == b"evil" else found.hex()


def resets(device: Device) -> dict[str, str]:
    told = {said(lambda: fcntl.ioctl(device.fd, 0x3B6F)) for _ in range(20)}
    return {"twenty resets": " ".join(told), "hot reset of the bus": said(lambda: device.ioctl(0x71, "II", 0, 0))}


def address_spaces(device: Device) -> dict[str, str]:
    """Those of iommufd, by number: the device belongs to one iommufd, and there is one address space in that."""
    result = {"detached": said(lambda: device.ioctl(0x78, "I", 0))}
    accepted = []
    for identity in range(64):
        if said(lambda at=identity: device.ioctl(0x77, "II", 0, at)) == "done":  # type: ignore[misc]
            accepted.append(identity)
            device.ioctl(0x78, "I", 0)
    if accepted:
        result["attached again"] = said(lambda: device.ioctl(0x77, "II", 0, accepted[0]))
    own = [] if len(accepted) < 2 else accepted
    return result | {"address spaces but its own": " ".join(map(str, own)) or "none"}


def main(way: str, helper: str, first: str, _: str, third: str) -> None:
    other = Other(lambda: canaries(helper, third))
    become(ATTACKER)
    result: dict[str, dict[str, str]] = {}
    with Lease(helper) as lease:
        found = lease.attach(first)
        lease.memory(PAGE, [found], Purpose.RINGS)
        assert isinstance(found, VfioDevice)
        device = Device(found._fd)
        attacks: dict[str, Callable[[], dict[str, str]]] = {
            "interrupts": lambda: interrupts(device),
            "regions": lambda: regions(device),
            "memory": lambda: memory(device),
            "nodes": lambda: nodes(third),
            "configuration": lambda: configuration(device, first, third),
            "product data": lambda: product_data(device),
            "resets": lambda: resets(device),
        }
        if way == "cdev":
            attacks["address spaces"] = lambda: address_spaces(device)
        for name, attack in attacks.items():
            result[name] = attack() | {"the other session": "as before" if other.untouched() else "disturbed"}
    with Lease(helper) as lease:
        again = lease.attach(first)
        fresh = lease.memory(PAGE, [again], Purpose.RINGS)
        assert isinstance(again, VfioDevice)
        result["afterwards"] = {
            "a new lease": "zeroed memory" if not any(fresh.view) else "stale memory",
            "the owner's notes": clean(Device(again._fd)),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
