"""`ixy-vfio-helper`: the privileged helper's command line. Runs under `python3 -I -S`, whatever started it."""

import os
import sys

if not __package__:  # started as a directory, `python3 -I -S .../ixy_vfio_helper`: only this package is added
    sys.path[0:1] = []
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from ixy_vfio_helper import bind, locks, policy, server
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.ending import DEBUG, complain, guarded, say
from ixy_vfio_helper.kernel import ROOT, VFIO_PCI, KernelBackend, PciDevice, full_address
from ixy_vfio_helper.logs import log_shown
from ixy_vfio_helper.monitor import Refusal, log
from ixy_vfio_helper.sandbox import DEVICE, READ, RECORDS, Sandbox, lower

RUN = Path("/run/ixy_vfio")


def _serve(arguments: argparse.Namespace, claims: Claims, journal: bind.Journal) -> None:
    log_shown("ixy-vfio-helper[%(process)d]: %(message)s")
    policy.load(arguments.policy)  # an error is better told now than to the first client
    with journal:
        recovered = bind.recover(journal, arguments.root)
    for address, notes in recovered.items():
        log.info("%s: a bind or unbind was interrupted; the device is as it was before", address)
        for note in notes:
            log.warning("%s: not as it was before: %s", address, note)
    listener, lock = server.activated(), -1
    if listener is None:  # everybody may connect: the policy decides
        listener, lock = server.listen(arguments.socket or arguments.run / "helper.sock", 0o666)
    with contextlib.suppress(OSError):  # each lease says it, too
        lower()
    backend = KernelBackend(arguments.way, arguments.root)
    paths = {arguments.root / "sys": READ, claims.directory: RECORDS}
    paths |= {ROOT / "dev/vfio": DEVICE, ROOT / "dev/iommu": DEVICE, ROOT / "dev/kmsg": READ}
    server.Server(listener, lambda: policy.load(arguments.policy), backend, claims, Sandbox(paths), lock).run()


def _status(arguments: argparse.Namespace, claims: Claims, journal: bind.Journal) -> None:
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


def _change(arguments: argparse.Namespace, claims: Claims, journal: bind.Journal) -> None:
    if arguments.command == "recover":
        for address, notes in bind.recover(journal, arguments.root).items():
            say(f"{address}: as it was before")
            _tell(address, notes)
        return
    device = PciDevice(full_address(arguments.address), arguments.root)
    if arguments.command == "bind":
        bind.check(device, arguments.down, arguments.other)
        for line in bind.lost(device):
            say(f"{device.address}: unbind will not give back: {line}")
        bind.bind(device, journal, arguments.down, arguments.other)
    elif (claim := claims.claim(device.address, os.getuid())) is None:
        raise Refusal(f"{device.address}: it is leased (see ixy-vfio-helper status); end the lease first")
    else:
        try:
            _tell(device.address, bind.unbind(device, journal))
        finally:
            os.close(claim)
    say(f"{device.address}: driver {device.driver or 'none'}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ixy-vfio-helper", description="Binds NICs, owns their IOMMU mappings.")
    parser.add_argument("--run", type=Path, default=RUN, help=f"locks and journal (default: {RUN})")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument(DEBUG, action="store_true", help="show where an error that is a bug comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="lease bound devices to the users that the policy names")
    serve.add_argument("--socket", type=Path, help="where to listen (default: helper.sock in the run directory)")
    serve.add_argument("--policy", type=Path, default=policy.PATH, help=f"default: {policy.PATH}")
    serve.add_argument("--way", choices=["auto", "cdev", "group"], default="auto", help="into VFIO (default: auto)")
    for name, text in (("bind", "give a NIC to vfio-pci"), ("unbind", "give a NIC back to the driver that had it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("address", help="like 0000:03:00.0; the domain 0000: may be left out")
        if name == "bind":
            command.add_argument("--down", action="store_true", help="also if its interface is up")
            command.add_argument("--other", action="store_true", help="also a NIC that no driver here knows")
    commands.add_parser("status", help="show the NICs that can be, or are, bound")
    commands.add_parser("recover", help="put back what an interrupted bind or unbind left behind")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run a command; returns the exit status (0 done, 1 failed, 2 wrong use or refused)."""
    arguments = _parse(argv)
    journal = bind.Journal(arguments.run / "bound")
    try:
        for directory in (arguments.run, journal.directory):
            locks.make_directory(directory, 0o755)
        claims = Claims(arguments.run / "leases")
        if arguments.command == "serve":
            _serve(arguments, claims, journal)
        elif arguments.command == "status":
            _status(arguments, claims, journal)
        else:
            with journal:
                _change(arguments, claims, journal)
    except (Refusal, locks.Held, policy.PolicyError) as refusal:
        complain("ixy-vfio-helper", refusal)
        return 2
    except OSError as error:
        complain("ixy-vfio-helper", f"{error}" + "; run it as root" * (os.geteuid() != 0))
        return 1
    return 0


def main() -> int:
    """Start again without what the environment or site-packages could bring in, unless that is so already."""
    if not (sys.flags.isolated and sys.flags.no_site):
        here = os.path.dirname(os.path.abspath(__file__))
        os.execv(sys.executable, [sys.executable, "-I", "-S", here, *sys.argv[1:]])
    os.umask(0o022)
    return guarded("ixy-vfio-helper", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
