"""Cold lines: the model's step done by a thread on another core, while the driver waits.

The driver's part never runs beside the model's, so that no chance of timing is measured: only that every
descriptor, doorbell and packet was last touched by another core, as by a NIC.
"""

# mypy: disable-error-code="type-arg,no-untyped-call"

import os
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.bench import model
from ixy_vfio.bench.clock import frequency
from ixy_vfio.bench.entry import Entry, of_function
from ixy_vfio.bench.sides import Side
from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import cycles, load_acquire, store_release, words64_at

U = np.uint64
REQUEST, DONE, STOP, BENCH, WORDS = 0, 16, 32, 48, 64  # in 64-bit words: two cache lines apart
TRIPS = 2000  # there and back, to tell how far away the other core is


def _request(address: Any) -> Any:
    """Ask for a step, and wait until it is done."""
    words = words64_at(address, WORDS)
    number = words[REQUEST] + U(1)
    store_release(words, REQUEST, number)
    while load_acquire(words, DONE) != number and load_acquire(words, STOP) == U(0):
        pass
    return number


_ask = inlined(_request)


@compiled
def _trips(address: Any, times: Any) -> Any:
    """Cycles that so many requests take."""
    begin = cycles()
    for _ in range(times):
        _ask(address)
    return cycles() - begin


@compiled
def serve(words: Any) -> None:
    """Do what is asked for until STOP: a step of the BENCH, or nothing where that is 0."""
    seen = load_acquire(words, DONE)
    while load_acquire(words, STOP) == U(0):
        number = load_acquire(words, REQUEST)
        if number != seen:
            if words[BENCH] != U(0):
                model.step(words[BENCH])
            seen = number
            store_release(words, DONE, seen)


class Remote:
    """The thread, for the time of a `with` block. Needs two cores: the caller is pinned to the first one."""

    def __init__(self) -> None:
        self._words: NDArray[np.uint64] = np.zeros(WORDS, np.uint64)
        self._cores = sorted(os.sched_getaffinity(0))
        self._thread = threading.Thread(target=self._main, daemon=True)
        self.entry: Entry = of_function(_request)

    def _main(self) -> None:
        os.sched_setaffinity(0, {self._cores[1]})
        serve(self._words)

    def __enter__(self) -> Self:
        self._words[STOP] = 1
        serve(self._words)  # compiled before anybody waits
        _trips(U(self._words.ctypes.data), U(0))
        self._words[STOP] = 0
        os.sched_setaffinity(0, {self._cores[0]})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words[STOP] = 1
        self._thread.join()
        os.sched_setaffinity(0, self._cores)

    def hand_off(self) -> float:
        """ns for a word to get to the other core and back: the host may move the cores at any time."""
        self._words[BENCH] = 0
        return float(_trips(U(self._words.ctypes.data), U(TRIPS)) / frequency() / TRIPS)

    def attach(self, side: Side) -> int:
        """From now on step this side's ports; returns the address that the entry is called with."""
        self._words[BENCH] = side.bench.ctypes.data
        return int(self._words.ctypes.data)
