"""`ixy-vfio info`: what a device is, and what its registers say.

It leases the device and looks; it resets nothing and turns no DMA on. The lease itself is not without effect: it
takes the device from its kernel driver while it lasts, and the device is reset at its end.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from ixy_vfio.core import pci
from ixy_vfio.core.mmio import ALL_ONES, Mmio
from ixy_vfio.core.registers import Register
from ixy_vfio.drivers.contract import Link, driver_for, driver_of
from ixy_vfio.transport.base import Device
from ixy_vfio.transport.lease import Lease

COUNTERS_NOTE = "read, and so cleared"


@dataclass(frozen=True, slots=True)
class RegisterInfo:
    """A register with its fields decoded; or those of an array, `first` to `last`, that have this same value."""

    section: str
    name: str
    first: int
    last: int
    value: int
    fields: dict[str, int]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """All that the command shows. `counters` has only what is not 0."""

    address: str
    model: str
    vendor: int
    device: int
    bus_master: bool
    link: Link
    mac: str
    counters: dict[str, int]
    registers: tuple[RegisterInfo, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "Resets nothing and turns no DMA on, but leases the device: its kernel driver lets go of it meanwhile, and it "
        "is reset afterwards. The counters clear when they are read."
    )
    parser.add_argument("device", metavar="DEV", help="PCI address, like 03:00.0")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--helper", metavar="PATH", help="socket of the helper")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with Lease(arguments.helper) as lease:
        info = inspect(lease.attach(arguments.device))
    if arguments.json:
        print(json.dumps(asdict(info), indent=2))
    else:
        print("\n".join(render(info)))
    return 0


def inspect(device: Device) -> DeviceInfo:
    """Read everything. Registers that a read changes are left alone, but for the counters. UsageError: no driver."""
    driver = driver_of(device)
    vendor, device_id = pci.identify(device)
    registers = tuple(decode(driver.registers(), device.bar0))
    look = driver.look(device)
    return DeviceInfo(
        address=device.address,
        model=look.model,
        vendor=vendor,
        device=device_id,
        bus_master=pci.bus_master(device),
        link=look.link,
        mac=look.mac.hex(":"),
        registers=registers,
        counters={name: value for name, value in look.counters.items() if value},
    )


def decode(registers: Sequence[type[Register]], bar: Mmio) -> Iterator[RegisterInfo]:
    """Each of the registers that can be read without changing it."""
    for register in registers:
        if not register.access.readable or register.access.read_changes:
            continue
        values = [register.read(bar, index) for index in range(register.row.count)]
        first = 0
        for value, run in itertools.groupby(values):
            last = first + len(list(run)) - 1
            fields = {name: getattr(value, name) for name in register.fields}
            yield RegisterInfo(register.row.section, register.row.name, first, last, int(value), fields)
            first = last + 1


def render(info: DeviceInfo) -> Iterator[str]:
    """The lines of the table."""
    known = {one.row.name: one for one in driver_for(info.address, info.vendor, info.device).registers()}
    yield f"{info.address}  {info.model} ({info.vendor:04x}:{info.device:04x})"
    yield f"  link         {info.link}"
    yield f"  MAC address  {info.mac}"
    yield f"  DMA          {'on' if info.bus_master else 'off'} (bus master)"
    yield ""
    yield f"Counters ({COUNTERS_NOTE})"
    yield from (f"  {name:<16} {value:>20,}" for name, value in info.counters.items())
    if not info.counters:
        yield "  all 0"
    section = ""
    for register in info.registers:
        if register.section != section:
            section = register.section
            yield ""
            yield f"Datasheet section {section}"
        yield from _render_register(known[register.name], register)


def _render_register(cls: type[Register], register: RegisterInfo) -> Iterator[str]:
    name = cls.label(register.first)
    if register.last > register.first:
        name = f"{register.name}[{register.first}..{register.last}]"
    head = f"  {name:<18} {register.value:#010x}"
    shown = [field for field in cls.fields.values() if field.mask != ALL_ONES]  # one field that is all says nothing
    if not shown:
        yield head
    for field in shown:
        yield f"{head}  {field.name:<18} {field.show(register.fields[field.name]):<18} {field.text}".rstrip()
        head = " " * len(head)
