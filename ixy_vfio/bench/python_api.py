"""What people get who drive batches, or packets, from Python themselves."""

# mypy: disable-error-code="type-arg"

import functools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from ixy_vfio.bench import model
from ixy_vfio.bench.measure import WrongOutput
from ixy_vfio.bench.sides import Product
from ixy_vfio.datapath.kernels import TOUCHED, touch
from ixy_vfio.drivers.contract import NetDevice, PortConfig
from ixy_vfio.runtime.batch import Batch, Kernel, kernel
from ixy_vfio.runtime.session import Port

Forward = Callable[[], int]  # one batch in each direction; returns the packets


def _ports(side: Product) -> tuple[Port, Port]:
    """The public API's ports, on devices that are there in name only."""
    device = cast(NetDevice, SimpleNamespace(config=PortConfig()))
    a, b = (Port(device, pair) for pair in side.pairs)
    return a, b


@functools.cache
def _touch() -> Kernel:
    return kernel(touch)


def per_batch(side: Product, batch: int) -> Forward:
    """`Port.receiver`, a compiled kernel over the batch, `Port.sender`."""
    (a, b), packets = _ports(side), Batch(side.pool, batch)
    work = _touch().on(packets)
    receive, send = a.receiver(packets), b.sender(packets)
    receive_back, send_back = b.receiver(packets), a.sender(packets)

    def forward() -> int:
        count = receive()
        work()
        send()
        back = receive_back()
        work()
        send_back()
        return count + back

    return forward


def per_method(side: Product, batch: int) -> Forward:
    """`Port.rx_into`, the kernel, `Port.tx`."""
    (a, b), packets, touch_batch = _ports(side), Batch(side.pool, batch), _touch()

    def forward() -> int:
        count = a.rx_into(packets)
        touch_batch(packets)
        b.tx(packets)
        back = b.rx_into(packets)
        touch_batch(packets)
        a.tx(packets)
        return count + back

    return forward


def per_new_batch(side: Product, batch: int) -> Forward:
    """The same with `Port.rx`, which makes a new `Batch` each time."""
    (a, b), touch_batch = _ports(side), _touch()

    def one(source: Port, target: Port) -> int:
        packets = source.rx(batch)
        count = touch_batch(packets)
        target.tx(packets)
        return count

    return lambda: one(a, b) + one(b, a)


def one_call(side: Product, batch: int) -> Forward:
    """`Port.forwarder`: one batch a call."""
    a, b = _ports(side)
    there, back = a.forwarder(touch, b, batch=batch), b.forwarder(touch, a, batch=batch)
    return lambda: there() + back()


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


ONE_CALL, THREE_CALLS = "Python, one call a batch", "Python, three calls a batch"
METHODS, NEW_BATCH = "Python, three methods a batch", "Python, three methods, new batches"
PER_PACKET = "Python, loop per packet"
WAYS: dict[str, Callable[[Product, int], Forward]] = {
    ONE_CALL: one_call,  # forwarder
    THREE_CALLS: per_batch,  # receiver, kernel, sender
    METHODS: per_method,  # rx_into, kernel, tx
    NEW_BATCH: per_new_batch,  # rx, kernel, tx
    PER_PACKET: packet_loop,
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
