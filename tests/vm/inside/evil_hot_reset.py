"""Runs in a guest: a hot reset of a bus with two functions, of which the attacker has one.

    evil_hot_reset.py WAY HELPER FUNCTION0 FUNCTION1

First root does it with both in its hands: so a mark in each device's registers shows what a hot reset does. Then the
attacker (uid 1000) leases function 0, somebody else (uid 1001) function 1. Prints one JSON object.
"""

import contextlib
import fcntl
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence

from tests.vm.inside.beside import ATTACKER, Other, Session, become
from tests.vm.inside.evil_control import said
from tests.vm.inside.leased import Client
from tests.vm.inside.raw_vfio import CdevDevice, Device, LegacyDevice, group_of

MARK, VALUE = (
    0xE000,
    0x1234_5600,
)  # TDBAL of queue 0 (82576 datasheet, 8.12): nothing looks at it while the queue is off
HOT_RESET = 0x3B71


def hot_reset(fd: int, groups: Sequence[int] = ()) -> str:
    """VFIO_DEVICE_PCI_HOT_RESET; `done`, or the name of the error."""
    layout = f"=III{len(groups)}i"
    request = struct.pack(layout, struct.calcsize(layout), 0, len(groups), *groups)
    return said(lambda: fcntl.ioctl(fd, HOT_RESET, request))


def marked(device: Device) -> int:
    return device.read(0, MARK)


def mark(device: Device) -> None:
    device.write(7, 4, device.read(7, 4) & 0xFFFF | 2)  # memory enable
    device.write(0, MARK, VALUE)
    assert marked(device) == VALUE


@contextlib.contextmanager
def both(way: str, addresses: Sequence[str]) -> Iterator[tuple[list[Device], list[int]]]:
    """Both devices in root's hands, by one iommufd or one container; and their groups."""
    fds: list[int] = []
    try:
        if way == "cdev":
            first = CdevDevice(addresses[0])
            second = CdevDevice(addresses[1], first.iommufd)
            fds = [first.fd, second.fd, first.iommufd]
            yield [first, second], []
        else:
            one = LegacyDevice(addresses[0])
            two = LegacyDevice(addresses[1], one.container)
            fds = [one.fd, two.fd, one.group, two.group, one.container]
            yield [one, two], [one.group, two.group]
    finally:
        for fd in fds:
            os.close(fd)


def by_root(way: str, addresses: Sequence[str]) -> dict[str, object]:
    """With both: done, and both are reset. By groups, with one of them only: refused."""
    with both(way, addresses) as (devices, groups):
        for device in devices:
            mark(device)
        half = hot_reset(devices[0].fd, groups[:1]) if groups else "EINVAL"
        kept = [marked(device) for device in devices]
        told = hot_reset(devices[0].fd, groups)
        return {"half": half, "kept": kept, "whole": told, "left": [marked(device) for device in devices]}


def leased(helper: str, address: str) -> tuple[Client, Device]:
    """A lease of one function, with a mark in its registers."""
    client = Client(helper)
    device = client.attach(address)
    mark(device)
    return client, device


def beside(helper: str, address: str) -> Session:
    """Somebody else's."""
    client, device = leased(helper, address)
    return 0, lambda: client.connection.fileno() >= 0 and marked(device) == VALUE


def by_attacker(helper: str, addresses: Sequence[str]) -> dict[str, object]:
    """With one of the two, and what it can get hold of."""
    group = f"/dev/vfio/{group_of(addresses[1])}"
    other = Other(lambda: beside(helper, addresses[1]))
    become(ATTACKER)
    _client, device = leased(helper, addresses[0])
    eventfd = os.eventfd(0)
    told: dict[str, object] = {
        "with its device": hot_reset(device.fd),
        "with its device for a group": hot_reset(device.fd, [device.fd]),
        "with another descriptor": hot_reset(device.fd, [eventfd]),
        "with the same twice": hot_reset(device.fd, [eventfd] * 2),
        "the other's group": said(lambda: os.close(os.open(group, os.O_RDWR))),
    }
    told |= {"its own mark": marked(device), "the other session as it was": other.untouched()}
    other.end()
    return told | {"when nobody leases the other": hot_reset(device.fd)}


def main(way: str, helper: str, *addresses: str) -> None:
    result = {"root": by_root(way, addresses)}
    print(json.dumps(result | {"attacker": by_attacker(helper, addresses)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
