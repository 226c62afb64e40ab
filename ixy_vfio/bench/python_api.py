"""What people get who drive batches, or packets, from Python themselves."""

# mypy: disable-error-code="type-arg"

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ixy_vfio.apps.kernels import TOUCHED
from ixy_vfio.bench import model
from ixy_vfio.bench.measure import WrongOutput
from ixy_vfio.bench.sides import Product
from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.pool import HEADROOM, STRIDE
from ixy_vfio.runtime.session import Port
from ixy_vfio.runtime.worker import loop_state

Forward = Callable[[], int]  # one batch in each direction; returns the packets


@compiled
def touch_batch(arena: Any, indices: Any) -> None:
    """Change one byte of each packet; `arena` is uint8[buffers, STRIDE]."""
    for i in range(indices.size):
        arena[indices[i], HEADROOM + TOUCHED] += 1


def _ports(side: Product) -> tuple[Port, Port]:
    """The public API's ports, without a device."""
    ports = (Port.__new__(Port), Port.__new__(Port))
    for port, pair in zip(ports, side.pairs, strict=True):
        port.pair = pair
    return ports


def per_batch(side: Product, batch: int) -> Forward:
    """`Port.rx`, a compiled function over the batch, `Port.tx`."""
    arena = np.frombuffer(side.memory.mapping.view, np.uint8, side.pool.capacity * STRIDE, side.rings)
    arena = arena.reshape(-1, STRIDE)
    a, b = _ports(side)

    def one(source: Port, target: Port) -> int:
        packets = source.rx(batch)
        count = len(packets)
        if count:
            touch_batch(arena, packets.indices)
            target.tx(packets)
        return count

    return lambda: one(a, b) + one(b, a)


def one_call(side: Product, batch: int) -> Forward:
    """The forwarding loop, asked for one batch a call."""
    a, b = side.pairs
    kept = [loop_state(*pair, batch, both=False) for pair in ((a, b), (b, a))]
    (there, _), (back, _) = kept
    for state, _ in kept:
        state["rounds"] = 1
    loop = side.loop

    def forward(kept: Any = kept) -> int:
        return loop(there) + loop(back)

    return forward


def packet_loop(side: Product, batch: int) -> Forward:
    """The beginner's way: a Python loop over the packets of each batch."""
    a, b = _ports(side)

    def one(source: Port, target: Port) -> int:
        packets = source.rx(batch)
        for packet in packets:
            packet[TOUCHED] += 1
        count = len(packets)
        target.tx(packets)
        return count

    return lambda: one(a, b) + one(b, a)


WAYS: dict[str, Callable[[Product, int], Forward]] = {
    "Python, one call a batch": one_call,
    "Python, rx and tx a batch": per_batch,
    "Python, loop per packet": packet_loop,
}


def sample(side: Product, forward: Forward, batch: int, packets: int) -> float:
    """ns a packet of the Python code, for about so many packets."""
    bench = int(side.bench.ctypes.data)
    burst = int(side.bench["burst"][0])
    clock = time.perf_counter_ns
    spent = moved = 0
    times = max(1, packets // (2 * burst))
    rounds = range(max(1, burst // batch))
    for _ in range(times):
        model.step(bench)
        begin = clock()
        for _ in rounds:
            moved += forward()
        spent += clock() - begin
    if moved != 2 * burst * times:
        raise WrongOutput(f"{side.name}: forwarded {moved} of {2 * burst * times} packets")
    return spent / moved
