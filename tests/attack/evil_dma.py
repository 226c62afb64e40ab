"""Attack code inside a sealed worker that makes the simulated NIC reach where the worker itself cannot.

The worker holds the rings and the queue pages of both ports, so it can give the NIC any address: of a buffer, of a
ring, of head write-back. Register offsets and descriptors are a third reading of the datasheet (7.1.6, 7.2.3,
8.2.3.9): the attacker needs no driver.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from ixy_vfio.core.errors import WorkerError
from ixy_vfio.runtime import worker
from ixy_vfio.runtime.control import Control
from ixy_vfio.runtime.plan import Plan
from ixy_vfio.runtime.worker import Job
from tests.attack.evil_worker import Told, own_connection
from tests.conftest import Simulator, address
from tests.programs import program_of

DMA_DEADLINE = 1.0  # seconds for what the NIC shall have done, or not
FRAME = bytes.fromhex("0200000000020200000000018889") + b"mapped".ljust(46, b".")
TDH, TDT, TXDCTL, TDBAL, TDLEN, TDWBAL = 0x6010, 0x6018, 0x6028, 0x6000, 0x6008, 0x6038
ENABLE = 1 << 25
RX_DD, TX_DD = 1 << 0, 1 << 32
# Data descriptor: EOP, IFCS, RS, DEXT; 60 bytes.
FRAME_COMMAND = 60 << 46 | 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29 | 60


class Evil:
    """In the place of the loop; `job` is set before the fork."""

    def __init__(self, attack: Callable[["Port"], str]) -> None:
        self.attack = attack
        self.job: Job | None = None

    def __call__(self, _: Any) -> int:
        assert self.job is not None
        raise Told(self.attack(Port(self.job)))


class Port:
    """What the attacker holds of the first port."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.queue = job.pairs[0].queue
        self.packets = job.pool.memory
        self.sent = 0  # by the attacker: the driver has sent nothing

    def register(self, offset: int) -> Any:
        """A register of the mapped pages, to be read and written."""
        page, start = (self.queue.tx_page, 0x6000) if offset >= 0x6000 else (self.queue.rx_page, 0x1000)
        return ctypes.c_uint32.from_address(page.address + offset - start)

    def descriptor(self, ring: int, index: int) -> Any:
        """Two 64-bit words."""
        return (ctypes.c_uint64 * 2).from_address(ring + 16 * index)

    def put(self, offset: int, data: bytes) -> int:
        """Write into packet memory; returns the IOVA."""
        ctypes.memmove(self.packets.address + offset, data, len(data))
        return self.packets.iova + offset

    def send(self, iova: int) -> Any:
        """Let the NIC send the 60 bytes there; the descriptor."""
        slot = self.descriptor(self.queue.tx.address, self.sent)
        slot[0], slot[1] = iova, FRAME_COMMAND
        self.sent += 1
        self.register(TDT).value = self.sent
        return slot


Target = Callable[[Port], int]
Attack = Callable[[Port], str]


def _page_before(*iovas: int) -> int:
    return min(iovas) // 4096 * 4096 - 4096


