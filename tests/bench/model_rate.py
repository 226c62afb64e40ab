"""How fast the simulated NIC is by itself: packets it receives by DMA into memory and transmits from it, both ways.

`ends`: generator -> receive of one port, transmit of the other -> sink. `cable`: two ports back to back, so that no
generator and no sink is in it. Between receive and transmit stands a compiled stub that is no driver: it swaps
finished buffers between two rings and knows nothing else.

All figures divide by CPU time of this process, not by the clock: on a machine that others use too they say what the
model costs, not what passed. The model's share is the time in `DataPlane.step`, its call from Python included; the
stub's is what is left, loop and clock reads too. Cache misses that the one causes the other are not told apart.
`python -m tests.bench.model_rate` prints two lines a size.
"""

import argparse
import time
from typing import Any, NamedTuple

import dpkt
import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.unsafe import load_acquire, store_release
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from tests.sim.dataplane_rig import IOVA, MAC, OTHER, Rig

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


class Result(NamedTuple):
    """CPU time in ns a packet: of the model, and of model and stub together."""

    model: float
    total: float


def bench(sizes: str, back_to_back: bool) -> tuple[DataPlane, list[Rig], list[tuple[NDArray[Any], ...]]]:
    """Two ports, and the ways that the stub forwards."""
    plane = DataPlane()
    ports = [Rig(plane, count=COUNT), Rig(plane, count=COUNT, mac=OTHER)]
    memory = np.zeros((RINGS + 4 * COUNT * STRIDE) // 8, np.uint64)
    for port in ports:
        port.port.dma.unmap_all()
        port.port.dma.map(IOVA, memory.nbytes, memory.ctypes.data, True, True)
        port.write(0x5080, 1 << 9)  # FCTRL.UPE: nobody changes addresses
    for spec in ["0:port:1"] if back_to_back else [f"{i}:gen:sizes={sizes},expect={1 - i},seed={i}" for i in (0, 1)]:
        plane.connect(parse_cable(spec))
    targets = ports if back_to_back else ports[::-1]
    ways = [Way(memory, port, target, i) for i, (port, target) in enumerate(zip(ports, targets, strict=True))]
    if back_to_back:
        for size in np.linspace(int(sizes.partition("-")[0]), int(sizes.rpartition("-")[2]), COUNT // 2).astype(int):
            for port in ports:
                port.from_wire(packet(int(size)))
    return plane, ports, [way.arguments() for way in ways]


def packet(size: int) -> bytes:
    """A UDP packet with sound checksums, as the generator sends them."""
    udp = dpkt.udp.UDP(sport=49152, dport=9, ulen=size - 34, data=bytes(size - 42))
    ip = dpkt.ip.IP(src=bytes([10, 18, 0, 1]), dst=bytes([10, 19, 0, 1]), p=17, len=size - 14, data=udp)
    return bytes(dpkt.ethernet.Ethernet(dst=MAC, src=OTHER, type=0x0800, data=ip))


def measure(sizes: str, seconds: float, budget: int, back_to_back: bool = False) -> Result:
    """Forward for so much CPU time. With generators, every packet was checked by a sink."""
    plane, ports, ways = bench(sizes, back_to_back)
    for way in ways:
        forward(*way)
    plane.step(budget)
    before, model, start = sum(port.port.statistics["GPTC"] for port in ports), 0, time.process_time_ns()
    while time.process_time_ns() - start < 1e9 * seconds:
        for _ in range(64):
            entered = time.process_time_ns()
            plane.step(budget)
            model += time.process_time_ns() - entered
            forward(*ways[0])
            forward(*ways[1])
    total = time.process_time_ns() - start
    packets = sum(port.port.statistics["GPTC"] for port in ports) - before
    assert all(not port.port.violations and not port.port.dma.misses for port in ports)
    if not back_to_back:
        states = [cable.status() for cable in plane.cables]
        wrong = ("lost", "corrupted", "duplicated", "reordered")
        assert all(state[name] == 0 for state in states for name in wrong), states
    return Result(model / packets, total / packets)


def main() -> None:
    """Print rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["60", "64-1514", "1514"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of CPU time, for each line")
    parser.add_argument("--budget", type=int, default=256)
    arguments = parser.parse_args()
    for sizes in arguments.sizes:
        for name in ("ends", "cable"):
            model, total = measure(sizes, arguments.seconds, arguments.budget, name == "cable")
            print(f"{sizes:>8} bytes, {name:>5}: model {1e3 / model:6.2f} Mpps, {model:6.1f} ns a packet;", end=" ")
            print(f"with the stub {1e3 / total:6.2f} Mpps, {total:6.1f} ns")


if __name__ == "__main__":
    main()
