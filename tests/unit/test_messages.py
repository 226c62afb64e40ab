"""What control takes from a worker, and what it does not. A worker may have been taken over."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from ixy_vfio.core.errors import SealError, WorkerError
from ixy_vfio.runtime import messages
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import SIZE, TEXT, Kind, Share
from ixy_vfio.runtime.page import Page
from ixy_vfio.runtime.sandbox import Seal

READY = Seal(["memory"]).pack()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Worker]]:
    """The worker's end of the socketpair, and the worker as control sees it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5.0)
    page = Page(1)
    with ours, theirs:
        yield theirs, Worker(os.getpid(), ours, page, None)
    page.hand_over()
    page.close()


@pytest.mark.parametrize("size", [1, 8, SIZE - 1, SIZE + 1])
def test_a_message_of_another_size(ends: tuple[socket.socket, Worker], size: int) -> None:
    ends[0].send(struct.pack("<II", Kind.READY, 0).ljust(SIZE + 1, b"\0")[:size])
    with pytest.raises(WorkerError, match=f"a message of {size} bytes .*; every one has {SIZE}"):
        messages.receive(ends[1].connection)


@pytest.mark.parametrize(("kind", "length"), [(0, 0), (77, 0), (Kind.READY, TEXT + 1)])
def test_a_message_of_no_kind_or_with_a_length_that_cannot_be(
    ends: tuple[socket.socket, Worker], kind: int, length: int
) -> None:
    ends[0].send(struct.pack("<II", kind, length).ljust(SIZE, b"\0"))
    with pytest.raises(WorkerError, match=f"malformed message between control and worker: kind {int(kind)}, length"):
        messages.receive(ends[1].connection)


@pytest.mark.parametrize("payload", [b"", b"\0" * 15, b"\0" * 17])
def test_a_share_of_another_length(payload: bytes) -> None:
    with pytest.raises(WorkerError, match=f"a malformed share: {len(payload)} bytes, not 16"):
        Share.unpack(payload)


@pytest.mark.parametrize(
    ("before", "kind", "payload"),
    [
        ((), Kind.SHARE, Share().pack()),
        ((), Kind.DONE, Share().pack()),
        ((), Kind.GO, b""),
        ((READY,), Kind.READY, READY),
        ((READY,), Kind.STOP, b""),
    ],
    ids=["share before it is sealed", "done before it is sealed", "control's word", "sealed twice", "control's, later"],
)
def test_a_message_whose_turn_it_is_not(
    ends: tuple[socket.socket, Worker], before: tuple[bytes, ...], kind: Kind, payload: bytes
) -> None:
    theirs, worker = ends
    for text in before:
        messages.send(theirs, Kind.READY, text)
        worker.receive()
    messages.send(theirs, kind, payload)
    with pytest.raises(WorkerError, match=f"sent {kind.name}, which is not its turn"):
        worker.receive()


@pytest.mark.parametrize("sealed", [False, True])
def test_what_a_worker_says_of_its_error_reaches_no_terminal_as_it_is(
    ends: tuple[socket.socket, Worker], sealed: bool
) -> None:
    theirs, worker = ends
    if sealed:
        messages.send(theirs, Kind.READY, READY)
        worker.receive()
    messages.send(theirs, Kind.ERROR, b"\x1b[2Jgone\nand more")
    with pytest.raises(WorkerError if sealed else SealError) as caught:
        worker.receive()
    assert str(caught.value).endswith(": ?[2Jgone?and more")
