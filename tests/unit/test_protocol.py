"""The helper's messages, byte by byte."""

import contextlib
import dataclasses
import os
import resource
import socket
import struct
from collections.abc import Iterator

import pytest
from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import (
    REPLIES,
    REQUESTS,
    Allocated,
    Attach,
    Attached,
    End,
    Ended,
    Hello,
    List,
    Listed,
    Memory,
    Message,
    ProtocolError,
    Refused,
    Seal,
    Sealed,
    Welcome,
    decode,
    encode,
    receive,
)

from tests.unit.lease_support import open_fds

EXAMPLES: list[Message] = [
    Hello(),
    List(3),
    Attach("0000:03:1f.7"),
    Memory(2112 * 4096, 0b101, 2),
    Seal(),
    End(),
    Welcome(1 << 33, 2),
    Listed(2, "8259:00:01.0", 0x8086, 0x10FB, 1, -1, "vfio-pci"),
    Attached(1, 2),
    Allocated((1 << 39) - 4096, 1 << 21, 1 << 21, "x" * protocol.TEXT),
    Sealed(),
    Refused("no"),
    Ended(""),
]
ALL = REQUESTS | REPLIES


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


def test_there_is_an_example_of_every_message() -> None:
    assert [type(message) for message in EXAMPLES] == list(ALL.values())
    assert set(ALL.values()) == set(Message.__subclasses__())
    assert not set(REQUESTS) & set(REPLIES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_has_one_size_and_comes_back_the_same(message: Message) -> None:
    data = encode(message, 77)
    assert len(data) == 256
    assert decode(data, ALL) == (77, message)


def test_the_bytes_of_the_requests() -> None:
    def body(code: int, payload: bytes) -> bytes:
        return (b"IXYH" + struct.pack("<HHI", 1, code, 9) + payload).ljust(256, b"\0")

    assert encode(Hello(), 9)[:4] == b"IXYH"
    assert encode(Hello(), 9) == body(1, b"")
    assert encode(List(5), 9) == body(2, b"\5\0\0\0")
    assert encode(Attach("0000:03:00.0"), 9) == body(3, b"0000:03:00.0\0\0\0\0")
    assert encode(Memory(0x123456789A, 3, 1), 9) == body(4, bytes.fromhex("9a78563412000000 03000000 01000000"))
    assert encode(Seal(), 9) == body(5, b"")
    assert encode(End(), 9) == body(6, b"")


def test_no_request_has_a_field_for_an_iova_an_address_of_memory_a_path_or_a_descriptor() -> None:
    fields = {kind.__name__: [field.name for field in dataclasses.fields(kind)] for kind in REQUESTS.values()}
    assert fields == {
        "Hello": [],
        "List": ["index"],
        "Attach": ["address"],
        "Memory": ["size", "devices", "purpose"],
        "Seal": [],
        "End": [],
    }
    assert all(kind.fds == 0 for kind in REQUESTS.values())


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_byte_after_the_body_must_be_zero(message: Message) -> None:
    data = encode(message, 1)
    for position in range(protocol.HEADER.size + message.layout.size, 256):
        changed = bytearray(data)
        changed[position] = 1
        with pytest.raises(ProtocolError, match="non-zero padding"):
            decode(bytes(changed), ALL)


@pytest.mark.parametrize("size", [0, 1, 12, 255, 257, 512])
def test_every_other_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="not 256"):
        decode(encode(Hello(), 1).ljust(512, b"\0")[:size], REQUESTS)


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, 0x48, "not a message of this protocol"),
        (4, 2, "speaks version 2, this one 1"),
        (6, 0, "unknown message type 0x0"),
        (6, 0x3E, "unknown message type 0x3e"),
        (7, 1, "unknown message type 0x101"),  # a reply's type
    ],
)
def test_the_header_is_checked(position: int, value: int, text: str) -> None:
    data = bytearray(encode(Hello(), 1))
    data[position] = value
    with pytest.raises(ProtocolError, match=text):
        decode(bytes(data), REQUESTS)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "03:00.0",
        "0000:03:00.8",
        "0000:03:20.0",
        "0000:0A:00.0",
        "../../../etc/x",
        "0000:03:00.0\n",
        "0000:03:00.00",
    ],
)
def test_what_is_not_a_pci_address_is_no_attach(address: str) -> None:
    with pytest.raises(ProtocolError, match="not a PCI address"):
        Attach(address)
    data = encode(Attach("0000:03:00.0"), 1)
    raw = data[:12] + address.encode().ljust(16, b"\0") + data[28:]
    with pytest.raises(ProtocolError, match=r"not a PCI address|printable"):
        decode(raw, REQUESTS)


