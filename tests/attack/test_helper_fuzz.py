"""Clients that send garbage: the lease ends, or the request was permitted; nothing leaks and nobody else notices.

IXY_VFIO_FUZZ is the number of mutated messages: 4,000 unless set, a million in CI (about a minute).
"""

import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ixy_vfio_helper import protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.monitor import Monitor
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import (
    REPLIES,
    REQUESTS,
    SIZE,
    Attach,
    End,
    Ended,
    Hello,
    List,
    Memory,
    Message,
    ProtocolError,
    Seal,
    decode,
    encode,
)

from tests.attack.messages import mutated_session, sessions
from tests.unit.lease_support import A, B, C, FakeBackend, open_fds, served

MESSAGES = int(os.environ.get("IXY_VFIO_FUZZ") or (100_000 if os.environ.get("CI") else 4000))
LOOK = 2000  # sessions between looks at the other lease
SEED = 82599
RECORDED = sessions(A, B)


@pytest.fixture
def directory() -> Iterator[Path]:
    """For claims; in memory, as /run is."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as path:
        yield Path(path)


def received(connection: socket.socket) -> Iterator[Message]:
    """Everything that the monitor has said; descriptors are closed."""
    while True:
        try:
            answer = protocol.receive(connection, REPLIES)
        except ConnectionResetError:  # told once, when something of ours was not read; what was said comes after it
            continue
        if answer is None:
            return
        for fd in answer[2]:
            os.close(fd)
        yield answer[1]


def attack(directory: Path, packets: list[tuple[bytes, int]]) -> tuple[FakeBackend, list[Message]]:
    """One lease that gets these packets, each with so many descriptors; the backend, and what was answered."""
    backend = FakeBackend()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            for packet, fds in packets:
                socket.send_fds(ours, [packet], [0] * fds) if fds else ours.send(packet)
            ours.shutdown(socket.SHUT_WR)
            Monitor(theirs, Grant(1000, frozenset((A, B)), 1 << 20, 4), backend, Claims(directory), ()).run()
        return backend, list(received(ours))


def check(backend: FakeBackend, answers: list[Message]) -> None:
    """Everything that was done was undone, in the order of the end of a lease; the reason was told last and once."""
    assert isinstance(answers[-1], Ended)
    assert "failed" not in answers[-1].reason
    assert not any(isinstance(answer, Ended) for answer in answers[:-1])
    done = [entry.split(" ", 1) for entry in backend.log]
    opened = [what for how, what in done if how == "open"]
    mapped = [what for how, what in done if how == "map"]
    first = next((i for i, (how, _) in enumerate(done) if how not in ("open", "map")), len(done))
    assert done[first:] == [
        *(["bus_master_off", what] for what in opened),
        *(["unmap", what] for what in mapped),
        *(["close", what] for what in opened),
    ]


def resident() -> int:
    """Pages of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_mutated_sessions(directory: Path) -> None:
    """Each is a lease of its own. Beside them all one lease goes on, and knows nothing of it."""
    chance = random.Random(SEED)
    sent = sessions = pages = 0
    ends: set[str] = set()
    with served(FakeBackend(), directory, devices=(C,)) as beside:
        assert isinstance(beside.ask(Hello()), protocol.Welcome)
        assert isinstance(beside.ask(Attach(C)), protocol.Attached)
        assert isinstance(beside.ask(List(0)), protocol.Listed)  # it has closed what it passed before
        fds = open_fds()
        while sent < MESSAGES:
            packets = mutated_session(RECORDED, chance)
            backend, answers = attack(directory, packets)
            check(backend, answers)
            ends.add(answers[-1].reason if isinstance(answers[-1], Ended) else "")
            sent += len(packets)
            sessions += 1
            if sessions % LOOK == 0:
                listed = beside.ask(List(0))
                assert isinstance(listed, protocol.Listed)
                assert (listed.address, listed.state) == (C, protocol.State.YOURS)
                pages = pages or resident()
        assert open_fds() == fds
        assert not pages or resident() - pages < 2048  # 8 MiB, whatever the number of sessions
        assert beside.ask(End()) == Ended("the client ended it")
    # The fuzzer reached every kind of end that a client can cause.
    for text in ("not 256", "unknown message type", "non-zero padding", "not a message of this", "speaks version",
                 "was due", "is not permitted", "unexpected file descriptors", "not a PCI address", "without a size",
                 "not attached", "client ended it", "client closed"):  # fmt: skip
        assert any(text in end for end in ends), text


@settings(max_examples=min(max(50, MESSAGES // 40), 2000), deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=SIZE + 8),
            st.sampled_from(
                [Hello(), List(0), Attach(A), Attach(B), Memory(4096, 1, 1), Memory(8192, 3, 2), Seal(), End()]
            ),
        ),
        max_size=10,
    )
)  # fmt: skip
def test_any_sequence_of_messages(directory: Path, sequence: list[bytes | Message]) -> None:
    packets = [
        (item if isinstance(item, bytes) else encode(item, number), 0) for number, item in enumerate(sequence, 1)
    ]
    fds = open_fds()
    check(*attack(directory, packets))
    assert open_fds() == fds


@settings(max_examples=min(max(200, MESSAGES // 10), 4000), deadline=None, derandomize=True)
@given(st.binary(min_size=SIZE - 12, max_size=SIZE - 12), st.integers(0, 0x120), st.integers(0, 0xFFFFFFFF))
def test_what_decodes_has_no_other_encoding(body: bytes, code: int, sequence: int) -> None:
    known = {code: kind.layout.size for code, kind in (REQUESTS | REPLIES).items()}
    body = body[: known.get(code, 0)].ljust(SIZE - 12, b"\0")  # so that some of them decode
    data = protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, code, sequence) + body
    try:
        number, message = decode(data, REQUESTS | REPLIES)
    except ProtocolError:
        return
    assert encode(message, number) == data
