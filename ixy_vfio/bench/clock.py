"""The processor's cycle counter, and how fast it counts."""

import time
from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.unsafe import cycles

_frequency = 0.0


def frequency() -> float:
    """Cycles of the counter in a nanosecond."""
    global _frequency
    if not _frequency:
        measured = []
        for _ in range(5):
            clock, count = time.perf_counter_ns(), read_cycles()
            time.sleep(0.01)
            measured.append((read_cycles() - count) / (time.perf_counter_ns() - clock))
        _frequency = float(np.median(measured))
    return _frequency


@compiled
def read_cycles() -> Any:
    """The cycle counter, for Python."""
    return cycles()
