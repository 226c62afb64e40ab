"""Two queues on two cores, beside one: shared-nothing workers, each with the model stepped inline."""

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ixy_vfio.bench.measure import model, run
from ixy_vfio.bench.sides import Side

TIMES = 400  # steps of a trial


def _work(side: Side, core: int, barrier: threading.Barrier, ends: list[float]) -> None:
    os.sched_setaffinity(0, {core})
    barrier.wait()
    run(model(), int(side.bench.ctypes.data), side.driver, side.state, TIMES)
    ends.append(time.perf_counter())


def _trial(sides: Sequence[Side], cores: Sequence[int]) -> float:
    """Seconds until all have done their work."""
    barrier = threading.Barrier(len(sides) + 1)
    ends: list[float] = []
    threads = [
        threading.Thread(target=_work, args=(side, core, barrier, ends))
        for side, core in zip(sides, cores, strict=False)
    ]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return max(ends) - begin


def scaling(sides: Sequence[Side], trials: int) -> dict[str, Any]:
    """How many times one worker's packets two workers forward; wall clock, the model's work included."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return {}
    for side in sides:
        side.configure(32, 256)
    _trial(sides, cores)  # warm
    factors = []
    for i in range(trials):
        alone = _trial(sides[i % 2 :][:1], cores[i % 2 :])
        both = _trial(sides, cores)
        factors.append(2 * alone / both)
    low, median, high = np.percentile(factors, (25, 50, 75))
    return {"factor": float(median), "low": float(low), "high": float(high), "best": max(factors), "trials": trials}
