"""The commands bind, unbind, status and recover of `ixy-vfio-helper`, a program of their own.

It changes the drivers and interfaces of the host. The helper, which serves leases, starts it and has none of it.
"""

import os
import sys

if not __package__:  # started as a file, `python3 -I -S .../ixy_vfio_setup/commands.py`: only our folder is added
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
from collections.abc import Sequence

from ixy_vfio_helper import locks
from ixy_vfio_helper.arguments import parse
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.ending import answered, guarded, say
from ixy_vfio_helper.kernel import VFIO_PCI, PciDevice
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup import bind
from ixy_vfio_setup.bound import Bound
from ixy_vfio_setup.device import full_address


def _status(arguments: argparse.Namespace, claims: Claims, journal: Bound) -> None:
    for address in sorted(os.listdir(arguments.root / "sys/bus/pci/devices")):
        device = PciDevice(address, arguments.root)
        entry, holder = journal.read(device.address), claims.holder(device.address)
        if device.number("class") >> 8 != 0x0200 or not (entry or holder or bind.known(device)):
            continue
        if holder:
            says = f"leased by uid {holder[0]} (helper process {holder[1]})"
        elif entry and device.driver == VFIO_PCI:
            says = f"free; unbind gives it back to {entry.driver or 'nobody'}"
        elif entry:
            says = "a bind or unbind was interrupted; run: sudo ixy-vfio-helper recover"
        else:
            try:
                bind.check(device)
                says = "can be bound"
            except Refusal as refusal:
                says = str(refusal).removeprefix(f"{device.address}: ")
        say(f"{device.address}  {device.ids}  driver {device.driver or 'none'}  {says}")


def _tell(address: str, notes: list[str]) -> None:
    for note in notes:
        say(f"{address}: not as it was before: {note}")


def _recover(arguments: argparse.Namespace, journal: Bound) -> None:
    for address, notes in bind.recover(journal, arguments.root).items():
        say(f"{address}: as it was before")
        _tell(address, notes)


def _bind(arguments: argparse.Namespace, device: PciDevice, journal: Bound) -> None:
    bind.check(device, arguments.down, arguments.other)
    for line in bind.lost(device):
        say(f"{device.address}: unbind will not give back: {line}")
    bind.bind(device, journal, arguments.down, arguments.other, arguments.by)


def _unbind(device: PciDevice, claims: Claims, journal: Bound) -> None:
    claim = claims.claim(device.address, os.getuid())
    if claim is None:
        raise Refusal(f"{device.address}: it is leased (see ixy-vfio-helper status); end the lease first")
    try:
        _tell(device.address, bind.unbind(device, journal))
    finally:
        os.close(claim)


def _run(arguments: argparse.Namespace, claims: Claims, journal: Bound) -> None:
    if arguments.command == "status":
        _status(arguments, claims, journal)
        return
    with journal:
        if arguments.command == "recover":
            _recover(arguments, journal)
            return
        device = PciDevice(full_address(arguments.address), arguments.root)
        if arguments.command == "bind":
            _bind(arguments, device, journal)
        else:
            _unbind(device, claims, journal)
        say(f"{device.address}: driver {device.driver or 'none'}")


def run(argv: Sequence[str]) -> int:
    """Run a command; returns the exit status (0 done, 1 failed, 2 wrong use or refused)."""
    arguments = parse(argv)
    journal = Bound(arguments.run / "bound")

    def act() -> int:
        for directory in (arguments.run, journal.directory):
            locks.make_directory(directory, 0o755)
        _run(arguments, Claims(arguments.run / "leases"), journal)
        return 0

    return answered("ixy-vfio-helper", act, Refusal, locks.Held)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(guarded("ixy-vfio-helper", lambda: run(sys.argv[1:])))