@pytest.mark.parametrize("text", [b"a\0b", b"a\n", b"\x1b[2J", b"\xff", b"\x7f"])
def test_a_text_is_printable_ascii_and_ends_at_its_first_zero(text: bytes) -> None:
    data = encode(Refused(""), 1)
    with pytest.raises(ProtocolError, match="printable"):
        decode(data[:12] + text.ljust(160, b"\0") + data[172:], REPLIES)


@pytest.mark.parametrize("memory", [(0, 1, 1), (4096, 0, 1), (4096, 1, 0), (4096, 1, 4)])
def test_memory_has_a_size_a_device_and_a_purpose(memory: tuple[int, int, int]) -> None:
    with pytest.raises(ProtocolError, match="without"):
        Memory(*memory)
    data = encode(Memory(1, 1, 1), 1)
    with pytest.raises(ProtocolError, match="without"):
        decode(data[:12] + struct.pack("<QII", *memory) + data[28:], REQUESTS)


@pytest.mark.parametrize(
    "message",
    [Refused("x" * 161), Listed(0, "x" * 17, 0, 0, 0, 0, ""), List(1 << 32), Memory(1 << 64, 1, 1), List(-1)],
)
def test_a_value_that_does_not_fit_is_not_sent(message: Message) -> None:
    with pytest.raises(ProtocolError, match=type(message).__name__):
        encode(message, 1)


def test_one_line_fits_a_message() -> None:
    text = protocol.one_line("two\nlines\t\x1b[1m and caf\u00e9 " + "x" * 500)
    assert text.startswith("two lines ?[1m and caf? xxx")
    assert len(text) == 160
    assert decode(encode(Ended(text), 0), REPLIES) == (0, Ended(text))


def test_receive_gives_the_descriptor_that_belongs_to_a_reply(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    before = open_fds()
    with open(os.devnull, "rb") as null:
        protocol.send(theirs, Attached(0, 1), 5, (null.fileno(),))
    received = receive(ours, REPLIES)
    assert received is not None
    sequence, message, fds = received
    assert (sequence, message, len(fds)) == (5, Attached(0, 1), 1)
    assert not os.get_inheritable(fds[0])
    os.close(fds[0])
    assert open_fds() == before


@pytest.mark.parametrize(
    ("message", "count"),
    [(Attached(0, 1), 0), (Attached(0, 1), 2), (Sealed(), 1), (Attached(0, 1), 17), (Sealed(), 200)],
)
def test_another_number_of_descriptors_is_refused_and_all_are_closed(
    pair: tuple[socket.socket, socket.socket], message: Message, count: int
) -> None:
    ours, theirs = pair
    before = open_fds()
    protocol.send(theirs, message, 1, [theirs.fileno()] * count)
    with pytest.raises(ProtocolError, match="unexpected file descriptors"):
        receive(ours, REPLIES)
    assert open_fds() == before


def test_descriptors_that_did_not_fit_are_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    """Of two, this process has room for one, as many as belong to the message."""
    ours, theirs = pair
    before = open_fds()
    protocol.send(theirs, Attached(0, 1), 1, [theirs.fileno()] * 2)
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(ProtocolError, match="unexpected file descriptors"):
            receive(ours, REPLIES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_fds() == before


@pytest.mark.parametrize("size", [0, 255, 257, 70000])
def test_descriptors_beside_a_message_of_a_wrong_size_are_closed(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    ours, theirs = pair
    before = open_fds()
    socket.send_fds(theirs, [bytes(size)], [theirs.fileno()] * 3)
    with pytest.raises(ProtocolError, match="not 256"):
        receive(ours, REPLIES)
    assert open_fds() == before


def test_the_end_of_the_connection_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert receive(ours, REPLIES) is None


def test_send_does_not_wait_for_a_reader_that_does_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    _, theirs = pair
    theirs.settimeout(None)  # as in the helper; Python would wait for the timeout of its own
    with contextlib.suppress(BlockingIOError):
        for _ in range(100_000):
            protocol.send(theirs, Sealed(), 1)
    with pytest.raises(BlockingIOError):
        protocol.send(theirs, Sealed(), 1)
