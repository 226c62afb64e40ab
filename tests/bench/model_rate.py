"""How fast the simulated NIC is by itself: generator -> receive of one port, transmit of the other -> sink, both ways.

Between the ports stands a compiled stub that is no driver: it swaps finished buffers between two rings and knows
nothing else, so that nearly all of the time is the model's. `python -m tests.bench.model_rate` prints a line a size.
"""

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.unsafe import load_acquire, store_release
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from tests.sim.dataplane_rig import IOVA, OTHER, Rig

COUNT, STRIDE = 512, 2112  # descriptors of a ring; bytes from buffer to buffer
RINGS = 4 * 16 * COUNT
_PLAIN = 0x2330_0000  # DEXT, IFCS, EOP, DTYP = data
_RS = 0x0800_0000


@compiled
def forward(receive: Any, transmit: Any, rx_buffers: Any, tx_buffers: Any, state: Any, rdt: Any, tdt: Any) -> None:
    """Send every received packet, and give its place to the buffer that the transmit slot sent last.

    `state` has the next receive slot, the next transmit slot and how many packets are being sent.
    """
    rx, tx, busy, start = state[0], state[1], state[2], state[0]
    while busy and load_acquire(transmit, 2 * ((tx - busy) & (COUNT - 1)) + 1) == np.uint64(1 << 32):
        busy -= 1
    while busy < COUNT - 1:
        done = load_acquire(receive, 2 * rx + 1)
        if not done & np.uint64(1):
            break
        length = done >> np.uint64(32) & np.uint64(0xFFFF)
        rx_buffers[rx], tx_buffers[tx] = tx_buffers[tx], rx_buffers[rx]
        transmit[2 * tx] = tx_buffers[tx]
        store_release(transmit, 2 * tx + 1, length | length << np.uint64(46) | np.uint64(_PLAIN | _RS))
        receive[2 * rx] = rx_buffers[rx]
        store_release(receive, 2 * rx + 1, np.uint64(0))
        rx, tx, busy = (rx + 1) & (COUNT - 1), (tx + 1) & (COUNT - 1), busy + 1
    state[0], state[1], state[2] = rx, tx, busy
    if rx != start:
        store_release(rdt, 0, np.uint32((rx - 1) & (COUNT - 1)))
        store_release(tdt, 0, np.uint32(tx))


class Way:
    """One direction: receive ring of one port, transmit ring of the other."""

    def __init__(self, memory: NDArray[np.uint64], source: Rig, target: Rig, index: int) -> None:
        rings = [(2 * index + i) * 16 * COUNT for i in range(2)]
        self.receive, self.transmit = (memory[at // 8 : at // 8 + 2 * COUNT] for at in rings)
        first = IOVA + RINGS + 2 * index * COUNT * STRIDE + 64
        buffers = (first + STRIDE * np.arange(2 * COUNT)).astype(np.uint64)
        self.rx_buffers, self.tx_buffers = buffers[:COUNT].copy(), buffers[COUNT:].copy()
        self.receive[0::2] = self.rx_buffers
        self.state = np.zeros(3, np.int64)
        self.rdt, self.tdt = source.registers[0x1018 // 4 :][:1], target.registers[0x6018 // 4 :][:1]
        source.start_receive(ring=rings[0])
        target.start_transmit(ring=rings[1])
        source.plane.step()
        self.rdt[0] = COUNT - 1

    def arguments(self) -> tuple[NDArray[Any], ...]:
        """What `forward` takes."""
        return self.receive, self.transmit, self.rx_buffers, self.tx_buffers, self.state, self.rdt, self.tdt


def measure(sizes: str, seconds: float, budget: int) -> float:
    """Packets forwarded per second, both ways together; every one of them was checked by a sink."""
    plane = DataPlane()
    ports = Rig(plane, count=COUNT), Rig(plane, count=COUNT, mac=OTHER)
    memory = np.zeros((RINGS + 4 * COUNT * STRIDE) // 8, np.uint64)
    for number, port in enumerate(ports):
        port.port.dma.unmap_all()
        port.port.dma.map(IOVA, memory.nbytes, memory.ctypes.data, True, True)
        plane.connect(parse_cable(f"{number}:gen:sizes={sizes},expect={1 - number},seed={number}"))
    ways = Way(memory, ports[0], ports[1], 0).arguments(), Way(memory, ports[1], ports[0], 1).arguments()
    for way in ways:
        forward(*way)
    steps, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(64):
            plane.step(budget)
            forward(*ways[0])
            forward(*ways[1])
        steps += 64
    elapsed = time.process_time() - start
    states = [cable.status() for cable in plane.cables]
    assert all(state[name] == 0 for state in states for name in ("lost", "corrupted", "duplicated", "reordered")), (
        states
    )
    assert all(not port.port.violations for port in ports)
    return sum(int(str(state["unique"])) for state in states) / elapsed


def main() -> None:
    """Print rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["60", "64-1514", "1514"])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--budget", type=int, default=256)
    arguments = parser.parse_args()
    for sizes in arguments.sizes:
        rate = measure(sizes, arguments.seconds, arguments.budget)
        print(f"{sizes:>8} bytes: {rate / 1e6:6.2f} Mpps, {1e9 / rate:6.1f} ns a packet (receive, transmit, both ends)")


if __name__ == "__main__":
    main()
