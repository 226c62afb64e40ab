"""A taken-over control over the socket: it holds a lease and a device, and tries to reach more with them.

Beside it somebody else's lease goes on: its memory is looked at, and its device, after each attack. The same against
the kernel's VFIO stands in tests/vm/test_attack.py.
"""

import collections
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import (
    REPLIES,
    SIZE,
    Attach,
    Attached,
    Ended,
    Hello,
    List,
    Memory,
    Message,
    Refused,
    Seal,
    Welcome,
    encode,
)  # fmt: skip

from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.sim.lease import Connection
from ixy_vfio.transport import wire
from ixy_vfio.transport.lease import Lease, Purpose
from ixy_vfio.transport.wire import Command
from tests.conftest import Simulator, StartSimulator, address, wait_until

pytestmark = pytest.mark.expects_violations
CANARY = b"\xc5"


@dataclass
class Field:
    """The attacker leases port 0, somebody else port 1."""

    sim: Simulator
    memory: DmaMemory
    helper: int  # process id of the one that listens

    def leases(self) -> int:
        """How many processes serve a lease."""
        return len(Path(f"/proc/{self.helper}/task/{self.helper}/children").read_text().split())

    def descriptors(self) -> int:
        """Of the listening helper and the simulator."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.helper, self.sim.process.pid))

    def settled(self) -> int:
        """The same, when it stays what it is: what ended a moment ago is closed soon."""
        seen = [self.descriptors()]
        while len(seen) < 10 or len(set(seen[-10:])) > 1:
            assert len(seen) < 400, seen
            time.sleep(0.02)
            seen.append(self.descriptors())
        return seen[-1]

    def check(self) -> None:
        """The other lease is as it was: its memory, what its device reaches; and a new one can begin and end."""
        assert bytes(self.memory.view) == CANARY * self.memory.size
        assert self.sim.ask("counters", port=1)["windows"] == 1
        wait_until("the attacker's lease is over", lambda: self.leases() == 1)
        counters = self.sim.ask("counters", port=0)
        assert (counters["bus_master"], counters["windows"]) == (False, 0)
        with Lease(self.sim.helper) as lease:
            fresh = lease.memory(4096, [lease.attach(address(0))], Purpose.PACKETS)
            assert bytes(fresh.view) == bytes(fresh.size)


@pytest.fixture
def field(simulator: StartSimulator) -> Iterator[Field]:
    sim = simulator(ports=2, cables=["0:port:1"])
    with Lease(sim.helper) as lease:
        memory = lease.memory(1 << 20, [lease.attach(address(1))], Purpose.PACKETS)
        memory.view[:] = CANARY * memory.size
        own = (sim.directory / "leases" / f"{address(1)}.lease").read_text().split()[1]
        status = Path(f"/proc/{own}/status").read_text()
        parent = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
        field = Field(sim, memory, parent)
        field.check()
        before = field.settled()
        yield field
        field.check()
        assert field.settled() == before
        lease.check()


class Client:
    """Messages to the helper, as the attacker likes them."""

    def __init__(self, path: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(path)
        self.connection.settimeout(20)

    def ask(self, message: Message | bytes, sequence: int = 0, fds: list[int] | None = None) -> Message | None:
        """Send; the answer, if there is one. Descriptors with it are closed."""
        data = message if isinstance(message, bytes) else encode(message, sequence)
        try:
            socket.send_fds(self.connection, [data], fds or [])
        except BrokenPipeError:
            return None
        return self.hear()

    def hear(self) -> Message | None:
        try:
            received = protocol.receive(self.connection, REPLIES)
        except ConnectionResetError:
            received = protocol.receive(self.connection, REPLIES)
        for fd in received[2] if received else []:
            os.close(fd)
        return received[1] if received else None

    def attached(self) -> "Client":
        """With port 0, and memory."""
        assert isinstance(self.ask(Hello(), 1), Welcome)
        assert isinstance(self.ask(Attach(address(0)), 2), Attached)
        assert isinstance(self.ask(Memory(4096, 1, Purpose.RINGS), 3), protocol.Allocated)
        return self


NEXT = 4
ODD: dict[str, tuple[Message | bytes, int, int]] = {  # message, sequence number, descriptors with it
    "garbage": (b"\xff" * SIZE, 0, 0),
    "nothing at all": (b"\0", 0, 0),
    "too long": (encode(List(0), NEXT) + b"\0", 0, 0),
    "cut short": (encode(List(0), NEXT)[:-1], 0, 0),
    "hello again": (Hello(), NEXT, 0),
    "replayed": (Attach(address(0)), 2, 0),
    "from the future": (List(0), NEXT + 1, 0),
    "an answer": (Welcome(1 << 40, 32), NEXT, 0),
    "with a descriptor": (List(0), NEXT, 1),
    "with many descriptors": (List(0), NEXT, 200),
    "for a device that it has not": (Memory(4096, 2, Purpose.RINGS), NEXT, 0),
}


def test_an_odd_message_ends_that_lease(field: Field) -> None:
    """In the middle of a lease, with the device attached; the message itself, where it was due, is no harm."""
    good = Client(field.sim.helper).attached()
    assert isinstance(good.ask(List(0), NEXT), protocol.Listed)
    good.connection.close()
    for name, (message, sequence, fds) in ODD.items():
        wait_until("the lease before is over", lambda: field.leases() == 1)
        evil = Client(field.sim.helper).attached()
        answer = evil.ask(message, sequence, [0] * fds)
        assert isinstance(answer, Ended), (name, answer)
        assert "failed" not in answer.reason, name
        evil.connection.close()


def test_early_messages(field: Field) -> None:
    for early in (List(0), Attach(address(0)), Memory(4096, 1, Purpose.RINGS), Seal()):
        evil = Client(field.sim.helper)
        answer = evil.ask(early, 1)
        assert isinstance(answer, Ended)
        assert "is not permitted before Hello" in answer.reason
        evil.connection.close()


def test_nothing_more_after_seal(field: Field) -> None:
    for late in (List(0), Attach(address(0)), Memory(4096, 1, Purpose.RINGS), Seal()):
        evil = Client(field.sim.helper).attached()
        assert isinstance(evil.ask(Seal(), NEXT), protocol.Sealed)
        answer = evil.ask(late, NEXT + 1)
        assert isinstance(answer, Ended)
        assert "is not permitted after Seal" in answer.reason
        evil.connection.close()


def test_what_somebody_else_has_is_refused(field: Field) -> None:
    """A refusal touches nothing, and the lease goes on."""
    evil = Client(field.sim.helper).attached()
    other = evil.ask(Attach(address(1)), NEXT)
    assert isinstance(other, Refused)
    assert "leased by uid" in other.reason
    absent = evil.ask(Attach("0000:00:1f.0"), NEXT + 1)
    assert absent == Refused("0000:00:1f.0: the helper's policy does not give this device to uid " + str(os.getuid()))
    greedy = evil.ask(Memory(1 << 62, 1, Purpose.PACKETS), NEXT + 2)
    assert isinstance(greedy, Refused)
    assert isinstance(evil.ask(Memory(4096, 1, Purpose.RINGS), NEXT + 3), protocol.Allocated)
    evil.connection.close()


def test_answers_that_nobody_reads(field: Field) -> None:
    """The helper never waits for a client."""
    evil = Client(field.sim.helper)
    evil.ask(Hello(), 1)
    packets = [encode(List(0), sequence) for sequence in range(2, 5000)]
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        collections.deque(map(evil.connection.send, packets), maxlen=0)
    evil.connection.close()


def test_connections_that_say_nothing(field: Field) -> None:
    """As many as the policy allows; the next is told so; all end with their client."""
    silent = [Client(field.sim.helper) for _ in range(20)]
    told = [client.hear() for client in silent[15:]]
    assert all(isinstance(one, Ended) and "16 leases already" in one.reason for one in told), told
    assert all(isinstance(client.ask(Hello(), 1), Welcome) for client in silent[:15])  # those that came before
    for client in silent:
        client.connection.close()


def vfio_user(field: Field, lease: Lease) -> socket.socket:
    """The device's own connection, without what the driver puts around it."""
    device = lease.attach(address(0))
    connection: socket.socket = device._channel._connection  # type: ignore[attr-defined]
    return connection


