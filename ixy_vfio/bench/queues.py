"""Two queues on two cores, beside one: shared-nothing workers, each with the model stepped inline.

Two virtual cores are not always two: they may share a clock budget, or the threads of one core. So the same is done
in the same trials with two workers of the C reference, which share nothing either, and with two loops that touch no
memory: what these reach is the machine's ceiling, not the driver's.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ixy_vfio.bench.measure import model, run
from ixy_vfio.bench.results import Quartiles
from ixy_vfio.bench.sides import Side
from ixy_vfio.core.compiled import compiled

TIMES = 1000  # steps of a trial: some ten milliseconds, so that the start of threads is nothing
SPINS = 10_000_000
BARE = "a loop without memory"
U = np.uint64
Work = Callable[[], object]


@compiled
def spin(count: int) -> Any:
    """A chain of multiplications: arithmetic alone."""
    value = U(1)
    for _ in range(count):
        value = value * U(6364136223846793005) + U(1442695040888963407)
    return value


def _timed(work: Work, core: int, barrier: threading.Barrier, seconds: list[float]) -> None:
    os.sched_setaffinity(0, {core})
    barrier.wait()
    begin = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - begin)


def _rate(works: Sequence[Work], cores: Sequence[int]) -> float:
    """Works a second, of all together; each on a core of its own, begun at the same time."""
    barrier = threading.Barrier(len(works))
    seconds: list[float] = []
    threads = [
        threading.Thread(target=_timed, args=(work, core, barrier, seconds))
        for work, core in zip(works, cores, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(1 / one for one in seconds)


def _work(side: Side) -> Work:
    side.configure(32, 256)
    return partial(run, model(), int(side.bench.ctypes.data), side.driver, side.state, TIMES)


def scaling(pairs: Sequence[Sequence[Side]], trials: int) -> dict[str, Any]:
    """By the name of each pair of equal sides, and of a bare loop: the packets of two workers over those of one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return {}
    works: dict[str, list[Work]] = {pair[0].name: [_work(side) for side in pair] for pair in pairs}
    works[BARE] = [partial(spin, SPINS)] * 2
    factors: dict[str, list[float]] = {name: [] for name in works}
    for i in range(-1, trials):  # the first one warms and compiles
        for name, two in works.items():
            alone = _rate(two[i % 2 :][:1], cores[i % 2 :])
            both = _rate(two, cores)
            if i >= 0:
                factors[name].append(both / alone)
    found = {name: Quartiles.of(np.array(values)) for name, values in factors.items()}
    return {name: {"low": q.low, "factor": q.median, "high": q.high, "trials": trials} for name, q in found.items()}
