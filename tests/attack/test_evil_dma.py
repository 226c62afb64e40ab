"""A taken-over worker aims the simulated NIC at memory that is not its own: the NIC reaches none of it.

Each attack is first shown to work at an address that the lease does map. (What the real IOMMU says to the same is a
matter for a guest.)
"""

import ctypes
import re
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.runtime import child
from ixy_vfio.runtime.messages import SIZE, Kind, Share
from ixy_vfio.transport.lease import Lease, Purpose
from ixy_vfio.wires.capture import packets
from tests.attack import evil_dma as evil
from tests.attack.evil_dma import Evil, Port, Target
from tests.conftest import Simulator, StartSimulator, address

pytestmark = pytest.mark.expects_violations
CANARY = b"\xc5"
HOST = ctypes.create_string_buffer(CANARY * 8192, 8192)


@dataclass
class Range:
    """Two sessions side by side: the attacker's ports are 0 and 1, somebody else leases port 2."""

    sim: Simulator
    wire: Path
    other: DmaMemory

    def frames(self) -> list[bytes]:
        """What port 0 has put on its wire."""
        with self.wire.open("rb") as file:
            return [packet.data for packet in packets(file)]

    def misses(self) -> list[list[object]]:
        """What the NIC could not reach: IOVA, length, whether it was a write."""
        counters = self.sim.ask("counters", port=0)
        misses: list[list[object]] = counters["last_misses"]
        assert len(misses) == counters["misses"]
        return misses

    def targets(self) -> dict[str, Target]:
        """Addresses that the attacker's first NIC must not reach."""
        page, far = 4096, self.other.iova + self.other.size - 4096
        return evil.NEAR | {
            "memory of another session": lambda _: far,
            "an address of the process itself": lambda port: port.packets.address,
            "an address of control": lambda _: ctypes.addressof(HOST),
            "the first page": lambda _: page,
            "the interrupt controller": lambda _: evil.COMPATIBLE,
            "an entry of the interrupt remapping table": lambda _: evil.REMAPPABLE,
            "the end of the address space": lambda _: 2**64 - page,
        }

    def check_canaries(self) -> None:
        assert bytes(self.other.view) == CANARY * self.other.size
        assert HOST.raw == CANARY * 8192


@pytest.fixture
def field(simulator: StartSimulator, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Range]:
    wire = tmp_path / "wire.pcapng"
    cable = getattr(request, "param", None) or f"pcapng:,{wire}"
    sim = simulator(ports=3, cables=[f"0:{cable}", "1:gen:count=0"])
    with Lease(sim.helper) as lease:
        other = lease.memory(16 << 20, [lease.attach(address(2))], Purpose.PACKETS)
        other.view[:] = CANARY * other.size
        yield Range(sim, wire, other)


def attacked(field: Range, make: Callable[..., evil.Attack], mapped: Target | None = None) -> tuple[str, list[int]]:
    """Attack at every target, at a mapped address first; what came of it. The NIC misses what it was aimed at."""
    targets = list(field.targets().values())
    one = Evil(make(*filter(None, [mapped]), *targets))
    told = evil.run_evil(field.sim, one)
    field.check_canaries()
    assert one.job is not None
    port = Port(one.job)
    return told, [target(port) for target in targets]


def missed(length: int, write: bool, iovas: list[int]) -> list[list[object]]:
    return [[iova, length, write] for iova in iovas]


def told(mapped: str, elsewhere: str, iovas: list[int]) -> str:
    return ", ".join([mapped, *[elsewhere] * len(iovas)])


def test_transmit_from_memory_not_its_own(field: Range) -> None:
    said, iovas = attacked(field, evil.transmit_from, lambda port: port.packets.iova + 64)
    assert said == told("reported done", "reported done", iovas)  # as the real one does: the report means nothing
    assert field.frames() == [evil.FRAME]
    assert field.misses() == missed(60, False, iovas)


