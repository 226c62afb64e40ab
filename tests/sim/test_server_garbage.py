"""The vfio-user server: what it does with garbage, and with clients that mean no good."""

import errno
import os
import random
import socket

import pytest

from ixy_vfio.hw import ixgbe
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command
from tests.sim.server_rig import CONFIG, Running, memory
from tests.sim.vfio_client import Client

GARBAGE: dict[str, bytes] = {
    "size too small": wire.HEADER.pack(1, 4, 15, 0, 0),
    "size too large": wire.HEADER.pack(1, 4, wire.MAX_MESSAGE + 1, 0, 0),
    "size huge": wire.HEADER.pack(1, 4, 0xFFFF_FFFF, 0, 0),
    "unknown flags": wire.pack(1, Command.DEVICE_GET_INFO, bytes(16), flags=0x8000_0000),
    "unasked reply": wire.pack(1, Command.DMA_READ, b"", flags=wire.TYPE_REPLY),
    "short read": wire.pack(1, Command.REGION_READ, b"\0" * 15),
    "short map": wire.pack(1, Command.DMA_MAP, bytes(31)),
    "short interrupt set": wire.pack(1, Command.DEVICE_SET_IRQS, bytes(19)),
    "write without data": wire.pack(1, Command.REGION_WRITE, wire.REGION_ACCESS.pack(0, 0, 4)),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_connection_and_nothing_else(running: Running, garbage: bytes) -> None:
    with running.client() as bad, running.client(1) as good:
        good.version()
        bad.version()
        bad.socket.sendall(garbage)
        assert bad.receive() is None
        assert good.read(ixgbe.FWSM.offset()) == 0x8000
    running.nothing_is_left()


@pytest.mark.parametrize(
    "first",
    [
        wire.pack(1, Command.DEVICE_GET_INFO, bytes(16)),
        wire.pack(1, Command.VERSION, b"\0"),
        wire.pack(1, Command.VERSION, wire.VERSION.pack(0, 1) + b"not json\0"),
        wire.pack(1, Command.VERSION, wire.VERSION.pack(0, 1) + b"[1]\0"),
        wire.pack(1, Command.VERSION, wire.VERSION.pack(0, 1) + b'{"capabilities": 3}\0'),
        wire.pack(1, Command.VERSION, wire.VERSION.pack(0, 1) + b"[" * 100_000 + b"\0"),
    ],
)
def test_a_connection_starts_with_version(running: Running, first: bytes) -> None:
    with running.client() as client:
        client.socket.sendall(first)
        assert client.receive() is None
    running.eventually(lambda: not running.server.sessions)


def test_unexpected_file_descriptors_are_closed(running: Running) -> None:
    fd = memory(0x1000)
    for command, payload, count in (
        (Command.DEVICE_GET_INFO, bytes(16), 1),
        (Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, 0, 0x1000), 2),
        (Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, 36, 2, 0, 4), 3),
        (Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, 33, 2, 0, 4), 4),
        (Command.DMA_MAP, b"", 16),
    ):
        with running.client() as client:
            client.version()
            client.send(command, payload, [fd] * count)
            assert client.receive() is None
        running.eventually(lambda: not running.server.sessions)
    with running.client() as client:  # half a message with descriptors, and gone
        client.version()
        socket.send_fds(client.socket, [b"\1\0"], [fd] * 4)
    running.nothing_is_left(extra=1)
    os.close(fd)


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(0, 0x80000, 4), (0, 0x7FFFE, 4), (1, 0, 4), (7, 4094, 4), (7, (1 << 64) - 4, 4), (9, 0, 4), (7, 0, 0)],
)
def test_accesses_outside_a_region_are_refused(owner: Client, region: int, offset: int, count: int) -> None:
    with pytest.raises(OSError) as refused:
        owner.call(Command.REGION_READ, wire.REGION_ACCESS.pack(offset, region, count))
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(OSError) as refused:
        owner.call(Command.REGION_WRITE, wire.REGION_ACCESS.pack(offset, region, count) + bytes(count))
    assert refused.value.errno == errno.EINVAL


def test_an_unknown_command_is_refused(owner: Client) -> None:
    with pytest.raises(OSError) as refused:
        owner.call(99)
    assert refused.value.errno == errno.ENOTSUP


def test_a_client_that_does_not_read_its_replies_blocks_itself_alone(running: Running, owner: Client) -> None:
    with running.client(1) as deaf:
        deaf.version()
        deaf.socket.settimeout(0.2)
        read = wire.pack(1, Command.REGION_READ, wire.REGION_ACCESS.pack(0, CONFIG, 4096))
        with pytest.raises(TimeoutError):
            deaf.socket.sendall(read * 10_000)
        assert owner.read(ixgbe.FWSM.offset()) == 0x8000
    running.eventually(lambda: len(running.server.sessions) == 1)


def test_random_messages_do_not_harm(running: Running) -> None:
    rng = random.Random(82599)
    for _ in range(150):
        with running.client() as client:
            client.version()
            client.socket.settimeout(0.5)
            try:
                for _ in range(20):
                    payload = rng.randbytes(rng.choice((0, 8, 16, 20, 24, 32, 80)))
                    client.send(rng.randrange(16), payload, flags=rng.choice((0, 0, 0, 0x10)))
            except OSError:
                pass
        running.nothing_is_left()
    with running.client() as client:
        client.version()
        assert client.read(0, 4, CONFIG) == 0x10FB_8086
    running.eventually(lambda: not running.server.sessions)
    running.control(cmd="violations", clear=True)
