"""What a forwarded packet costs the driver, by batch size: nanoseconds, on this machine.

    python -m tests.bench.driver_rate [--kernel touch] [--ring 512] [--rounds 300]

Two model NICs are stepped inline, in the same thread; only the driver's part is timed. Other load on the machine
shows up in the numbers: compare runs of one sitting only.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
from numba import njit

from ixy_vfio.core.unsafe import cycles
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.forwarding import loop_state
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.drivers.ixgbe.format import FORMAT
from tests.model_nic import World, deliver, transmit

BATCHES = (1, 4, 8, 16, 32, 64, 256)
PLAIN = 60 << 32 | 3


@njit(nogil=True)
def now() -> Any:
    return cycles()


def cycles_per_nanosecond() -> float:
    begin, before = time.perf_counter(), int(now())
    time.sleep(0.2)
    return (int(now()) - before) / (time.perf_counter() - begin) / 1e9


def measurement(loop: Any) -> Any:
    @njit(nogil=True)
    def measure(state: Any, a: Any, b: Any, rounds: int, burst: int) -> Any:
        spent = np.uint64(0)
        packets = 0
        for _ in range(rounds):
            deliver(a, burst, PLAIN, 60)
            deliver(b, burst, PLAIN, 60)
            begin = cycles()
            packets += loop(state)
            spent += cycles() - begin
            transmit(a, 2 * burst)
            transmit(b, 2 * burst)
        return spent, packets

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="touch")
    parser.add_argument("--ring", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    world = World(2, arguments.ring, 8192)
    for pair in world.pairs:
        pair.arm()
    measure = measurement(forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(arguments.kernel)))
    clock = cycles_per_nanosecond()
    costs: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(7):
        for batch in BATCHES:
            burst = min(256, arguments.ring // 2)
            state, scratch = loop_state(world.pairs[0], world.pairs[1], batch)
            state["rounds"], state["patience"] = max(burst // batch, 1), 1 << 60
            spent, packets = measure(state, world.nics[0], world.nics[1], arguments.rounds, burst)
            assert packets
            assert scratch.size  # keeps it alive
            costs[batch].append(float(spent) / packets / clock)
    world.check()
    for batch in BATCHES:
        print(f"batch {batch:3}: {statistics.median(costs[batch]):6.2f} ns/packet, best {min(costs[batch]):6.2f}")


if __name__ == "__main__":
    main()
