"""`ixy-vfio audit`: show whether the IOMMU isolation of this machine, a device or a session holds.

Everything here only looks. Active attacks will be a second list of checks in ixy_vfio/audit, run on request.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ixy_vfio.audit import compare, html, pages, table, tree
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.report import LEVELS, Report, from_json
from ixy_vfio.audit.runner import audit
from ixy_vfio.audit.system import LiveSystem, System
from ixy_vfio.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = "Look whether the IOMMU isolation of this machine, a device or a session holds."
    parser.epilog = (
        "Exit status: 0 clean, 1 findings at or above --fail-on, 2 could not run. Reads only, and needs no root; "
        "as root it sees more (who holds what, bridges, tables of the IOMMU)."
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
    parser.add_argument("--replay", metavar="FILE", type=Path, help="audit a recorded machine")


def run(arguments: argparse.Namespace) -> int:
    """Audit, and show it."""
    if arguments.explain is not None:
        print(pages.explain(arguments.explain), end="")
        return 0
    if arguments.compare is not None:
        before, after = (from_json(_load_json(path)) for path in arguments.compare)
        print("\n".join(compare.render(before, after)))
        return compare.exit_status(before, after, arguments.fail_on)
    system: System = LiveSystem() if arguments.replay is None else _replay(arguments.replay)
    recorder = tree.Recorder(system)
    report = audit(Host(recorder if arguments.record else system), arguments.device)
    if arguments.record:
        _write(arguments.record, tree.dump(recorder.tree))
    if arguments.html:
        _write(arguments.html, html.render(report))
    _show(report, arguments)
    return report.exit_status(arguments.fail_on)


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
        return path.read_text()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
