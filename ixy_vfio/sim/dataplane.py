"""The data plane of the simulated ports: what moves packets, compiled, behind a few Python objects.

The device model (registers, interrupts, vfio-user) makes one `DataPlane`, adds its ports, and calls `step` in turn
with its messages: nothing here runs beside it. Register values are read from the port's array at each step.
"""

from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import records_at
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim import state
from ixy_vfio.sim.dma import DmaTable
from ixy_vfio.sim.frames import CAPACITY, accept_all, pop_frame, push_frame
from ixy_vfio.sim.generator import generate, sink
from ixy_vfio.sim.mac import receive_from_wire
from ixy_vfio.sim.receive import receive
from ixy_vfio.sim.state import FIFO, FLOW, MAX_PORTS, PORT, QUEUE, QUEUES, Int
from ixy_vfio.sim.transmit import transmit
from ixy_vfio.wires.cable import Cable
from ixy_vfio.wires.files import Files

_RXCTRL = ixgbe.RXCTRL.offset() // 4


class Statistics:
    """The counters of a port by register name ("GPRC", "GORC", "QPRC0", "RXMPC0" or "MPC", ...).

    `values` is the array itself; the compiled data plane adds to it, the device model clears it on a read.
    """

    def __init__(self, values: NDArray[np.uint64]) -> None:
        self.values = values

    index = state.COUNTER_INDEX

    def __getitem__(self, name: str) -> int:
        return int(self.values[self.index[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self.values[self.index[name]] = value

    def __contains__(self, name: str) -> bool:
        return name in self.index

    def nonzero(self) -> dict[str, int]:
        """All counters that are not 0."""
        return {name: int(value) for name, value in zip(state.COUNTERS, self.values, strict=True) if value}


class Port:
    """One simulated port: its queues, its DMA windows, its end of a cable."""

    def __init__(self, plane: "DataPlane", number: int, registers: NDArray[np.uint32]) -> None:
        if registers.dtype != np.uint32 or registers.size != ixgbe.BAR0_SIZE // 4 or not registers.flags.c_contiguous:
            raise UsageError(f"registers: give {ixgbe.BAR0_SIZE // 4} contiguous 32-bit words")
        self.number = number
        self.registers = registers
        self.cable: Cable | None = None
        self._plane = plane
        self._record = plane.ports_state[number]
        self.address: int = plane.ports_state[number:].ctypes.data  # of the record, for compiled code
        self._record["registers"] = registers.ctypes.data
        self._record["outgoing"] = state.NO_CABLE
        self._wired = state.NO_CABLE  # `outgoing` without loopback
        self._drained = 0
        self._violations: list[str] = []
        self.dma = DmaTable(self._record)
        self.statistics = Statistics(self._record["statistics"])
        self.receive_causes: NDArray[np.uint8] = self._record["receive_causes"]
        self.transmit_causes: NDArray[np.uint8] = self._record["transmit_causes"]

    @property
    def bus_master(self) -> bool:
        """Whether the device may do DMA at all."""
        return bool(self._record["bus_master"])

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self._record["bus_master"] = on

    @property
    def link_up(self) -> bool:
        """Whether frames pass between port and cable."""
        return bool(self._record["link_up"])

    @link_up.setter
    def link_up(self, up: bool) -> None:
        self._record["link_up"] = up

    @property
    def loopback(self) -> bool:
        """Whether what the port sends comes back to it (HLREG0.LPBK), and nothing goes to the cable."""
        return int(self._record["outgoing"]) == self.number

    @loopback.setter
    def loopback(self, on: bool) -> None:
        if on != self.loopback:
            self._wired, self._record["outgoing"] = (
                (int(self._record["outgoing"]), self.number) if on else (self._wired, self._wired)
            )

    @property
    def carrier(self) -> bool:
        """Whether there is a cable with a living far end (what the link can come up on)."""
        return self.cable is not None and self.cable.alive

    @property
    def violations(self) -> list[str]:
        """Rules of the book that the driver broke. The caller may clear the list."""
        record = self._record
        count = int(record["violations"])
        lost = max(0, count - self._drained - state.VIOLATIONS_KEPT)
        if lost:
            self._violations.append(f"{lost} violations more than were kept")
        for number in range(self._drained + lost, count):
            at = 3 * (number % state.VIOLATIONS_KEPT)
            kind, queue, value = (int(word) for word in record["violated"][at : at + 3])
            self._violations.append(f"queue {queue}: {tuple(state.Violation)[kind].text} ({value:#x})")
        self._drained = count
        return self._violations

    def reset(self) -> None:
        """Forget all queue state, causes and buffered frames, as a device reset does. Statistics are kept."""
        self._plane.reset_port(self.number)

    def connect(self, cable: Cable) -> None:
        """Put `cable` into this port. The other end of a port-to-port cable is put into its port by the same call."""
        self._plane.connect(cable)


class DataPlane:
    """All ports and cables, and the step that moves packets."""

    def __init__(self) -> None:
        self.ports_state = np.zeros(state.MAX_PORTS, state.PORT)
        self.receive_queues = np.zeros((state.MAX_PORTS, state.QUEUES), state.QUEUE)
        self.transmit_queues = np.zeros((state.MAX_PORTS, state.QUEUES), state.QUEUE)
        self.fifos = np.zeros(2 * state.MAX_PORTS, state.FIFO)
        self.flows = np.zeros(state.MAX_PORTS, state.FLOW)
        records = (self.ports_state, self.receive_queues, self.transmit_queues, self.fifos, self.flows)
        self._table = np.array([array.ctypes.data for array in records], np.uint64)
        self.clock = monotonic_ns
        self._memory: list[NDArray[np.uint64]] = []  # what addresses in the records point to
        self.ports: list[Port] = []
        self.cables: list[Cable] = []
        self._outside: list[Cable] = []
        self.files = Files()
        self.notes: list[str] = []  # what is to be told, a line each; who tells it empties the list
        self.hostile: dict[int, Callable[[], None]] = {}  # by port: what a hostile one does at each step

    def _allocate(self, size: int) -> int:
        self._memory.append(np.zeros(size // 8, np.uint64))
        return self._memory[-1].ctypes.data

    def add_port(self, registers: NDArray[np.uint32]) -> Port:
        """A port whose BAR0 is `registers`, 32-bit words indexed by offset // 4. Raises UsageError above 32 ports."""
        if len(self.ports) == state.MAX_PORTS:
            raise UsageError(f"there can be {state.MAX_PORTS} simulated ports at most")
        port = Port(self, len(self.ports), registers)
        for number in (port.number, state.MAX_PORTS + port.number):
            self.fifos[number]["data"] = self._allocate(CAPACITY)
            self.fifos[number]["capacity"] = CAPACITY
        self.ports_state[port.number]["scratch"] = self._allocate(state.SCRATCH)
        self.ports.append(port)
        return port

    def step(self, budget: int = 256) -> int:
        """One bounded step over all ports and cables; returns how many packets were moved."""
        moved = sum(cable.bring(self, budget) for cable in self._outside)
        moved += int(run(self._table, len(self.ports), self.clock(), budget))
        for attack in self.hostile.values():
            attack()
        return moved + sum(cable.take(self, budget) for cable in self._outside)

    def connect(self, cable: Cable) -> None:
        """Put `cable` into the ports it names. Raises UsageError when one is not there or has a cable already."""
        for number in cable.ports:
            if number >= len(self.ports):
                raise UsageError(f"cable {cable.spec}: there is no port {number}")
            if self.ports[number].cable is not None:
                raise UsageError(f"cable {cable.spec}: port {number} has a cable already")
        cable.attach(self)
        cable.plane = self
        self.cables.append(cable)
        for number in cable.ports:
            self.ports[number].cable = cable
            self.ports_state[number]["outgoing"] = state.MAX_PORTS + number
        if len(cable.ports) == 2:
            one, other = cable.ports
            self.ports_state[one]["outgoing"], self.ports_state[other]["outgoing"] = other, one
        elif cable.outside:
            self._outside.append(cable)

    def push(self, port: int, frame: NDArray[np.uint8], length: int) -> bool:
        """A frame arrives at a port; False when its packet buffer has no room."""
        return bool(push_frame(self.fifos, port, frame, length))

    def pop(self, port: int, into: NDArray[np.uint8]) -> int:
        """The next frame that a port has sent into its cable; its length, or -1."""
        return int(pop_frame(self.fifos, state.MAX_PORTS + port, into))

    def waiting(self, port: int) -> int:
        """Frames in a port's packet buffer."""
        return int(self.fifos[port]["frames"])

    def receives(self, port: int) -> bool:
        """Whether a port has a link and a queue that receives."""
        one = self.ports[port]
        return bool(one.link_up and int(one.registers[_RXCTRL]) & 1 and self.ports_state[port]["receive_enabled"].any())

    def filenos(self) -> Sequence[int]:
        """File descriptors to wait for when `step` had nothing to do."""
        return [fd for cable in self.cables for fd in cable.filenos()]

    def reset_port(self, number: int) -> None:
        """What `Port.reset` does."""
        self.receive_queues[number] = self.transmit_queues[number] = np.zeros((), state.QUEUE)
        record = self.ports_state[number]
        for name in ("receive_causes", "transmit_causes", "receive_tails", "receive_enabled", "transmit_tails"):
            record[name][:] = 0
        record["transmit_enabled"][:] = 0
        record["reported"] = 0
        for name in ("head", "tail", "checked", "frames", "pending", "bytes"):
            self.fifos[number][name] = 0

    def close(self) -> None:
        """Close every cable."""
        for cable in self.cables:
            cable.close()


@compiled
def run(table: Any, count: Int, now: Int, budget: Int) -> Int:
    """One step: generators and ports send, what is on the wire passes the MACs, ports receive, sinks take.

    `table` holds the addresses of the data plane's records: NumPy structures as arguments take far longer to pass.
    """
    ports, moved = records_at(table[0], MAX_PORTS, PORT), np.intp(0)
    receive_queues = records_at(table[1], MAX_PORTS * QUEUES, QUEUE)
    transmit_queues = records_at(table[2], MAX_PORTS * QUEUES, QUEUE)
    fifos, flows = records_at(table[3], 2 * MAX_PORTS, FIFO), records_at(table[4], MAX_PORTS, FLOW)
    for i in range(count):
        queues = receive_queues[i * QUEUES : (i + 1) * QUEUES]
        if flows[i].active:
            moved += generate(flows[i], ports[i], queues, fifos[i], now, budget)
        moved += transmit(ports[i], transmit_queues[i * QUEUES : (i + 1) * QUEUES], fifos, budget)
    for i in range(count):
        queues = receive_queues[i * QUEUES : (i + 1) * QUEUES]
        if fifos[i].pending:
            receive_from_wire(ports[i], fifos[i])
        moved += receive(ports[i], queues, fifos[i], budget)
        accept_all(fifos[MAX_PORTS + i])
        if flows[i].active:
            moved += sink(flows[i], flows, ports[i], fifos[MAX_PORTS + i], now, 2 * budget)
    return moved
