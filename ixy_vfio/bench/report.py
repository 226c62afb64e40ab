"""The results as files: JSON, CSV, Markdown; and the history."""

import csv
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ixy_vfio.bench.goals import Goal
from ixy_vfio.bench.latency import PERCENTILES
from ixy_vfio.bench.results import Quartiles, Results, Row
from ixy_vfio.bench.suite import FORWARD, SEALED
from ixy_vfio.bench.text import CAVEATS, FROM_PYTHON, HAND_OFFS, HEAD, LAYOUT, METHOD, TWO_CORES

NAME = "performance"


def write(results: Results, goals: list[Goal], directory: Path, plots: Sequence[str]) -> list[Path]:
    """Write performance.json, .csv and .md into the directory; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{NAME}.{kind}" for kind in ("json", "csv", "md")]
    files[0].write_text(json.dumps(results.as_dict(), indent=1) + "\n", encoding="utf-8")
    with files[1].open("w", newline="") as stream:
        writer = csv.writer(stream)
        columns = [f"{what}_{which}" for what in ("ns", "ratio", "best_ratio") for which in ("q1", "median", "q3")]
        writer.writerow(["experiment", "setting", "batch", "side", "base", "best_base", *columns])
        for row in results.rows:
            numbers = [_numbers(row.ns), _numbers(row.ratio), _numbers(row.best)]
            words = [row.experiment, row.setting, row.batch, row.side, row.base, row.best_base]
            writer.writerow([*words, *(number for three in numbers for number in three)])
    files[2].write_text(markdown(results, goals, plots), encoding="utf-8")
    return files


def _numbers(of: Quartiles | None) -> list[str]:
    return [f"{value:.4f}" for value in (of.low, of.median, of.high)] if of else [""] * 3


def append_history(results: Results, path: Path) -> None:
    """One line of JSON: when, on what, and the numbers that have goals."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": results.machine["commit"],
        "cpu": results.machine["cpu"],
        "instructions": results.instructions,
        "ratio": {row.batch: row.ratio.median for row in results.of("batch") if row.side == FORWARD and row.ratio},
        "goals": {goal["name"]: goal["measured"] for goal in results.goals},
    }
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(word) for word in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _pivot(rows: Sequence[Row], over: str, title: str) -> str:
    """A table: a row a side, a column a setting; ns, and the median ratio in brackets."""
    columns = list(dict.fromkeys(getattr(row, over) for row in rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    found = {(row.side, getattr(row, over)): row for row in rows}

    def cell(side: str, column: object) -> str:
        row = found.get((side, column))
        if row is None:
            return ""
        digits = 0 if row.ns.median >= 100 else 1
        ratio = f" ({row.ratio.median:.2f})" if row.ratio and row.side != row.base else ""
        return f"{row.ns.median:.{digits}f}{ratio}"

    return _table([title, *map(str, columns)], ([side, *(cell(side, column) for column in columns)] for side in sides))


def markdown(results: Results, goals: list[Goal], plots: Sequence[str]) -> str:
    """docs/performance.md."""
    parts = [HEAD, "## Goals\n", _goals(goals), *_throughput(results, plots), *_latency(results, plots)]
    parts += [*_cost(results, plots), *_settings(results), METHOD, _machine(results), CAVEATS, LAYOUT]
    return "\n".join(parts)


def _goals(goals: list[Goal]) -> str:
    words = {True: "met", False: "**missed**", None: "-"}
    return _table(["what", "goal", "measured", ""], ([g.name, g.goal, g.measured, words[g.met]] for g in goals))


def _picture(name: str, text: str, plots: Sequence[str]) -> list[str]:
    return [f"![{text}]({name}.svg)\n"] if name in plots else []


def _throughput(results: Results, plots: Sequence[str]) -> list[str]:
    rows = results.of("batch")
    base = rows[0].base if rows else ""
    last = [row for row in rows if row.side == FORWARD]
    parts = ["## Throughput over batch size\n", *_picture(f"{NAME}-throughput", "Throughput over batch size", plots)]
    parts += [f"ns a packet of the driver's part, median; in brackets the ratio to {base} in the same rounds.\n"]
    parts += [_pivot(rows, "batch", "batch"), "Medians and quartiles of the forwarder's ratios:\n"]
    names = ["batch", f"to {base}", f"to the best build ({last[0].best_base if last else ''} or as named)"]
    parts.append(_table(names, ([r.batch, r.ratio or "", f"{r.best} {r.best_base}" if r.best else ""] for r in last)))
    if results.instructions:
        parts.append("Instructions a packet at batch 32, compiled for Haswell:\n")
        parts.append(_table(["side", "instructions"], ([k, f"{v:.1f}"] for k, v in results.instructions.items())))
    return parts


def _latency(results: Results, plots: Sequence[str]) -> list[str]:
    if not results.latency:
        return []
    head = ["side", "load", "Mpps", *(f"p{p:g}" for p in PERCENTILES), "pauses", "longest, us"]
    rows = [
        [run["side"], f"{run['load']:.0%}", f"{run['mpps']:.1f}"]
        + [f"{run['percentiles'][f'p{p:g}']:.0f}" for p in PERCENTILES]
        + [run["pauses"], f"{run['longest_us']:.0f}"]
        for run in results.latency["runs"]
    ]
    idle = results.latency["idle"]
    text = (
        "In ns, from the time a packet is due to the doorbell that sends it; load as a share of what each side can do; "
        f"one poll of up to {results.latency['batch']} packets of each port a turn. Calls over 100 us are pauses: "
        f"counted, and left out of the histogram. A loop that does nothing but read the clock had {idle['pauses']} in "
        f"{idle['seconds']:.2f} s here, the longest of {idle['longest_us']:.0f} us: they are the machine's.\n"
    )
    counts = sum(run["collections"] + run["allocations"] for run in results.latency["runs"])
    last = f"Garbage collections and allocations of compiled code during all of these runs: {counts}.\n"
    picture = _picture(f"{NAME}-latency", "Latency under load", plots)
    return ["## Latency under load\n", *picture, text, _table(head, rows), last]


def _cost(results: Results, plots: Sequence[str]) -> list[str]:
    parts = ["## What it costs\n", *_picture(f"{NAME}-cost", "Cost of kernels and of safety", plots)]
    safety = results.of("safety")
    if safety:
        parts += ["Safety: the same loop with one thing changed; in brackets the ratio to the loop as shipped.\n"]
        parts += [_pivot(safety, "batch", "batch")]
    sealed = results.row("sealing", SEALED, 32)
    if sealed and sealed.ratio:
        parts.append(
            f"A worker that is sealed (its own process, no descriptors, no rights) takes {sealed.ratio} times what "
            "it takes unsealed: privilege separation is paid for at the start, not per packet.\n"
        )
    if results.of("kernel"):
        parts += ["Kernels; in brackets the ratio to `touch`.\n", _pivot(results.of("kernel"), "batch", "batch")]
    if results.of("metadata"):
        parts += [
            "Metadata: a kernel that looks at all that the device says of a packet (flags, packet type, VLAN, RSS"
        ]
        parts += ["hash, checksums). Who does not ask for it pays nothing: the loop above is compiled without.\n"]
        parts += [_pivot(results.of("metadata"), "batch", "batch")]
    parts += [FROM_PYTHON, _pivot(results.of("python"), "batch", "batch")] if results.of("python") else []
    return parts


def _hand_offs(results: Results) -> list[str]:
    slices = sorted((ns, base, ours) for batch, ns, base, ours in results.hand_offs if batch == 32)
    if not slices:
        return []
    head = ["hand-off, ns", results.of("cold")[0].base, FORWARD, "ratio"]
    rows = ([f"{ns:.0f}", f"{base:.1f}", f"{ours:.1f}", f"{ours / base:.2f}"] for ns, base, ours in slices)
    return [HAND_OFFS, _table(head, rows)]


def _settings(results: Results) -> list[str]:
    parts = []
    for experiment, title, over in (
        ("packet size", "Packet size, batch 32", "setting"),
        ("ring size", "Ring size, batch 32", "setting"),
        ("cold", "Cold lines: the model on another core", "batch"),
    ):
        if results.of(experiment):
            parts += [f"## {title}\n", _pivot(results.of(experiment), over, "")]
    parts += _hand_offs(results)
    pages = results.of("page size")
    if pages:
        parts += ["## Page size\n"]
        parts += [f"Batch {b}:\n\n" + _pivot([r for r in pages if r.batch == b], "setting", "pages") for b in (32, 256)]
    if results.queues:
        head = ["two workers of", "times one worker", "quartiles", "trials"]
        rows = [
            [name, f"{q['factor']:.2f}", f"{q['low']:.2f}-{q['high']:.2f}", q["trials"]]
            for name, q in results.queues.items()
        ]
        parts += ["## Two queues on two cores\n", TWO_CORES, _table(head, rows)]
    return parts


def _machine(results: Results) -> str:
    rows = [(key.replace("_", " "), value) for key, value in results.machine.items()]
    rows += [(key.replace("_", " "), value) for key, value in results.settings.items()]
    notes = "".join(f"* {note}\n" for note in results.notes)
    return "## The run\n\n" + _table(["", ""], rows) + ("\nNotes:\n\n" + notes if notes else "")
