"""A worker process of its own, over model NICs in shared memory: sealed, fed, asked, stopped, killed."""

import collections
import dataclasses
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ixy_vfio.core.errors import WorkerError
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.queue import PortCounters
from ixy_vfio.drivers.ixgbe.format import FORMAT
from ixy_vfio.runtime import messages, worker
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind, Share
from ixy_vfio.runtime.page import Counted, Page
from ixy_vfio.runtime.worker import Idle, Job
from tests.conftest import wait_until
from tests.model_nic import World, deliver, transmit
from tests.programs import program_of

PLAIN = 60 << 32 | 3


class Process:
    """A started worker and the world it works on."""

    def __init__(self, job: Job, world: World) -> None:
        self.world = world
        self.worker = Worker(*worker.start(job))
        self.worker.connection.settimeout(20)

    def expect(self, kind: Kind) -> bytes:
        message = messages.receive(self.worker.connection)
        assert message is not None
        assert message[0] is kind, message
        return message[1]

    def go(self) -> None:
        self.expect(Kind.READY)
        messages.send(self.worker.connection, Kind.GO)

    def carry(self, count: int, deadline: float = 20.0) -> int:
        """Feed port 0 until `count` packets have left port 1; returns how many were delivered."""
        end = time.monotonic() + deadline
        delivered = 0
        while int(self.world.nics[1]["sent"][0]) < count and time.monotonic() < end:
            delivered += deliver(self.world.nics[0], min(8, count - delivered), PLAIN, 60)
            transmit(self.world.nics[1], 64)
        return delivered


@pytest.fixture
def job() -> Job:
    world = World(buffers=512)
    for pair in world.pairs:
        pair.arm()
    loop = forwarding_loop(Formats(FORMAT, FORMAT), kernels.load("touch"))
    made = Job(program_of(loop, "touch"), world.pool, tuple(world.pairs), idle=Idle.YIELD)
    _worlds[id(made)] = world
    return made


_worlds: dict[int, World] = {}


@pytest.fixture
def process(job: Job) -> Iterator[Process]:
    one = Process(job, _worlds.pop(id(job)))
    yield one
    one.worker.kill()


def test_it_forwards_counts_and_stops(process: Process) -> None:
    process.go()
    assert process.carry(5000) == 5000
    wait_until("it has counted all", lambda: process.worker.counted.ports[1].sent == 5000)
    seen = process.worker.counted
    assert (seen.ports[0].received, seen.ports[1].sent, seen.ports[1].sent_bytes) == (5000, 5000, 300_000)
    assert 0 < seen.first_packet < time.monotonic_ns()
    messages.send(process.worker.connection, Kind.STOP)
    assert process.expect(Kind.DONE) == b""
    assert process.worker.counted.ports == seen.ports
    assert process.worker.wait(10) == 0


def test_what_it_counted_survives_it(process: Process) -> None:
    process.go()
    process.carry(100)
    wait_until("it has counted all", lambda: process.worker.counted.ports[1].sent == 100)
    os.kill(process.worker.pid, signal.SIGKILL)
    process.worker.wait(10)
    assert process.worker.counted.ports[1].sent == 100


def test_it_touches_nothing_before_go(process: Process) -> None:
    process.expect(Kind.READY)
    deliver(process.world.nics[0], 5, PLAIN, 60)
    time.sleep(0.05)
    assert transmit(process.world.nics[1], 10) == 0
    messages.send(process.worker.connection, Kind.STOP)
    process.expect(Kind.DONE)
    assert process.worker.counted.ports == (PortCounters(), PortCounters())
    assert process.worker.wait(10) == 0


@pytest.mark.root  # the worker is not dumpable
def test_what_it_holds_as_root_sees_it(process: Process) -> None:
    process.expect(Kind.READY)
    links = [os.readlink(entry) for entry in Path(f"/proc/{process.worker.pid}/fd").iterdir()]
    assert len(links) == 1
    assert links[0].startswith("socket:")


