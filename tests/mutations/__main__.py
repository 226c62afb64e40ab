"""`python -m tests.mutations`: removes one protection at a time, and looks whether the tests notice.

Works on a copy of the tree. Exit status 0 if every removal was noticed, 1 if one survived, 2 if a row does not fit the
tree, or its tests fail as it is.
"""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import tests.mutations
from tests.mutations.row import Row
from tests.mutations.runner import Copy, NotSound, changed_files, commit, drawn, mutated, run

TOP = Path(__file__).parents[2]


def table() -> list[Row]:
    """All rows: each file of this directory that has ROWS."""
    found: list[Row] = []
    for one in sorted(pkgutil.iter_modules(tests.mutations.__path__), key=lambda one: one.name):
        if one.name.startswith("table_"):
            found += importlib.import_module(f"tests.mutations.{one.name}").ROWS
    return found


def chosen(rows: Sequence[Row], arguments: argparse.Namespace, top: Path = TOP) -> list[Row]:
    """What is to be run. Raises NotSound for a name that no row has."""
    if arguments.rows:
        named = {row.name: row for row in rows}
        if unknown := [name for name in arguments.rows if name not in named]:
            raise NotSound(f"--rows: there is no row {unknown[0]}; --list shows all of them")
        return [named[name] for name in arguments.rows]
    if arguments.changed is None and not arguments.sample:
        return list(rows)
    files = changed_files(top, arguments.changed) if arguments.changed else set()
    found = [row for row in rows if row.file in files]
    return found + drawn([row for row in rows if row not in found], arguments.sample, commit(top))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description="Remove one protection at a time; the tests must notice."
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--changed", metavar="BASE", help="rows whose file differs from that commit")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="and N others, chosen by the commit's hash")
    parser.add_argument("--seconds", type=float, help="begin no row after so many seconds; what is left out is said")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")
    parser.add_argument("--list", action="store_true", help="show the rows, and run nothing")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    try:
        every = table()
        for row in every:
            mutated((TOP / row.file).read_text(encoding="utf-8"), row)
        rows = chosen(every, arguments)
        if arguments.list:
            for row in rows:
                print(f"{row.name:45} {row.file}{'  (root)' if row.root else ''}")
            return 0
        barred = [row.name for row in rows if row.root and os.geteuid() != 0]
        rows = [row for row in rows if row.name not in barred]
        with tempfile.TemporaryDirectory(prefix="ixy-vfio-mutations-") as directory:
            outcome = run(
                rows,
                Copy.of(TOP, Path(directory)),
                arguments.seconds,
                lambda line: print(line, file=sys.stderr, flush=True),
            )
    except NotSound as error:
        print(f"mutations: {error}", file=sys.stderr)
        return 2
    seconds = round(time.monotonic() - began, 1)
    if arguments.json:
        print(json.dumps({**asdict(outcome), "barred": barred, "seconds": seconds}))
    else:
        print(
            f"{len(outcome.noticed) + len(outcome.survived)} rows in {seconds:.0f} s, {len(outcome.survived)} survived"
        )
        lists = {"survived": outcome.survived, "no time left for": outcome.left, "need root": barred}
        for what, names in lists.items():
            if names:
                print(f"{what}: {', '.join(names)}")
        for error_line in outcome.errors:
            print(error_line)
    return 2 if outcome.errors else 1 if outcome.survived else 0


if __name__ == "__main__":
    sys.exit(main())
