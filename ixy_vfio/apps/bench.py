"""`ixy-vfio bench`: the forwarding loop beside the same work in C, on a model NIC. See docs/performance.md."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ixy_vfio.core import signals
from ixy_vfio.core.errors import UsageError

if TYPE_CHECKING:
    from ixy_vfio.bench.results import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--quick", action="store_true", help="only what has a goal, in less than a minute")
    add("--check", action="store_true", help="end with status 1 when a goal is missed")
    add("--output", type=Path, metavar="DIR", help="write performance.{json,csv,md} and plots there")
    add("--history", type=Path, metavar="FILE", help="append one line of JSON with the numbers that have goals")
    add("--plot", type=Path, metavar="FILE", help="write the files of an earlier run's performance.json anew")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the goals, write what was asked for."""
    from ixy_vfio.bench import goals, report
    from ixy_vfio.bench.suite import Suite

    if arguments.plot:
        return _redraw(arguments)
    began = time.monotonic()
    terminal = sys.stderr.isatty()

    def say(text: str) -> None:
        line = f"[{time.monotonic() - began:5.1f} s] {text}"
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    if os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2:
        print("others are using this machine: ratios will be rough", file=sys.stderr)
    with signals.unwinding():
        results = Suite(arguments.quick, say).run()
    say("done")
    print(file=sys.stderr)
    found = goals.check(results)
    print(goals.table(found))
    for note in results.notes:
        print(f"note: {note}")
    if arguments.output:
        _write(results, arguments.output)
    if arguments.history:
        report.append_history(results, arguments.history)
    return int(arguments.check and any(goal.met is False for goal in found))


def _draw(results: dict[str, object], directory: Path) -> tuple[list[str], str]:
    """The names of the plots that were drawn, and a line on why there are none."""
    try:
        import ixy_vfio.bench.plots as plots
    except ImportError:
        return [], "no plots: matplotlib is not installed (scripts/bench installs it)"
    return plots.draw(results, directory), ""


def _redraw(arguments: argparse.Namespace) -> int:
    import json

    from ixy_vfio.bench.results import Results

    try:
        results = Results.from_dict(json.loads(arguments.plot.read_text()))
    except OSError as error:
        raise UsageError(f"--plot {arguments.plot}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--plot {arguments.plot}: no performance.json of this program: {error}") from None
    _write(results, arguments.output or arguments.plot.parent)
    return 0


def _write(results: "Results", directory: Path) -> None:
    """The files and plots of a run."""
    from ixy_vfio.bench import goals, report

    directory.mkdir(parents=True, exist_ok=True)
    names, note = _draw(results.as_dict(), directory)
    if note:
        print(note, file=sys.stderr)
    for path in report.write(results, goals.check(results), directory, names):
        print(f"wrote {path}")
