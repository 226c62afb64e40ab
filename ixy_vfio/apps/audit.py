"""`ixy-vfio audit`: show whether the IOMMU isolation of this machine, a device or a session holds.

Without --attack it only looks.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ixy_vfio_helper.shown import shown

from ixy_vfio.audit import compare, html, pages, table, tree
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.report import LEVELS, Report, from_json
from ixy_vfio.audit.runner import audit, make_report
from ixy_vfio.audit.scene import draw
from ixy_vfio.audit.sessions import parse_address
from ixy_vfio.audit.system import LiveSystem, System
from ixy_vfio.core import signals
from ixy_vfio.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = "Look whether the IOMMU isolation of this machine, a device or a session holds."
    parser.epilog = (
        "Exit status: 0 clean, 1 findings at or above --fail-on, 2 could not run. "
        "Without --attack it leaves the machine as it is, and needs no root; as root (scripts/audit) it sees more (who "
        "holds what, bridges, tables of the IOMMU)."
    )
    parser.add_argument(
        "device", metavar="DEVICE", nargs="?", help="a PCI address like 03:00.0, a group like /dev/vfio/12, or a pid"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show evidence, why it matters, what to do")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/audit/schema.md)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page with a picture of the isolation")
    parser.add_argument(
        "--fail-on", metavar="LEVEL", choices=LEVELS, default="fail",
        help="what makes the exit status 1: warn, fail (default), or high (failures of high severity only)",
    )  # fmt: skip
    parser.add_argument("--explain", metavar="CHECK", help="print the page of a check")
    parser.add_argument("--compare", metavar=("BEFORE", "AFTER"), nargs=2, type=Path, help="compare two JSON reports")
    parser.add_argument(
        "--record", metavar="FILE", type=Path,
        help="also write what was read, for --replay elsewhere; it names all your processes",
    )  # fmt: skip
    parser.add_argument(
        "--record-eeprom", action="store_true",
        help="first read the EEPROM of DEVICE through the kernel's driver (root), and write its digest to be compared",
    )  # fmt: skip
    parser.add_argument("--replay", metavar="FILE", type=Path, help="audit a recorded machine")
    attack = parser.add_argument_group("attacking", "let the device try what must not succeed, instead of looking")
    attack.add_argument(
        "--attack", action="store_true", help="attack with DEVICE, which must be yours to lease, and idle"
    )
    attack.add_argument("--yes", action="store_true", help="do not ask")
    attack.add_argument("--only", metavar="CHECK", action="append", help="this attack only; repeatable")
    attack.add_argument(
        "--attack-msi", action="store_true",
        help="also forge an interrupt, which a sound machine blocks; else Linux counts it (docs/audit/attack.msi.md)",
    )  # fmt: skip
    attack.add_argument("--helper", metavar="PATH", help="the helper's socket")


def run(arguments: argparse.Namespace) -> int:
    """Audit, and show it."""
    if arguments.explain is not None:
        print(pages.explain(arguments.explain), end="")
        return 0
    if arguments.compare is not None:
        before, after = (from_json(_load_json(path)) for path in arguments.compare)
        print("\n".join(compare.render(before, after)))
        return compare.exit_status(before, after, arguments.fail_on)
    if arguments.attack:
        report = _attack(arguments)
        if arguments.html:
            _write(arguments.html, html.render(report))
        _show(report, arguments)
        return report.exit_status(arguments.fail_on) or _could_not(report)
    if arguments.record_eeprom:
        _record_eeprom(arguments.device)
    system: System = LiveSystem() if arguments.replay is None else _replay(arguments.replay)
    recorder = tree.Recorder(system)
    report = audit(Host(recorder if arguments.record else system), arguments.device)
    if arguments.record:
        _write(arguments.record, tree.dump(recorder.tree))
    if arguments.html:
        _write(arguments.html, html.render(report))
    _show(report, arguments)
    return report.exit_status(arguments.fail_on)


def _attack(arguments: argparse.Namespace) -> Report:
    """Ask, then attack; a line of progress for each on standard error."""
    from ixy_vfio.audit.attack import run as attacks
    from ixy_vfio.audit.attack.field import Field

    address = parse_address(arguments.device or "")
    if address is None:
        raise UsageError("--attack: name the device, a PCI address like 0000:03:00.0")
    chosen = attacks.attacks()
    if unknown := set(arguments.only or ()) - {check.name for check in chosen}:
        raise UsageError(f"--only {unknown.pop()}: no such attack; there are {', '.join(one.name for one in chosen)}")
    chosen = [check for check in chosen if not arguments.only or check.name in arguments.only]
    attacks.require_idle(address, arguments.helper)
    if not arguments.yes:
        _ask(address, arguments.attack_msi)
    host = Host(LiveSystem())
    device = host.devices.get(address)
    field = Field(address, arguments.helper, arguments.attack_msi)
    with signals.unwinding():  # an attack is a process of its own, which has to be ended
        results = attacks.run(field, chosen, lambda line: print(shown(line), file=sys.stderr, flush=True))
    return make_report(host, address, results, draw(host, [device] if device else [], []))


def _record_eeprom(device: str | None) -> None:
    from ixy_vfio.audit import eeprom

    address = parse_address(device or "")
    if address is None:
        raise UsageError("--record-eeprom: name the device, a PCI address like 0000:03:00.0")
    print(f"written: {eeprom.record(address)}", file=sys.stderr)


def _could_not(report: Report) -> int:
    """2 when an attack could not be judged: that is not clean."""
    from ixy_vfio.audit.attack import run as attacks

    return 2 if attacks.unjudged(report.results) else 0


def _ask(address: str, msi: bool) -> None:
    """UsageError unless somebody says yes."""
    if not sys.stdin.isatty():
        raise UsageError("--attack: nobody is there to be asked; --yes says that you mean it")
    more = ", and to forge an interrupt" if msi else ""
    text = (
        f"{address} will be leased, reset, and told to read and write where it must not{more}.\n"
        "Where the machine is sound nothing comes of it but lines in the kernel's log. Where it is not, memory that\n"
        "is not yours may be read; it is written only where reading showed nothing.\n"
        "Go on? [yes/no] "
    )
    print(text, end="", file=sys.stderr, flush=True)  # the report goes to standard output, and perhaps into a file
    if sys.stdin.readline().strip().lower() != "yes":
        raise UsageError("--attack: not wanted; nothing was done")


def _show(report: Report, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
        return
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 160
    colour = terminal and "NO_COLOR" not in os.environ
    print("\n".join(table.render(report, width, colour, arguments.verbose)))


def _replay(path: Path) -> System:
    try:
        return tree.load(_read(path))
    except ValueError as error:
        raise UsageError(f"{path}: not a recorded machine: {error}") from None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