def test_rights_it_gave_up(process: Process) -> None:
    process.expect(Kind.READY)
    lines = Path(f"/proc/{process.worker.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["NSpid"].split()[-1] == str(process.worker.pid)
    ignored = int(status["SigIgn"], 16)
    assert all(ignored >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def _asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_asleep_it_wakes_for_every_interrupt_and_for_nothing_else(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SLEEP", 60)
    eventfds = [os.eventfd(0) for _ in range(2)]
    world = _worlds.pop(id(job))
    process = Process(dataclasses.replace(job, idle=Idle.SLEEP, wakeups=tuple(eventfds)), world)
    try:
        process.go()
        for round_ in range(6):
            wait_until("it sleeps", lambda: _asleep(process.worker.pid))
            assert deliver(world.nics[0], 3, PLAIN, 60) == 3
            time.sleep(0.05)
            assert transmit(world.nics[1], 64) == 0
            os.eventfd_write(eventfds[round_ % 2], 1)
            wait_until("it forwards", lambda: transmit(world.nics[1], 64) > 0)
        messages.send(process.worker.connection, Kind.STOP)  # which wakes it, too
        process.expect(Kind.DONE)
        assert process.worker.counted.ports[0].received == 18
    finally:
        process.worker.kill()
        for eventfd in eventfds:
            os.close(eventfd)


@pytest.mark.root  # the worker is not dumpable
def test_only_its_own_shared_memory_is_mapped(job: Job) -> None:
    other = World(buffers=64)  # somebody else's packets: mapped in control, not in the worker
    world = _worlds.pop(id(job))
    process = Process(job, world)
    try:
        process.expect(Kind.READY)
        shared = [
            tuple(int(part, 16) for part in line.split()[0].split("-"))
            for line in Path(f"/proc/{process.worker.pid}/maps").read_text().splitlines()
            if line.split()[1].endswith("s")
        ]
        assert any(begin <= world.memory.address < end for begin, end in shared)
        assert all(any(begin <= bar.address < end for begin, end in shared) for bar in world.bars)
        assert not any(begin <= other.memory.address < end for begin, end in shared)
    finally:
        process.worker.kill()


def test_at_its_limit_it_waits_for_more(job: Job) -> None:
    """Exactly so many are received; of what is left it gives back half when it is asked."""
    process = Process(dataclasses.replace(job, limit=100), _worlds.pop(id(job)))
    connection = process.worker.connection

    def feed_until_it_reports() -> tuple[Share, Counted]:
        end = time.monotonic() + 20
        while not select.select([connection], [], [], 0)[0] and time.monotonic() < end:
            deliver(process.world.nics[0], 8, PLAIN, 60)
            transmit(process.world.nics[1], 64)
        return Share.unpack(process.expect(Kind.SHARE)), process.worker.counted

    try:
        process.go()
        share, counted = feed_until_it_reports()
        assert (share, counted.ports[0].received, counted.waiting) == (Share(100, 0), 100, True)
        messages.send(connection, Kind.GRANT, messages.NUMBER.pack(107))
        share, counted = feed_until_it_reports()
        assert (share, counted.ports[0].received, counted.waiting) == (Share(107, 0), 107, True)
        messages.send(connection, Kind.STOP)
        process.expect(Kind.DONE)
        assert process.worker.counted.ports == counted.ports
    finally:
        process.worker.kill()


def test_it_gives_back_half_of_what_may_still_come(job: Job) -> None:
    process = Process(dataclasses.replace(job, limit=101), _worlds.pop(id(job)))
    try:
        process.go()
        returned = []
        for _ in range(8):
            messages.send(process.worker.connection, Kind.GIVE_BACK)
            returned.append(Share.unpack(process.expect(Kind.SHARE)).returned)
            if returned[-1] == 101:
                break
        assert returned == [51, 76, 89, 95, 98, 100, 101]
    finally:
        process.worker.kill()


def test_no_packet_may_come_to_a_worker_without_a_share(job: Job) -> None:
    process = Process(dataclasses.replace(job, limit=0), _worlds.pop(id(job)))
    try:
        process.go()
        process.expect(Kind.SHARE)
        deliver(process.world.nics[0], 5, PLAIN, 60)
        time.sleep(0.05)
        messages.send(process.worker.connection, Kind.STOP)
        process.expect(Kind.DONE)
        assert process.worker.counted.ports == (PortCounters(), PortCounters())
    finally:
        process.worker.kill()


def test_a_kernel_that_fails_is_reported_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "far.py"
    path.write_text("def far(packet, length):\n    return packet[100] == 0\n")
    world = World(buffers=512)
    for pair in world.pairs:
        pair.arm()
    kernel = kernels.load(f"{path}:far")
    loop = forwarding_loop(Formats(FORMAT, FORMAT), kernel)
    job = Job(program_of(loop, "far"), world.pool, tuple(world.pairs), idle=Idle.POLL)
    process = Process(job, world)
    try:
        process.worker.receive()  # that it is sealed
        process.worker.send(Kind.GO)
        deliver(world.nics[0], 1, PLAIN, 60)
        with pytest.raises(WorkerError, match=rf"worker {process.worker.pid}: kernel far: IndexError"):
            process.worker.receive()
        assert os.waitstatus_to_exitcode(process.worker.wait(10) or 0) == 1
    finally:
        process.worker.kill()


def test_a_worker_that_is_killed_is_named_with_its_signal(process: Process) -> None:
    process.go()
    os.kill(process.worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"worker {process.worker.pid} was killed by SIGKILL"):
        process.worker.receive()


def test_it_ends_when_control_closes_the_socket(process: Process) -> None:
    process.go()
    process.worker.connection.close()
    assert os.waitstatus_to_exitcode(process.worker.wait(10) or 0) == 1


def test_messages_of_another_size_or_kind_are_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for bad in (b"x", bytes(511), bytes(513), bytes(512), b"\x01\0\0\0\xff\xff\0\0" + bytes(504)):
            theirs.send(bad)
            with pytest.raises(WorkerError, match="message"):
                messages.receive(ours)
        messages.send(theirs, Kind.ERROR, b"y" * 1000)
        assert messages.receive(ours) == (Kind.ERROR, b"y" * messages.TEXT)


def test_a_share_survives_the_journey() -> None:
    one = Share(2**64 - 1, 7)
    assert Share.unpack(one.pack()) == one
    with pytest.raises(WorkerError, match="a malformed share: 15 bytes, not 16"):
        Share.unpack(one.pack()[1:])


def test_a_worker_that_reads_nothing_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(0.2)
        one = Worker(4711, ours, Page(2))
        told = map(one.send, [Kind.GIVE_BACK] * 100_000)
        with pytest.raises(WorkerError, match="worker 4711 does not read what control tells it"):
            collections.deque(told, maxlen=0)
