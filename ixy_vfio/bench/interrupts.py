"""What sleeping costs: latency at 1 % of 10 Gbit/s, with workers that sleep until an interrupt and workers that poll.

Whole processes on both sides of a socket: the simulator's generator stamps each packet, its sink reads the clock when
the packet is back. The two modes take turns; the ratio is the median of those of the turns. A simulated port that may
interrupt takes longer for each packet than one that may not, and that is in the ratio, too.
"""

import time
from statistics import median
from typing import Any

from ixy_vfio.bench.system import PORTS, NotMeasured, running, simulator
from ixy_vfio.core.temporary import workplace
from ixy_vfio.sim.ask import ask

ROUNDS = 7  # the 99th percentile of one run is often that of the machine's pauses
SECONDS = 1.0
MPPS = 0.149  # 1 % of 14.88 million packets of 60 bytes, in each direction
CABLES = [f"{port}:gen:sizes=60,pace={MPPS},expect={1 - port}" for port in (0, 1)]


def percentile(histogram: dict[int, int], share: float) -> float:
    """The latency that `share` of the packets did not exceed: the lower bound of its bucket."""
    wanted = share * sum(histogram.values())
    seen = 0
    for least, count in sorted(histogram.items()):
        seen += count
        if seen >= wanted:
            return float(least)
    raise NotMeasured("no packet came back")


def _histogram(idle: str) -> dict[int, int]:
    """Latencies in ns of both directions, in one run."""
    with (
        workplace("ixy_vfio-bench-") as directory,
        simulator(directory / "sim", CABLES) as helper,
    ):
        words = ["--helper", str(helper), "--quiet", "--announce", "--idle", idle]
        with running("forward", "forwarding", "forward", *PORTS, *words):
            time.sleep(SECONDS)
            cables = ask(helper.parent / "control.sock", cmd="cables")["cables"]
    together: dict[int, int] = {}
    for cable in cables:
        for least, count in cable.get("latency_ns", {"histogram": {}})["histogram"].items():
            together[int(least)] = together.get(int(least), 0) + count
    return together


def measure() -> dict[str, Any]:
    """`sleep_p99_ratio`, the median of the rounds, and the median of each side in microseconds."""
    found: dict[str, list[float]] = {"poll": [], "sleep": []}
    for _ in range(ROUNDS):
        for idle, latencies in found.items():
            latencies.append(percentile(_histogram(idle), 0.99) / 1000)
    ratio = median(sleep / poll for sleep, poll in zip(found["sleep"], found["poll"], strict=True))
    return {"sleep_p99_us": median(found["sleep"]), "poll_p99_us": median(found["poll"]), "sleep_p99_ratio": ratio}
