"""The monitor: what is permitted when, and that anything else ends the lease with everything undone."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from ixy_vfio_helper import monitor, protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.monitor import Phase
from ixy_vfio_helper.protocol import (
    Allocated,
    Attach,
    Attached,
    End,
    Ended,
    Hello,
    Kind,
    List,
    Listed,
    Memory,
    Message,
    Purpose,
    Refused,
    Seal,
    Sealed,
    State,
    Welcome,
)

from tests.unit.lease_support import A, B, C, Client, FakeBackend, open_fds, served

RINGS, PACKETS = Purpose.RINGS, Purpose.PACKETS
WINDOW = 0x10_0000_0000
# The end of a lease that had A and B and one mapping in both.
FULL_END = [
    f"bus_master_off {A}", f"bus_master_off {B}",
    f"unmap {A} 0x1000000000 0x1000", f"unmap {B} 0x1000000000 0x1000", f"close {A}", f"close {B}",
]  # fmt: skip


def reach(client: Client, phase: Phase) -> None:
    """Bring a new lease to a phase."""
    steps: list[Message] = []
    if phase is not Phase.NEW:
        steps = [Hello()]
    if phase in (Phase.ATTACHED, Phase.SEALED):
        steps += [Attach(A), Attach(B), Memory(4096, 0b11, PACKETS)]
    if phase is Phase.SEALED:
        steps += [Seal()]
    for step in steps:
        reply = client.ask(step)
        assert not isinstance(reply, Refused | Ended), reply


def test_a_whole_lease(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        assert client.ask(Hello()) == Welcome(1 << 20, 2)
        assert client.ask(List(0)) == Listed(2, A, 0x8086, 0x10FB, State.FREE, 1, "vfio-pci")
        assert client.ask(Attach(A)) == Attached(0, Kind.VFIO)
        assert client.ask(List(0)) == Listed(2, A, 0x8086, 0x10FB, State.YOURS, 1, "vfio-pci")
        assert client.ask(List(1)) == Listed(2, B, 0x8086, 0x10FB, State.FREE, 1, "vfio-pci")
        assert client.ask(List(2)) == Listed(2, "", 0, 0, 0, -1, "")
        assert client.ask(Attach(B)) == Attached(1, Kind.VFIO)
        assert client.ask(Memory(5000, 0b01, RINGS)) == Allocated(WINDOW, 8192, 4096, "")
        assert client.ask(Memory(1, 0b10, RINGS)) == Allocated(WINDOW + (4 << 20), 4096, 4096, "")
        assert client.ask(Seal()) == Sealed()
        assert backend.log == [
            f"open {A}", f"open {B}", f"map {A} 0x1000000000 0x2000", f"map {B} 0x1000400000 0x1000",
        ]  # fmt: skip
        backend.log.clear()
        assert client.ask(End()) == Ended("the client ended it")
    assert backend.log == [
        f"bus_master_off {A}", f"bus_master_off {B}",
        f"unmap {A} 0x1000000000 0x2000", f"unmap {B} 0x1000400000 0x1000", f"close {A}", f"close {B}",
    ]  # fmt: skip


EXAMPLES: dict[type[Message], Message] = {
    Hello: Hello(),
    List: List(0),
    Attach: Attach(C),  # refused by the policy where an Attach is permitted
    Memory: Memory(4096, 1, RINGS),
    Seal: Seal(),
    End: End(),
}
PERMITTED: dict[Phase, set[type[Message]]] = {
    Phase.NEW: {Hello},
    Phase.OPEN: {List, Attach, End},
    Phase.ATTACHED: {List, Attach, Memory, Seal, End},
    Phase.SEALED: {End},
}


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", Phase)
def test_what_is_permitted_in_each_phase(tmp_path: Path, phase: Phase, kind: type[Message]) -> None:
    backend = FakeBackend()
    before = open_fds()
    with served(backend, tmp_path) as client:
        reach(client, phase)
        backend.log.clear()
        reply = client.ask(EXAMPLES[kind])
        if kind in PERMITTED[phase]:
            assert type(reply) is {
                Hello: Welcome, List: Listed, Attach: Refused, Memory: Allocated, Seal: Sealed, End: Ended,
            }[kind]  # fmt: skip
        else:
            assert reply == Ended(f"{kind.__name__} is not permitted {phase.value}")
            client.wait()
            assert backend.log == (FULL_END if phase in (Phase.ATTACHED, Phase.SEALED) else [])
    assert open_fds() == before


def test_the_process_has_given_up_its_rights_when_seal_is_answered(tmp_path: Path) -> None:
    given_up: list[str] = []
    with served(FakeBackend(), tmp_path, seal=lambda: given_up.append("all")) as client:
        reach(client, Phase.ATTACHED)
        assert given_up == []
        assert client.ask(Seal()) == Sealed()
        assert given_up == ["all"]


def test_rights_that_cannot_be_given_up_end_the_lease(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(1, "Operation not permitted")

    backend = FakeBackend()
    with served(backend, tmp_path, seal=fail) as client:
        reach(client, Phase.ATTACHED)
        backend.log.clear()
        assert client.ask(Seal()) == Ended("failed: [Errno 1] Operation not permitted")
    assert backend.log == FULL_END


def header(message: Message, sequence: int, position: int, value: int) -> bytes:
    data = bytearray(protocol.encode(message, sequence))
    data[position] = value
    return bytes(data)


def raw(make: Callable[[int], bytes]) -> Callable[[Client], None]:
    def send(client: Client) -> None:
        client.connection.send(make(client.sequence + 1))

    return send


def with_fds(count: int) -> Callable[[Client], None]:
    def send(client: Client) -> None:
        fds = [client.connection.fileno()] * count
        socket.send_fds(client.connection, [protocol.encode(List(0), client.sequence + 1)], fds)

    return send


ODD: dict[str, tuple[Callable[[Client], None], str]] = {
    "unknown type": (raw(lambda n: header(End(), n, 6, 99)), "unknown message type 0x63"),
    "a reply": (raw(lambda n: protocol.encode(Sealed(), n)), "unknown message type 0x105"),
    "short": (raw(lambda n: protocol.encode(End(), n)[:255]), "a message of 255 bytes, not 256"),
    "long": (raw(lambda n: protocol.encode(End(), n) + b"\0"), "a message of more than 256 bytes, not 256"),
    "huge": (raw(lambda n: bytes(100_000)), "a message of more than 256 bytes, not 256"),
    "padding": (raw(lambda n: header(End(), n, 255, 1)), "End: non-zero padding"),
    "magic": (raw(lambda n: header(End(), n, 0, 0)), "not a message of this protocol"),
    "version": (
        raw(lambda n: header(End(), n, 4, 7)), "the other side speaks version 7, this one 1: install the same version"
    ),
    "sequence back": (raw(lambda n: protocol.encode(End(), n - 1)), "request 4 where 5 of at most 1024 was due"),
    "sequence ahead": (raw(lambda n: protocol.encode(End(), n + 1)), "request 6 where 5 of at most 1024 was due"),
    "one descriptor": (with_fds(1), "List: unexpected file descriptors"),
    "many descriptors": (with_fds(100), "List: unexpected file descriptors"),
    "not an address": (
        raw(lambda n: protocol.encode(Attach(A), n).replace(b"0000:", b"zzzz:")), "not a PCI address"
    ),
    "no such device": (lambda c: c.tell(Memory(4096, 0b100, RINGS)), "Memory for a device that is not attached"),
    "no purpose": (
        raw(lambda n: header(Memory(1, 1, RINGS), n, 24, 9)), "memory without a size, a device or a purpose"
    ),
    "repeated": (lambda c: c.tell(Hello()), "Hello is not permitted with devices"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_message_ends_its_lease_and_no_other(tmp_path: Path, name: str) -> None:
    send, reason = ODD[name]
    before = open_fds()
    backend, other = FakeBackend(), FakeBackend()
    with served(other, tmp_path, devices=(C,)) as neighbour, served(backend, tmp_path) as client:
        assert neighbour.ask(Hello()) == Welcome(1 << 20, 1)
        assert neighbour.ask(Attach(C)) == Attached(0, Kind.VFIO)
        reach(client, Phase.ATTACHED)
        backend.log.clear()
        send(client)
        assert client.ended() == reason
        assert backend.log == FULL_END
        assert other.log == [f"open {C}"]
        assert isinstance(neighbour.ask(Memory(4096, 1, RINGS)), Allocated)
    assert open_fds() == before


def test_a_lease_may_send_so_many_requests_and_no_more(tmp_path: Path) -> None:
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        for _ in range(monitor.MAX_REQUESTS - 1):
            assert isinstance(client.ask(List(9)), Listed)
        client.tell(List(9))
        assert client.ended() == "request 1025 where 1025 of at most 1024 was due"


def test_a_client_that_does_not_read_its_answers_is_not_waited_for(tmp_path: Path) -> None:
    with served(FakeBackend(), tmp_path) as client:
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(900):
            with contextlib.suppress(OSError):
                client.tell(Hello() if client.sequence == 0 else List(9))
        assert client.wait() == "the client does not read its answers"


def test_silence_before_hello_ends_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "HELLO_DEADLINE", 0.05)
    with served(FakeBackend(), tmp_path) as client:
        assert client.ended() == "no Hello in 0 s"


def test_the_connection_closing_ends_the_lease(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        reach(client, Phase.SEALED)
        backend.log.clear()
        client.connection.close()
        assert client.wait() == "the client closed the connection"
    assert backend.log == FULL_END


def test_closing_with_an_answer_unread_is_the_same(tmp_path: Path) -> None:
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        client.tell(List(0))
        client.connection.close()
        assert client.wait() == "the client closed the connection"


def test_the_helper_stopping_ends_the_lease(tmp_path: Path) -> None:
    backend = FakeBackend()
    reads, writes = os.pipe()
    with served(backend, tmp_path, stop=[reads]) as client:
        reach(client, Phase.ATTACHED)
        backend.log.clear()
        os.close(writes)
        assert client.ended() == "the helper was stopped"
    os.close(reads)
    assert backend.log == FULL_END


def test_trouble_with_a_device_ends_the_lease(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        reach(client, Phase.ATTACHED)
        os.write(backend.sessions[1].speak, b".")  # something, but no trouble
        assert isinstance(client.ask(List(0)), Listed)
        backend.log.clear()
        os.write(backend.sessions[1].speak, b"!")
        assert client.ended() == "the device has trouble"
    assert backend.log == FULL_END


REFUSED: list[tuple[Message, str]] = [
    (Attach(C), f"{C}: the helper's policy does not give this device to uid 1000"),
    (Attach(A), f"{A}: this lease has it already"),
    (Memory(4096, 0b11, RINGS), "rings are one device's alone; ask once per device"),
    (Memory(1 << 20, 1, RINGS), "memory: 1048576 bytes asked, 1044480 of 1048576 left to you"),
    (Memory(1044481, 1, PACKETS), "memory: 1044481 bytes asked, 1044480 of 1048576 left to you"),
    (Memory((1 << 64) - 1, 1, PACKETS), "memory: 18446744073709551615 bytes asked, 1044480 of 1048576 left to you"),
]


@pytest.mark.parametrize(("request_", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_refusal_says_why_touches_nothing_and_the_lease_goes_on(
    tmp_path: Path, request_: Message, reason: str
) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        reach(client, Phase.ATTACHED)
        client.ask(List(9))  # the monitor closes what it passed after it was passed
        backend.log.clear()
        fds = open_fds()
        assert client.ask(request_) == Refused(reason)
        assert backend.log == []
        assert open_fds() == fds
        assert isinstance(client.ask(Memory(1044480, 1, PACKETS)), Allocated)  # everything that was left


def test_a_device_that_is_not_bound_is_refused_without_a_claim(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.unbound.add(A)
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        assert client.ask(List(0)) == Listed(2, A, 0x8086, 0x10FB, State.UNBOUND, 1, "vfio-pci")
        assert client.ask(Attach(A)) == Refused(f"{A}: not bound")
        assert client.ask(Memory(4096, 1, RINGS)) == Ended("Memory is not permitted without a device")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_device_is_leased_once(tmp_path: Path) -> None:
    first, second = FakeBackend(), FakeBackend()
    with served(first, tmp_path) as one, served(second, tmp_path, uid=1001) as two:
        one.ask(Hello())
        two.ask(Hello())
        assert isinstance(one.ask(Attach(A)), Attached)
        who = f"leased by uid 1000 (helper process {os.getpid()})"
        assert two.ask(Attach(A)) == Refused(f"{A}: {who}; that lease must end first")
        assert second.sessions == []  # the device itself was not looked at
        assert two.ask(List(0)) == Listed(2, A, 0x8086, 0x10FB, State.LEASED, 1, "vfio-pci")
        assert one.ask(End()) == Ended("the client ended it")
        one.wait()
        assert isinstance(two.ask(Attach(A)), Attached)
    assert second.log == [f"open {A}", f"bus_master_off {A}", f"close {A}"]


BUSY, FORBIDDEN = OSError(errno.EBUSY, "busy"), OSError(errno.EPERM, "no remapping")  # by groups, by iommufd
SHARED = "lease one at a time, or use a slot with ACS"


@pytest.mark.parametrize("error", [BUSY, FORBIDDEN])
def test_a_device_whose_group_somebody_leases(tmp_path: Path, error: OSError) -> None:
    backend = FakeBackend()
    backend.neighbours = {A: [C, B]}
    with served(backend, tmp_path) as one, served(backend, tmp_path, uid=1001) as two:
        one.ask(Hello())
        two.ask(Hello())
        assert isinstance(one.ask(Attach(B)), Attached)
        backend.busy = error
        assert one.ask(Attach(A)) == Refused(f"{A}: shares IOMMU group 7 with {B}, which this lease has: {SHARED}")
        assert two.ask(Attach(A)) == Refused(f"{A}: shares IOMMU group 7 with {B}, which uid 1000 leases: {SHARED}")
        assert Claims(tmp_path).holder(A) is None
        assert one.ask(Hello()) != Hello()  # ends it: B is free now
        one.wait()
        reason = f"a process still has it or {C} of its IOMMU group 7 open; try again when that has ended"
        assert two.ask(Attach(A)) == Refused(f"{A}: {reason if error is BUSY else 'no remapping'}")
        backend.busy = None
        assert isinstance(two.ask(Attach(A)), Attached)


def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.busy = PermissionError(errno.EPERM, "Operation not permitted", "/dev/kmsg")
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        assert client.ask(Attach(A)) == Refused(f"{A}: /dev/kmsg: Operation not permitted")


def test_a_device_that_somebody_still_has_open_is_refused_and_the_lease_goes_on(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        assert isinstance(client.ask(Attach(B)), Attached)
        client.ask(List(9))  # it closes what it passed after it was passed
        before = open_fds()
        backend.busy = BUSY
        assert client.ask(Attach(A)) == Refused(f"{A}: a process still has it open; try again when that has ended")
        assert open_fds() == before
        assert Claims(tmp_path).holder(A) is None
        backend.busy = None
        assert client.ask(Attach(A)) == Attached(1, Kind.VFIO)
        assert backend.log == [f"open {B}", f"open {A}", f"close {A}", f"open {A}"]


def test_a_lease_that_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looked at the same time, and nobody had the device: the lock decides."""
    backend = FakeBackend()
    with served(FakeBackend(), tmp_path) as one, served(backend, tmp_path, uid=1001) as two:
        one.ask(Hello())
        two.ask(Hello())
        assert isinstance(one.ask(Attach(A)), Attached)
        one.ask(List(9))  # it closes what it passed after it was passed
        before = open_fds()
        with monkeypatch.context() as patched:
            patched.setattr(Claims, "holder", lambda self, address: None)
            assert two.ask(Attach(A)) == Refused(f"{A}: another lease was faster; it must end first")
        assert open_fds() == before
        assert isinstance(two.ask(Attach(B)), Attached)
    assert backend.log == [f"open {B}", f"bus_master_off {B}", f"close {B}"]