def test_a_ring_in_memory_not_its_own(field: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "DEADLINE", 60.0)  # the attack waits long, and answers nobody
    said, iovas = attacked(field, evil.ring_at, lambda port: port.packets.iova + 4096)
    assert said == told("sent", "not sent", iovas)
    assert field.frames() == [evil.FRAME]
    assert field.misses() == missed(16, False, [iova & -128 for iova in iovas])  # where a ring may begin


def test_head_write_back_to_memory_not_its_own(field: Range) -> None:
    said, iovas = attacked(field, evil.head_written_to, lambda port: port.packets.iova + 8192)
    assert said == told("written", "not written", iovas)
    assert field.frames() == [evil.FRAME] * (1 + len(iovas))  # honest ones: it is the report that is aimed
    assert field.misses() == missed(4, True, iovas)


@pytest.mark.parametrize("field", ["gen:sizes=60,pace=0.001"], indirect=True)
def test_receive_into_memory_not_its_own(field: Range) -> None:
    assert evil.run(field.sim, evil.receive_to(lambda port: port.packets.iova + 8192)) == "written"
    assert field.misses() == []
    said, iovas = attacked(field, evil.receive_to)
    assert said == "not written"
    assert field.misses() == missed(60, True, iovas)


HEADER = struct.Struct("<II")


GARBAGE = {
    "short": (b"x", "a message of 1 bytes"),
    "shorter": (bytes(SIZE - 1), f"a message of {SIZE - 1} bytes"),
    "long": (bytes(4 * SIZE), f"a message of {SIZE + 1} bytes"),
    "zeros": (bytes(SIZE), "malformed"),
    "length": (HEADER.pack(Kind.SHARE, SIZE).ljust(SIZE, b"\xff"), "malformed"),
    "kind": (HEADER.pack(99, 0).ljust(SIZE, b"\0"), "malformed"),
    "a share cut short": (HEADER.pack(Kind.SHARE, 3).ljust(SIZE, b"\0"), "a malformed share: 3 bytes"),
    "control's own kind": (HEADER.pack(Kind.GO, 0).ljust(SIZE, b"\0"), "sent GO"),
    "ready twice": (HEADER.pack(Kind.READY, 0).ljust(SIZE, b"\0"), "sent READY"),
    "escapes": (HEADER.pack(Kind.ERROR, 4).ljust(SIZE, b"\x1b"), "worker"),
}


def test_garbage_on_its_socket(field: Range) -> None:
    """Control ends the run with an error of one printable line, and the lease ends in order."""
    for name, (message, said) in GARBAGE.items():
        told = evil.run(field.sim, evil.garbage([message]))
        assert said in told, name
        assert told.isprintable(), name
        counters = field.sim.ask("counters", port=0)
        assert (counters["bus_master"], counters["windows"]) == (False, 0), name
    field.check_canaries()


@pytest.mark.timed
def test_a_worker_that_talks_for_ever(field: Range) -> None:
    """It answers everything with its share, STOP too: control ends it after its deadline."""
    share = HEADER.pack(Kind.SHARE, len(Share().pack())) + Share().pack()
    told = evil.run(field.sim, evil.flood(share.ljust(SIZE, b"\0")), duration=1.0)
    assert "did not stop in" in told
    assert field.sim.ask("counters", port=0)["bus_master"] is False


@pytest.mark.timed
def test_a_worker_that_never_reads(field: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    """It talks, reads nothing and counts nothing: control goes on, and ends it after its deadline."""
    monkeypatch.setattr(child, "DEADLINE", 0.5)
    share = HEADER.pack(Kind.SHARE, len(Share().pack())) + Share().pack()

    def stuck(number: int, frame: object) -> None:
        raise AssertionError("control waits for a worker that reads nothing")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        told = evil.run(field.sim, evil.flood(share.ljust(SIZE, b"\0")), 20.0, interval=0.0001)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert re.fullmatch(r"worker \d+ did not answer in 0 s; are the processors busy with something else\?", told)
    counters = field.sim.ask("counters", port=0)
    assert (counters["bus_master"], counters["windows"]) == (False, 0)
