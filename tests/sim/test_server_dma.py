"""DMA that no window allows: counted, and repeated as a message to a client that serves DMA messages."""

import errno
import os
from collections.abc import Iterator

import pytest

from ixy_vfio.hw import ixgbe
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command
from tests.sim.server_rig import Running
from tests.sim.vfio_client import Client

RING = 0x1234_5000


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running(2)
    running.control(cmd="cable", spec="0:port:1")
    running.eventually(lambda: running.server.nics[0].link.up)
    yield running
    running.close()


def send_from_nowhere(client: Client) -> None:
    """A transmit ring where the client has mapped nothing."""
    client.write(4, 0x0006, 2, wire.CONFIG_REGION)
    client.write(ixgbe.DMATXCTL.offset(), client.read(ixgbe.DMATXCTL.offset()) | 1)
    client.write(ixgbe.TDBAL.offset(), RING)
    client.write(ixgbe.TDBAH.offset(), 0)
    client.write(ixgbe.TDLEN.offset(), 1024)
    client.write(ixgbe.TXDCTL.offset(), 0x0200_0000)
    client.post(ixgbe.TDT.offset(), 1)


def test_a_miss_is_repeated_to_a_client_that_serves_dma_messages(running: Running) -> None:
    with running.client() as client:
        client.version(max_dma_maps=65535)
        send_from_nowhere(client)
        message = client.receive()
        assert message is not None
        assert (message.command, message.is_reply) == (Command.DMA_READ, False)
        address, count = wire.DMA_ACCESS.unpack(message.payload)
        assert (address, count) == (RING, 16)
        client.socket.sendall(wire.pack(message.id, message.command, b"", wire.TYPE_REPLY | wire.ERROR, errno.EFAULT))
        assert client.read(ixgbe.FWSM.offset()) == 0x8000
        assert running.control(cmd="counters", port=0)["last_misses"] == [[RING, 16, False]]


def test_another_client_hears_nothing_of_it(running: Running) -> None:
    with running.client() as client:
        client.version()
        send_from_nowhere(client)
        running.eventually(lambda: running.server.ports[0].dma.misses == 1)
        assert client.read(ixgbe.FWSM.offset()) == 0x8000  # the next message is the reply to this


def test_nothing_is_touched_without_bus_master(running: Running) -> None:
    with running.client() as client:
        client.version(max_dma_maps=65535)
        client.write(4, 0x0006, 2, wire.CONFIG_REGION)
        client.write(4, 0x0002, 2, wire.CONFIG_REGION)
        send = [(ixgbe.TDBAL, RING), (ixgbe.TDLEN, 1024), (ixgbe.TXDCTL, 0x0200_0000), (ixgbe.TDT, 1)]
        client.write(ixgbe.DMATXCTL.offset(), client.read(ixgbe.DMATXCTL.offset()) | 1)
        for row, value in send:
            client.write(row.offset(), value)
        for _ in range(100):
            assert client.read(ixgbe.FWSM.offset()) == 0x8000
        assert running.server.ports[0].dma.misses == 0


def test_what_a_device_could_reach_is_told_in_order(running: Running) -> None:
    memory = os.memfd_create("memory")
    os.truncate(memory, 0x3000)
    with running.client() as client:
        client.version()
        for page in range(3):
            client.call(Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0x1000 * page, 0x1000 * page, 0x1000), [memory])
        client.write(4, 0x0006, 2, wire.CONFIG_REGION)
        client.write(4, 0x0006, 2, wire.CONFIG_REGION)  # no change
        client.write(4, 0x0002, 2, wire.CONFIG_REGION)
        client.call(Command.DEVICE_RESET, b"")
        with pytest.raises(FileNotFoundError):
            client.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, 0, 0x8000, 0x1000))  # nothing lies there
        client.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, 0, 0, 0x1000))
        client.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, wire.DMA_UNMAP_ALL, 0, 0))
        told = [["map", 3], ["bus master on", 1], ["bus master off", 1], ["reset", 1], ["unmap", 3]]
        assert running.control(cmd="history", port=0) == {"history": told}
        assert running.control(cmd="history", port=0) == {"history": []}
    os.close(memory)
