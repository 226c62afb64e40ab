"""What people get who drive batches, or packets, from Python themselves."""

# mypy: disable-error-code="type-arg"

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.apps.kernels import TOUCHED
from ixy_vfio.bench import model
from ixy_vfio.bench.measure import WrongOutput
from ixy_vfio.bench.sides import Product
from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.pool import HEADROOM, STRIDE
from ixy_vfio.ixgbe.datapath import receive_batch, send_batch
from ixy_vfio.runtime.worker import loop_state

Forward = Callable[[], int]  # one batch in each direction; returns the packets


@compiled
def touch_batch(arena: Any, indices: Any, count: int) -> None:
    """Change one byte of each packet; `arena` is uint8[buffers, STRIDE]."""
    for i in range(count):
        arena[indices[i], HEADROOM + TOUCHED] += 1


def _batch(side: Product, batch: int) -> NDArray[np.uint32]:
    return np.zeros((2, batch), np.uint32)


def three_calls(side: Product, batch: int) -> Forward:
    """Receive a batch, touch it, send it: three calls of compiled code."""
    packets = _batch(side, batch)
    indices = packets[0]
    arena = np.frombuffer(side.memory.mapping.view, np.uint8, side.pool.capacity * STRIDE, side.rings)
    arena = arena.reshape(-1, STRIDE)
    a, b = (pair.state for pair in side.pairs)

    def one(source: NDArray[Any], target: NDArray[Any]) -> int:
        count: int = receive_batch(source, packets)
        if count:
            touch_batch(arena, indices, count)
            send_batch(target, packets, count)
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
    packets = _batch(side, batch)
    data = side.pool.data
    a, b = (pair.state for pair in side.pairs)

    def one(source: NDArray[Any], target: NDArray[Any]) -> int:
        count: int = receive_batch(source, packets)
        for index, length in zip(packets[0, :count].tolist(), packets[1, :count].tolist(), strict=True):
            data(index, length)[TOUCHED] += 1
        send_batch(target, packets, count)
        return count

    return lambda: one(a, b) + one(b, a)


WAYS: dict[str, Callable[[Product, int], Forward]] = {
    "Python, one call a batch": one_call,
    "Python, three calls a batch": three_calls,
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
