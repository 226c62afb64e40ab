"""Latency under load, on a clock that only the driver's part moves.

Packets are due at a constant rate on both ports. Before each call of the driver (one poll of each port) the model
brings what is due by now; the call is timed and the clock put forward by what it took; what has been sent by then
has its latency: the end of the call in which its doorbell was rung, less the time it was due. So the model's work
costs nothing, an idle poll costs what it costs, and a pause of the driver delays every packet that comes meanwhile.

A call that takes longer than PAUSE_NS is a pause: counted, its length kept, and not put on the clock, for else one
time slice that the operating system gives away would be the tail of every histogram. Whose fault pauses are shows
in comparison: with the reference, and with `gaps`, a loop that does nothing but read the clock.
"""

# mypy: disable-error-code="attr-defined,type-arg,no-untyped-call"

import gc
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import numpy as np
from numba.core.runtime import _nrt_python as nrt
from numba.core.runtime import rtsys
from numpy.typing import NDArray

from ixy_vfio.bench.clock import frequency
from ixy_vfio.bench.model import BENCH, deliver, transmit
from ixy_vfio.bench.sides import Side
from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import cycles, record_at, words64_at

U = np.uint64
SUB = 5  # bits: a bin is at most 1/32 wide of its value
BINS = 64 << SUB
BATCH = 32
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999)
PAUSE_NS = 100_000


@inlined
def _bin(value: Any) -> Any:
    """Bins as wide as 1 up to 2**SUB, then 2**SUB of them between each two powers of two."""
    if value < U(1 << SUB):
        return value
    top = U(SUB)
    while value >> (top + U(1)) != U(0):
        top += U(1)
    shift = top - U(SUB)
    return ((shift + U(1)) << U(SUB)) + ((value >> shift) - U(1 << SUB))


def lower_edge(index: int) -> int:
    """The smallest value of a bin."""
    if index < 1 << SUB:
        return index
    shift = (index >> SUB) - 1
    return ((1 << SUB) + (index & ((1 << SUB) - 1))) << shift


@compiled
def simulate(bench: Any, driver: Any, state: Any, interval: Any, count: Any, bins: Any, pause: Any) -> Any:
    """Forward `count` packets a port, due every `interval` cycles / 256. Returns clock, pauses, the longest one."""
    both = record_at(bench, BENCH)
    histogram = words64_at(bins, BINS)
    pauses = longest = usual = U(0)
    overhead = U(1 << 40)
    for _ in range(1000):
        begin = cycles()
        overhead = min(overhead, cycles() - begin)
    now = U(0)
    sent = U(0)
    first_received = (both.nics[0].received, both.nics[1].received)
    first_sent = (both.nics[0].sent, both.nics[1].sent)
    while sent < U(2) * U(count):
        due = min((now << U(8)) // U(interval) + U(1), U(count))
        for i in range(2):
            nic = both.nics[i]
            deliver(nic, due - (nic.received - first_received[i]))
        begin = cycles()
        driver(U(state))
        took = cycles() - begin
        longest = max(longest, took)
        if took > U(pause):
            pauses += U(1)
            took = usual
        usual = took
        now += took - min(took, overhead)
        for i in range(2):
            nic = both.nics[i]
            number = nic.sent - first_sent[i]
            for k in range(transmit(nic)):
                at = (number + U(k)) * U(interval) >> U(8)
                histogram[_bin(now - min(at, now))] += U(1)
                sent += U(1)
    return now, pauses, longest


@compiled
def gaps(duration: Any, threshold: Any, result: Any) -> None:
    """Read the clock for `duration` cycles. result: time, pauses longer than `threshold`, longest."""
    begin = cycles()
    last = begin
    while last - begin < U(duration):
        now = cycles()
        if now - last > U(threshold):
            result[1] += U(1)
        result[2] = max(result[2], now - last)
        last = now
    result[0] = last - begin


def percentiles(histogram: NDArray[np.uint64]) -> dict[str, float]:
    """In ns, by name; the upper edge of the bin."""
    total = np.cumsum(histogram)
    scale = frequency()
    return {
        f"p{wanted:g}": lower_edge(int(np.searchsorted(total, total[-1] * wanted / 100)) + 1) / scale
        for wanted in PERCENTILES
    }


def ccdf(histogram: NDArray[np.uint64]) -> list[tuple[float, float]]:
    """(ns, share of packets that took longer) at each bin that holds some."""
    total = int(histogram.sum())
    longer = total - np.cumsum(histogram)
    scale = frequency()
    return [(lower_edge(int(i) + 1) / scale, int(longer[i]) / total) for i in np.flatnonzero(histogram)]


class Collections:
    """Counts garbage collections, and allocations of compiled code, for the time of a `with` block."""

    def __enter__(self) -> "Collections":
        self.collections = 0
        gc.collect()  # or what was allocated before could be collected in the block
        gc.callbacks.append(self._collected)
        nrt.memsys_enable_stats()
        self._before = rtsys.get_allocation_stats()
        return self

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        self.collections += phase == "start"

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collected)
        self.allocations = int(rtsys.get_allocation_stats().alloc - self._before.alloc)


def capacity(side: Side) -> float:
    """ns a packet when there is always more to forward, measured as `at_load` measures."""
    side.configure(BATCH, BATCH)
    bins: NDArray[np.uint64] = np.zeros(BINS, np.uint64)
    pause = int(PAUSE_NS * frequency())
    arguments = (int(side.bench.ctypes.data), side.driver, side.state, 1, 20_000, int(bins.ctypes.data), pause)
    clocks = [simulate(*arguments)[0] for _ in range(9)]
    return float(np.median(clocks)) / frequency() / 40_000


def at_load(side: Side, load: float, capacity_ns: float, packets: int) -> dict[str, Any]:
    """The latency of a side at a share `load` of what it can do (`capacity_ns` a packet)."""
    side.configure(BATCH, BATCH)  # one poll of each port a call
    interval = 2 * capacity_ns / load * frequency()  # each of the two ports brings half
    histogram: NDArray[np.uint64] = np.zeros(BINS, np.uint64)
    pause = int(PAUSE_NS * frequency())
    arguments = (int(side.bench.ctypes.data), side.driver, side.state, round(interval * 256))
    simulate(*arguments, 1000, int(histogram.ctypes.data), pause)  # warm, and compiled
    histogram[:] = 0
    with Collections() as counter:
        clock, pauses, longest = simulate(*arguments, packets // 2, int(histogram.ctypes.data), pause)
    seconds = float(clock) / frequency() / 1e9
    return {
        "side": side.name,
        "load": load,
        "mpps": packets / seconds / 1e6,
        "packets": packets,
        "seconds": seconds,
        "percentiles": percentiles(histogram),
        "pauses": int(pauses),
        "longest_us": float(longest) / frequency() / 1e3,
        "collections": counter.collections,
        "allocations": counter.allocations,
        "ccdf": ccdf(histogram),
    }


def idle_pauses(seconds: float) -> dict[str, Any]:
    """How often this machine stops a loop that does nothing."""
    result: NDArray[np.uint64] = np.zeros(3, np.uint64)
    scale = frequency()
    gaps(int(seconds * 1e9 * scale), int(PAUSE_NS * scale), result)
    return {
        "seconds": float(result[0]) / scale / 1e9,
        "pauses": int(result[1]),
        "longest_us": float(result[2]) / scale / 1e3,
    }
