"""`scripts/setup`: makes this machine ready to lease a NIC to a user, or undoes that. Runs under `python3 -I -S -B`."""

import argparse
import contextlib
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # started as a directory: only the helper's folder is added
    sys.path[0:1] = []
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ixy_vfio_helper import identity, policy
from ixy_vfio_helper.ending import DEBUG, complain, guarded, say
from ixy_vfio_helper.kernel import VFIO_PCI, PciDevice
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup import bind, look, machine, trust
from ixy_vfio_setup.device import full_address
from ixy_vfio_setup.install import PACKAGES
from ixy_vfio_setup.journal import DIRECTORY, Journal, Record, bound
from ixy_vfio_setup.resources import TOTAL
from ixy_vfio_setup.step import LAUNCHER, LIBRARY, POLICY, RUN, SOCKET, SYSTEMD, UNITS, Step
from ixy_vfio_setup.steps import KINDS, Request, steps
from ixy_vfio_setup.system import SetupError, System

TREE = Path(os.path.abspath(__file__)).parents[2]
CODE = (*(f"helper/{package}" for package in PACKAGES), "scripts/setup", "scripts/systemd")
# What root's programs and records are, with all that is in it, and where others have names of their own too.
OURS = (LIBRARY, LAUNCHER, POLICY.rpartition("/")[0], DIRECTORY,
        *(f"{SYSTEMD}/{name}{more}" for name in UNITS for more in ("", ".d")))  # fmt: skip
SHARED = (RUN,)
Look = Callable[[Path, str], look.Found]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/setup",
        description="Makes this machine ready to lease a NIC to a user: checks it, installs the helper, writes the "
        "policy, gives the NIC to vfio-pci. All of it can be undone. See docs/hardware.md.",
    )
    parser.add_argument("device", nargs="?", help="PCI address of the NIC, like 0000:03:00.0 (see lspci -D)")
    parser.add_argument("--user", metavar="NAME", help="who may lease it: a login name or a uid")
    parser.add_argument(
        "--memory", type=int, metavar="MIB", help="memory all leases of the user may have (default: 256)"
    )
    parser.add_argument(
        "--hugepages", type=int, metavar="N", help="free hugepages of 2 MiB (default: the limit of --memory)"
    )
    parser.add_argument("--force", action="store_true", help="take the NIC although it is in use; tells what is cut")
    parser.add_argument("--other", action="store_true", help="also a NIC that no driver here knows")
    parser.add_argument("--start", action="store_true", help="without systemd: start the helper in the background")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--undo", action="store_true", help="undo everything, or what was done for DEVICE")
    parser.add_argument(DEBUG, action="store_true", help="show where an error that is a bug comes from")
    arguments = parser.parse_args(argv)
    if not arguments.undo and not (arguments.device and arguments.user):
        parser.error("DEVICE and --user NAME are wanted (or --undo)")
    if arguments.undo and (arguments.user or arguments.force or arguments.start or arguments.other):
        parser.error("--undo goes with DEVICE and --dry-run only")
    if arguments.memory is not None and not 0 < arguments.memory <= 1 << 20:
        parser.error("--memory: a whole number from 1 to 1048576")
    if arguments.hugepages is not None and arguments.hugepages < 0:
        parser.error("--hugepages: a whole number, 0 or more")
    return arguments


def _user(name: str) -> tuple[str, int]:
    """How people call the user, and the uid."""
    if name.isascii() and name.isdigit():
        return name, int(name)
    try:
        return name, pwd.getpwnam(name).pw_uid
    except KeyError:
        raise Refusal(f"{name}: there is no such user; make one (adduser {name}), or give a uid") from None


def check_code(tree: Path, trusted: frozenset[int]) -> None:
    """Refuse to run and install what others than root and who called sudo could have changed."""
    if found := trust.strangers([tree / name for name in CODE], trusted):
        names = " and ".join(trust.uid_name(uid) for uid in sorted(trusted))
        raise Refusal(f"{found}; root runs and installs this code: only {names} may be able to change it")


def check_places(system: System) -> None:
    """Refuse to install into, or to undo by the records in, what others than root could have made or can change."""
    trusted = frozenset({system.owner})
    found = trust.strangers([system.at(name) for name in OURS], trusted, system.root)
    found = found or trust.strangers_to([system.at(name) for name in SHARED], trusted, system.root)
    if found:
        raise Refusal(f"{found}; root's programs and records lie there: look who made it, then chown root, chmod go-w")


def check_machine(system: System, device: PciDevice) -> None:
    """Refuse a machine that cannot do it, with all reasons."""
    if not device.path.is_dir():
        raise Refusal(f"{device.address}: no such PCI device; see lspci -D")
    if lacking := machine.missing(system):
        raise Refusal("\n".join(lacking))


def _refusal(device: PciDevice, other: bool) -> str:
    """Why the helper will not bind the device, also if it may take an interface down; "" if it will."""
    try:
        bind.check(device, down=True, other=other)
    except Refusal as refusal:
        return str(refusal)
    return ""


def _bound(system: System, device: PciDevice) -> bool:
    return device.driver == VFIO_PCI and device.address in bound(system).addresses()


def _what(device: PciDevice) -> str:
    """Which device it is, as far as this user may read it (root: with its serial number)."""
    config = (device.path / "config").read_bytes() if (device.path / "config").exists() else b""
    return identity.identity(device, lambda offset, size: config[offset : offset + size])