def refusal(connection: socket.socket, command: int, payload: bytes, fds: tuple[int, ...] = ()) -> int:
    """The error number that a command is answered with; 0 for none."""
    reply = reply_to(connection, command, payload, fds)
    return reply.error if reply.flags & wire.ERROR else 0


def reply_to(connection: socket.socket, command: int, payload: bytes, fds: tuple[int, ...] = ()) -> wire.Message:
    """The answer; descriptors with it are closed."""
    wire.send(connection, wire.pack(7, command, payload), fds)
    reply = wire.receive(connection)
    assert reply is not None
    for fd in reply.fds:
        os.close(fd)
    return reply


def irqs(index: int, start: int, count: int) -> bytes:
    """A request to raise these interrupts."""
    flags = wire.IRQ_SET_DATA_NONE | wire.IRQ_SET_TRIGGER
    return wire.IRQ_SET.pack(wire.IRQ_SET.size, flags, index, start, count)


MAP = wire.DMA_MAP.pack(wire.DMA_MAP.size, 3, 0, 0x10_0000_0000, 4096)
UNMAP = wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, 0x10_0000_0000, 4096)


def test_a_device_connection_maps_no_memory(field: Field) -> None:
    """The connection that may is the helper's: there the same two messages are answered."""
    memory = os.memfd_create("mine")
    os.ftruncate(memory, 4096)
    with Lease(field.sim.helper) as lease:
        connection = vfio_user(field, lease)
        ring = lease.memory(4096, [device for _, device in lease._devices.values()], Purpose.RINGS)
        assert refusal(connection, Command.DMA_MAP, MAP, (memory,)) == errno.EPERM
        assert refusal(connection, Command.DMA_UNMAP, UNMAP) == errno.EPERM
        with pytest.raises(Exception, match="busy"):
            Connection(field.sim.directory / "port0.sock", {})
        assert field.sim.ask("counters", port=0)["windows"] == 1
        assert ring.iova == 0x10_0000_0000
    owner = Connection(field.sim.directory / "port0.sock", {})
    owner.ask(Command.DMA_MAP, MAP, (memory,))
    owner.ask(Command.DMA_UNMAP, UNMAP)
    owner.socket.close()
    os.close(memory)
    wait_until("the port is free", lambda: field.sim.ask("counters", port=0)["windows"] == 0)