def _page_behind(*ends: int) -> int:
    return max(-(-end // 4096) * 4096 for end in ends)


# The interrupt controller: entry 0x1234 of the remapping table; the older format, that names a vector.
REMAPPABLE, COMPATIBLE = 0xFEE2_4690, 0xFEE0_0000
# Beside what the lease maps for the first port, and what it maps for the second one.
NEAR: dict[str, Target] = {
    "the page before the packets": lambda port: _page_before(port.packets.iova),
    "the page behind the packets": lambda port: _page_behind(port.packets.iova + port.packets.size),
    "the page before the rings": lambda port: _page_before(port.queue.rx.iova, port.queue.tx.iova),
    "the page behind the rings": lambda port: _page_behind(
        *(ring.iova + 16 * ring.descriptors for ring in (port.queue.rx, port.queue.tx))
    ),
    "the rings of the other port": lambda port: port.job.pairs[1].queue.tx.iova,
}


def run(sim: Simulator, attack: Attack, duration: float = 30.0, interval: float = 0.2) -> str:
    """Run `attack` in the worker of a lease of ports 0 and 1; what it told."""
    return run_evil(sim, Evil(attack), duration, interval)


def run_evil(sim: Simulator, one: Evil, duration: float = 30.0, interval: float = 0.2) -> str:
    """The same; `one` knows its job afterwards."""
    plan = Plan((address(0), address(1)), program_of(one, "evil"), helper=sim.helper, link_deadline=30.0)
    return drive(plan, one, duration, interval)


def drive(plan: Plan, evil: Evil, duration: float, interval: float = 0.2) -> str:
    """A whole run of control with the attack in its worker; what it told. LeaseError when the helper ends it."""
    real = worker.start

    def start(job: Job) -> Any:
        evil.job = job
        return real(job)

    worker.start = start
    try:
        with Control(plan) as running:
            assert all("seccomp" in one.seal.applied for one in running.workers)
            for _ in running.watch(interval, duration):
                pass
    except WorkerError as error:
        return str(error).partition("kernel evil: ")[2].removeprefix("Told: ") or str(error)
    finally:
        worker.start = real
    raise AssertionError("the attack told nothing")


def pause(seconds: float) -> None:
    """A sealed worker may not sleep."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.sched_yield()


def wait(ready: Callable[[], bool], seconds: float = 0.0) -> bool:
    """Whether it came true within the deadline."""
    end = time.monotonic() + (seconds or DMA_DEADLINE)
    while not ready():
        if time.monotonic() > end:
            return False
        pause(0.001)
    return True


def _done(descriptor: Any) -> bool:
    return wait(lambda: bool(descriptor[1] & TX_DD))


# Attacks take IOVAs of the attacker's choice, one after the other, and tell what came of each.


def transmit_from(*targets: Target) -> Attack:
    """Send 60 bytes that lie there."""

    def attack(port: Port) -> str:
        port.put(64, FRAME)
        slots = [port.send(target(port)) for target in targets]
        return ", ".join("reported done" if _done(slot) else "not reported" for slot in slots)

    return attack


def ring_at(*targets: Target) -> Attack:
    """Let the NIC fetch transmit descriptors from there."""

    def one(port: Port, iova: int) -> str:
        forged = port.put(64, FRAME).to_bytes(8, "little") + FRAME_COMMAND.to_bytes(8, "little")
        port.put(4096, forged)
        port.register(TXDCTL).value &= ~ENABLE
        pause(0.1)
        port.register(TDBAL).value, port.register(TDBAL + 4).value = iova & 0xFFFFFFFF, iova >> 32
        port.register(TDLEN).value = 1024
        port.register(TDH).value = port.register(TDT).value = 0
        port.register(TXDCTL).value |= ENABLE
        pause(0.1)
        port.register(TDT).value = 1
        slot = port.descriptor(port.packets.address + 4096, 0)
        return "sent" if _done(slot) else "not sent"

    return lambda port: ", ".join(one(port, target(port)) for target in targets)


def _write_head_to(port: Port, iova: int) -> None:
    """Head write-back there, four bytes; it is done when the NIC has sent a frame."""
    port.register(TDWBAL + 4).value, port.register(TDWBAL).value = iova >> 32, iova & 0xFFFFFFFC | 1


def head_written_to(*targets: Target) -> Attack:
    """Let the NIC write four bytes there, by head write-back."""

    def one(port: Port, iova: int) -> str:
        port.put(8192, b"\xff" * 4)
        _write_head_to(port, iova)
        port.send(port.put(64, FRAME))
        if not wait(lambda: port.register(TDH).value == port.sent):
            return "not sent"
        head = ctypes.c_uint32.from_address(port.packets.address + 8192)
        return "written" if wait(lambda: head.value == port.sent, 0.2) else "not written"

    return lambda port: ", ".join(one(port, target(port)) for target in targets)


def receive_to(*targets: Target) -> Attack:
    """Let the NIC write what it receives there, a frame at each."""

    def attack(port: Port) -> str:
        port.put(8192, b"\xff" * 64)
        slots = [port.descriptor(port.queue.rx.address, i) for i in range(port.queue.rx.descriptors)]
        left = [slot for slot in slots if not slot[1] & RX_DD][20:]  # some may have been fetched before
        for slot, target in zip(left, targets, strict=False):
            slot[0] = target(port)
        if not wait(lambda: bool(left[len(targets)][1] & RX_DD)):
            return "nothing received"
        return "written" if ctypes.string_at(port.packets.address + 8192, 64) != b"\xff" * 64 else "not written"

    return attack


def flood(message: bytes) -> Callable[[Port], str]:
    """The same message for ever, whatever control says."""

    def attack(_: Port) -> str:
        connection = own_connection()  # once: looking for it leaves garbage, and a worker collects none
        while True:
            connection.send(message)

    return attack


def garbage(messages: Sequence[bytes]) -> Callable[[Port], str]:
    """Messages of the attacker's own making to control, in the place of statistics."""

    def attack(_: Port) -> str:
        for one in messages:
            own_connection().send(one)
        while True:
            pause(0.01)

    return attack