def _request(system: System, arguments: argparse.Namespace, tree: Path, looking: Look) -> Request:
    """What is to be done, when everything allows it."""
    device = PciDevice(full_address(arguments.device), system.root)
    name, uid = _user(arguments.user)
    check_machine(system, device)
    say(f"{device.address}: {device.ids}, driver {device.driver or 'none'}, IOMMU group {device.link('iommu_group')}")
    if others := [other.address for other in device.neighbours()]:
        say(f"{device.address}: in one IOMMU group with {' '.join(others)}: only one of them can be leased at a time; "
            "a setting in the firmware (ACS), or another slot, parts them")  # fmt: skip
    found = look.Found() if _bound(system, device) else looking(tree, device.address)
    last = _refusal(device, arguments.other)
    if (found.reasons or found.lost) and not arguments.force and not last:
        last = f"{device.address}: --force takes it all the same, and cuts this"
    if last:
        told = [f"{device.address}: in use: {reason}" for reason in found.reasons]
        told += [f"{device.address}: undo will not give back: {line}" for line in found.lost]
        raise Refusal("\n".join([*told, last]))
    for reason in found.reasons:
        say(f"{device.address}: will be cut: {reason}")
    for line in found.lost:
        say(f"{device.address}: undo will not give back: {line}")
    return Request(
        device, name, uid, _what(device), arguments.memory, arguments.hugepages, arguments.other, arguments.start,
        arguments.force,
    )  # fmt: skip


def carry_out(system: System, journal: Journal, todo: Sequence[Step]) -> None:
    """Take the steps; when one fails, undo those that this call took."""
    mine: list[Record] = []
    try:
        for step in todo:
            if not step.needed():
                say(f"already: {step.text}")
                continue
            record = step.record()
            if step.journaled:
                journal.add(record)
            mine.append(record)
            step.do()
            say(f"done:    {step.text}")
    except (Exception, KeyboardInterrupt) as error:
        say(f"failed:  {step.text}: {error or 'interrupted'}")
        undo(system, journal, mine)
        raise


def undo(system: System, journal: Journal, records: Sequence[Record]) -> None:
    """Undo steps, the last one first. Raises SetupError at the first that cannot be undone; the journal keeps it."""
    for record in reversed(records):
        kind = KINDS[record["kind"]]
        try:
            note = kind.undo(system, record)
        except (OSError, SetupError) as error:
            raise SetupError(f"cannot {kind.title(record)}: {error}; then run: sudo scripts/setup --undo") from error
        journal.drop(record)
        say(f"undone:  {kind.title(record)}" + (f" ({note})" if note else ""))


def _undo(system: System, journal: Journal, device: str | None, dry_run: bool) -> None:
    records = journal.all()
    if device is not None:
        address = full_address(device)
        if address not in journal.devices():
            raise Refusal(f"{address}: was not set up here; set up: {' '.join(journal.devices()) or 'nothing'}")
        if journal.devices() != [address]:  # what all need stays until the last one goes
            records = [record for record in records if record["device"] == address]
    if not records:
        say("nothing was set up; nothing to undo")
    elif dry_run:
        for record in reversed(records):
            say(f"would:   {KINDS[record['kind']].title(record)}")
    else:
        undo(system, journal, records)


def _finish(system: System, request: Request) -> None:
    pages = system.number(TOTAL)
    if pages < request.wanted:
        say(f"note: the kernel has {pages} of {request.wanted} hugepages; 4 KiB pages take their place, more slowly "
            f"(start the machine with hugepages={request.wanted})")  # fmt: skip
    if not machine.has_systemd(system) and not system.listener(SOCKET):
        say(f"\nno systemd here: start the helper by hand, sudo {LAUNCHER} serve (or run this again with --start)")
    others = [other.address for other in request.device.neighbours()]
    but = f" (not while {' or '.join(others)} is leased: they share an IOMMU group)" if others else ""
    say(f"\nready. As {request.user}: ixy-vfio info {request.device.address}{but}\nUndo: sudo scripts/setup --undo")


def run(argv: Sequence[str], system: System, tree: Path = TREE, looking: Look = look.look) -> int:
    """The command; returns the exit status (0 done, 1 failed, 2 wrong use or refused)."""
    arguments = _parse(argv)
    try:
        if not arguments.dry_run and os.geteuid() != 0 and system.root == Path("/"):
            raise Refusal("this changes the machine: run it with sudo, or see what it would do with --dry-run")
        check_code(tree, frozenset({0, look.caller()[0]} - {look.NOBODY[0]}))
        check_places(system)
        request = None if arguments.undo else _request(system, arguments, tree, looking)
        journal = Journal(system)
        with contextlib.nullcontext() if arguments.dry_run else journal:
            if request is None:
                _undo(system, journal, arguments.device, arguments.dry_run)
            elif arguments.dry_run:
                for step in steps(system, journal, tree, sys.executable, request):
                    say(f"{'would:  ' if step.needed() else 'already:'} {step.text}")
            else:
                carry_out(system, journal, list(steps(system, journal, tree, sys.executable, request)))
        if request and not arguments.dry_run:
            _finish(system, request)
        return 0
    except (Refusal, policy.PolicyError) as refusal:
        complain("setup", refusal)
        return 2
    except (SetupError, OSError) as error:
        complain("setup", error)
        return 1


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(guarded("setup", lambda: run(sys.argv[1:], System())))