def test_what_a_device_connection_can_do(field: Field) -> None:
    """Configuration space, interrupts out of range, regions that are not there, a storm of resets: one device's."""
    with Lease(field.sim.helper) as lease:
        connection = vfio_user(field, lease)
        for offset in range(0, 4096, 4):
            access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, 4)
            assert refusal(connection, Command.REGION_WRITE, access + b"\xff" * 4) == 0
            assert refusal(connection, Command.REGION_WRITE, access + bytes(4)) == 0
        good = wire.REGION_ACCESS.pack(0, wire.CONFIG_REGION, 4)
        assert reply_to(connection, Command.REGION_READ, good).payload[-4:] == bytes.fromhex("8680fb10")  # who it is
        for region, offset, size in (
            (0, 0x80000, 4), (0, 2**64 - 4, 4), (7, 4096, 4), (9, 0, 4), (2**32 - 1, 0, 4),
            (0, 0, 0), (1, 0, 2**32 - 1),
        ):  # fmt: skip
            access = wire.REGION_ACCESS.pack(offset, region, size)
            assert refusal(connection, Command.REGION_READ, access) == errno.EINVAL, (region, offset, size)
        # The control: an interrupt that has an eventfd can be raised. Those without are refused, as by the kernel.
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        given = wire.IRQ_SET.pack(wire.IRQ_SET.size, wire.IRQ_SET_DATA_EVENTFD | wire.IRQ_SET_TRIGGER, 2, 0, 1)
        assert refusal(connection, Command.DEVICE_SET_IRQS, given, (eventfd,)) == 0
        assert refusal(connection, Command.DEVICE_SET_IRQS, irqs(2, 0, 1)) == 0
        assert os.eventfd_read(eventfd) == 1
        os.close(eventfd)
        for index, start, count in ((2, 0, 65), (2, 64, 1), (2, 2**32 - 1, 2), (9, 0, 1), (2, 1, 2**32 - 1)):
            assert refusal(connection, Command.DEVICE_SET_IRQS, irqs(index, start, count)) == errno.EINVAL, (
                index,
                start,
                count,
            )
        for _ in range(500):
            assert refusal(connection, Command.DEVICE_RESET, b"") == 0
        for command in (0, 6, 11, 12, 99, 2**16 - 1):
            assert refusal(connection, command, b"\xff" * 64) != 0


def test_product_data_is_the_holders_to_write(field: Field) -> None:
    """Not protected: on a real NIC it lies in the EEPROM, and outlives the session. The next lease finds it."""

    def word(connection: socket.socket, offset: int, size: int) -> int:
        access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, size)
        return int.from_bytes(reply_to(connection, Command.REGION_READ, access).payload[-size:], "little")

    def set_word(connection: socket.socket, offset: int, size: int, value: int) -> None:
        access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, size)
        assert refusal(connection, Command.REGION_WRITE, access + value.to_bytes(size, "little")) == 0

    address, data, flag, place = 0xE2, 0xE4, 0x8000, 60
    with Lease(field.sim.helper) as lease:
        connection = vfio_user(field, lease)
        set_word(connection, data, 4, 0x6C697665)
        set_word(connection, address, 2, place | flag)
        assert word(connection, address, 2) == place
    with Lease(field.sim.helper) as lease:
        connection = vfio_user(field, lease)
        set_word(connection, address, 2, place)
        assert (word(connection, address, 2), word(connection, data, 4)) == (place | flag, 0x6C697665)


def test_junk_on_the_device_connection(field: Field) -> None:
    """The simulator ends that connection, and serves the others."""
    header = struct.Struct("<HHIII")
    for junk in (
        b"\xff" * 64,
        header.pack(1, 9, 15, 0, 0),
        header.pack(1, 9, 2**31, 0, 0),
        header.pack(1, 9, 99, 0, 0),
    ):
        wait_until("the lease before is over", lambda: field.leases() == 1)
        with Lease(field.sim.helper) as lease:
            connection = vfio_user(field, lease)
            assert refusal(connection, Command.DEVICE_RESET, b"") == 0
            wire.send(connection, junk)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(4096) == b""


def test_two_leases_see_nothing_of_each_other(field: Field) -> None:
    """Every page that a lease gets is zero, also when another has just given it back, full of its own."""
    for _ in range(3):
        with Lease(field.sim.helper) as lease:
            device = lease.attach(address(0))
            for size in (4096, 65536, 24 << 20):
                fresh = lease.memory(size, [device], Purpose.PACKETS)
                assert not bytes(fresh.view).strip(b"\0")
                fresh.view[:] = b"\xa5" * fresh.size
            assert bytes(field.memory.view) == CANARY * field.memory.size
