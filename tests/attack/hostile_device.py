"""The driver's control side against registers that lie: a simulated port in this process, and time that we turn.

No socket, no waiting: the same seed gives the same reads at the same times, so a life of a port replays exactly.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

from ixy_vfio.core import mmio
from ixy_vfio.core.errors import IxyError
from ixy_vfio.core.memory import DmaMemory, Mapping
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import init, link
from ixy_vfio.drivers.ixgbe.device import Ixgbe, ring_memory
from ixy_vfio.hw import ixgbe as hw
from ixy_vfio.sim.hostile_registers import Lies
from ixy_vfio.sim.nic import Nic
from ixy_vfio.transport import wire
from tests.sim.nic_rig import FakePort

ACCESS = 1e-6  # seconds that an access takes
TICK = 5e-4
# Seconds that a call may take, whatever the registers say: the sums of the driver's own deadlines.
BOUNDS = {"initialise": 8.0, "wait_link": 4.0, "stop": 2.0}
BOUND = 0.1  # of every other call


class Clock:
    """Stands in for the module `time`, and moves the port on as time passes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.turn: Callable[[float], object] = lambda now: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + TICK, end)
            self.turn(self.now)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in (mmio, init, link):
                stack.enter_context(mock.patch.object(module, "time", self))
            yield


class Bar:
    """BAR0 of the port, without a socket."""

    size = hw.BAR0_SIZE

    def __init__(self, nic: Nic, clock: Clock) -> None:
        self._nic, self._clock = nic, clock

    def _pass(self) -> None:
        self._clock.now += ACCESS
        self._nic.tick(self._clock.now)

    def read32(self, offset: int) -> int:
        self._pass()
        return int.from_bytes(self._nic.region_read(wire.BAR0_REGION, offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self._pass()
        self._nic.region_write(wire.BAR0_REGION, offset, value.to_bytes(4, "little"))

    def map(self, offset: int, size: int) -> Mapping:
        assert self._nic.memory.fd is not None
        return Mapping(self._nic.memory.fd, size, offset)


class Device:
    """The device around it."""

    address = "8259:00:00.0"
    msix_vectors = 64

    def __init__(self, nic: Nic, clock: Clock) -> None:
        self._nic = nic
        self.bar0 = Bar(nic, clock)

    def config_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._nic.region_read(wire.CONFIG_REGION, offset, size), "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        self._nic.region_write(wire.CONFIG_REGION, offset, value.to_bytes(size, "little"))

    def set_interrupts(self, eventfds: Sequence[int]) -> None:
        self._nic.msix.release()
        self._nic.msix.assign(0, [os.dup(fd) for fd in eventfds])
        self._nic.config.enable(wire.MSIX_IRQ, bool(eventfds))

    def reset(self) -> None:
        self._nic.full_reset()

    def close(self) -> None:
        self._nic.msix.release()


class Life:
    """One port, from its making to its end, as control leads it; `told` is what became of each call."""

    def __init__(self, seed: int, kinds: tuple[str, ...], config: PortConfig) -> None:
        self.clock = Clock()
        self.nic = Nic(0, self.clock.monotonic)
        self.nic.plug(FakePort())
        self.clock.turn = self.nic.tick
        self.clock.sleep(0.02)  # power is on
        self.device = Device(self.nic, self.clock)
        self.config = config
        self._rings = _rings(ring_memory(config))
        self._kinds, self._seed = kinds, seed
        self.told: list[tuple[str, str]] = []

    def lie(self) -> Lies:
        """From now on."""
        self.nic.hostile = lies = Lies(self._seed, self._kinds, self.nic)
        return lies

    def hostile(self) -> None:
        """All calls, with a device that lies. Only IxyErrors are caught."""
        with self.clock.in_use():
            lies = self.lie()
            self._live()
            self.nic.hostile = None
            lies.end()
            self.told.append(("lies", ", ".join(f"{count} {kind}" for kind, count in sorted(lies.told.items()))))

    def honest(self) -> Ixgbe:
        """The end of the lease, and the next one's begin: everything must work."""
        with self.clock.in_use():
            self.device.close()
            self.device.config_write(4, 2, 0)
            self.nic.full_reset()
            self.clock.sleep(0.02)
            port = Ixgbe(self.device, self.config, self._rings)
            port.initialise()
            assert port.wait_link(1.0).up
            port.enable_receive()
            port.counters()
            assert port.notes == []
            assert port.stop() == []
            port.close()
            return port

    def _live(self) -> None:
        made: list[Ixgbe] = []
        self._call("make", lambda: made.append(Ixgbe(self.device, self.config, self._rings)))
        if not made:
            return
        port = made[0]
        fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(self.config.queues + 1)]
        try:
            if self._call("initialise", port.initialise):
                self._call("mac", lambda: port.mac)
                for queue in range(self.config.queues):
                    self._call("queue", lambda queue=queue: port.queue(queue))  # type: ignore[misc]
                self._call("enable_interrupts", lambda: port.enable_interrupts(fds))
                self._call("wait_link", lambda: port.wait_link(1.0))
                self._call("enable_receive", port.enable_receive)
                for _ in range(3):
                    self._call("link", port.link)
                    self._call("counters", port.counters)
                    self._call("acknowledge_link", port.acknowledge_link)
                    self.clock.sleep(0.01)
                self._call("disable_interrupts", port.disable_interrupts)
            self._call("stop", port.stop)
            port.close()
        finally:
            for fd in fds:
                os.close(fd)

    def _call(self, name: str, call: Callable[[], object]) -> bool:
        begin = self.clock.now
        text = "done"
        try:
            call()
        except IxyError as error:
            text = f"{type(error).__name__}: {error}"
        self.told.append((name, text))
        assert text.isprintable()
        assert self.clock.now - begin <= BOUNDS.get(name, BOUND), f"{name}: {self.clock.now - begin:g} s"
        return text == "done"

    def close(self) -> None:
        self._rings.close()
        self.nic.close()


def _rings(size: int) -> DmaMemory:
    fd = os.memfd_create("rings", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        return DmaMemory(Mapping(fd, size), 0x1_0000_0000, size, 4096)
    finally:
        os.close(fd)
