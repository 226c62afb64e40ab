"""The goals, each beside what was measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ixy_vfio.bench.instructions import LIMIT, SLACK
from ixy_vfio.bench.python_api import ONE_CALL, PER_PACKET, THREE_CALLS
from ixy_vfio.bench.reference import MAIN
from ixy_vfio.bench.results import Results
from ixy_vfio.bench.suite import FORWARD, METADATA, SEALED

TO_MAIN = {1: 0.55, 4: 0.45, 8: 0.40, 16: 0.35, 32: 0.30, 64: 0.30, 256: 0.30}
TO_BEST = {1: 0.65, 4: 0.55, 8: 0.50, 16: 0.45, 32: 0.40, 64: 0.40, 256: 0.40}


@dataclass(frozen=True, slots=True)
class Goal:
    """`met` is None where it was not measured."""

    name: str
    goal: str
    measured: str
    met: bool | None


def _at_most(name: str, limit: float, found: float | None, unit: str = "") -> Goal:
    goal = f"at most {limit:g}{unit}"
    if found is None:
        return Goal(name, goal, "not measured", None)
    return Goal(name, goal, f"{found:.3g}{unit}", found <= limit)


def _at_least(name: str, limit: float, found: float | None, unit: str = "") -> Goal:
    goal = f"at least {limit:g}{unit}"
    if found is None:
        return Goal(name, goal, "not measured", None)
    return Goal(name, goal, f"{found:.3g}{unit}", found >= limit)


def _throughput(results: Results) -> Iterator[Goal]:
    for batch, limit in TO_MAIN.items():
        row = results.row("batch", FORWARD, batch)
        ratio = row.ratio.median if row and row.ratio and row.base == MAIN else None
        yield _at_most(f"time of {MAIN}, batch {batch}", limit, ratio)
    for batch, limit in TO_BEST.items():
        row = results.row("batch", FORWARD, batch)
        best = row.best.median if row and row.best else None
        which = f" ({row.best_base})" if row and row.best_base else ""
        yield _at_most(f"time of the best C build{which}, batch {batch}", limit, best)
    full = results.row("metadata", METADATA, 32)
    ratio = full.ratio.median if full and full.ratio and full.base == MAIN else None
    yield _at_most(f"with all metadata, time of {MAIN}, batch 32", 0.45, ratio)
    cold = results.row("cold", FORWARD, 32)
    yield _at_most("cold lines, batch 32", 0.65, cold.ratio.median if cold and cold.ratio else None)
    yield _at_most(
        f"instructions a packet, batch 32 ({SLACK - 1:.0%} slack)", LIMIT * SLACK, results.instructions.get(FORWARD)
    )


def _python(results: Results) -> Iterator[Goal]:
    for way in (ONE_CALL, THREE_CALLS):
        for batch, limit in ((32, 0.85), (256, 0.65)):
            row = results.row("python", way, batch)
            ratio = row.ratio.median if row and row.ratio and row.base == MAIN else None
            yield _at_most(f"{way}, of {batch}", limit, ratio)
    rows = [results.row("python", PER_PACKET, batch) for batch in (32, 256)]
    speeds = [1000 / row.ns.median for row in rows if row]
    yield _at_least("Python loop per packet", 1.0, max(speeds, default=None), " Mpps")


def _latency(results: Results) -> Iterator[Goal]:
    runs = results.latency.get("runs", [])
    mine = [run for run in runs if run["side"] == FORWARD]
    others = [run for run in runs if run["side"] != FORWARD]
    name, goal = "pauses over 100 us", "not more than where nothing of ours runs"
    if not mine:
        yield Goal(name, goal, "not measured", None)
        return
    idle = results.latency["idle"]
    pauses, seconds = (sum(run[key] for run in mine) for key in ("pauses", "seconds"))
    # What the machine does to a loop that only reads the clock, and to the reference, it may do to the forwarder; three
    # standard deviations of a count are chance.
    other_pauses = idle["pauses"] + sum(run["pauses"] for run in others)
    other_seconds = idle["seconds"] + sum(run["seconds"] for run in others)
    expected = max(other_pauses, 1) / other_seconds * seconds
    measured = f"{pauses} in {seconds:.2f} s; beside it {other_pauses} in {other_seconds:.2f} s"
    yield Goal(name, goal, measured, pauses <= expected + 3 * max(expected, 1.0) ** 0.5)
    yield _at_most(
        "garbage collections and allocations in the loop", 0, sum(r["collections"] + r["allocations"] for r in mine)
    )


def _system(results: Results) -> Iterator[Goal]:
    found: dict[str, Any] = results.system
    yield _at_least("two queues on two cores, packets", 1.8, results.queues.get(FORWARD, {}).get("factor"), " times")
    sealed = results.row("sealing", SEALED, 32)
    ratio = sealed.ratio.median if sealed and sealed.ratio else None
    yield _at_most("time of a sealed worker, to one that is not", 1.02, ratio)
    yield _at_most("start to first packet, warm cache", 2.0, found.get("first_packet_warm"), " s")
    yield _at_most("start to first packet, cold cache", 6.0, found.get("first_packet_cold"), " s")
    yield _at_most("import of ixy_vfio", 0.3, found.get("import_seconds"), " s")
    yield _at_most("resident memory of a worker, without packets", 200, found.get("worker_mib"), " MiB")
    yield _at_most("resident memory of the helper", 25, found.get("helper_mib"), " MiB")
    yield _at_most("CPU of an idle worker", 1.0, found.get("idle_cpu_percent"), " %")
    yield _at_most("p99 latency at 1 % load, sleeping to polling", 2.0, found.get("sleep_p99_ratio"), " times")


def check(results: Results) -> list[Goal]:
    """All goals. What has no reference to compare with (no compiler) is not measured, and not missed."""
    goals = [*_throughput(results), *_python(results), *_latency(results), *_system(results)]
    results.goals = [asdict(goal) for goal in goals]
    return goals


def table(goals: list[Goal]) -> str:
    """For people."""
    words = {True: "met", False: "MISSED", None: "-"}
    lines = [(goal.name, goal.goal, goal.measured, words[goal.met]) for goal in goals]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
