"""The vfio-user server: commands, roles, control socket."""

import errno
import fcntl
import mmap
import os
import socket
import struct
from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.server import Server
from ixy_vfio.transport import wire
from ixy_vfio.transport.wire import Command
from tests.sim.server_rig import CONFIG, Running, dma_map, memory
from tests.sim.vfio_client import Client


def test_version_carries_the_capabilities(running: Running) -> None:
    with running.client() as client:
        answer = client.version(max_msg_fds=8)
        assert answer == {"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1048544}}
    running.eventually(lambda: not running.server.sessions)


def test_device_info(owner: Client) -> None:
    reply = owner.call(Command.DEVICE_GET_INFO, wire.DEVICE_INFO.pack(16, 0, 0, 0))
    assert wire.DEVICE_INFO.unpack(reply) == (16, 3, 9, 5)


def test_region_info_names_its_capabilities_before_there_is_room_for_them(owner: Client) -> None:
    reply = owner.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, 0, 0, 0, 0))
    assert wire.REGION_INFO.unpack(reply) == (80, 0xF, 0, 32, 0x80000, 0)
    assert owner.fds == []
    reply = owner.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(80, 0, 0, 0, 0, 0))
    assert wire.REGION_INFO.unpack_from(reply) == (80, 0xF, 0, 32, 0x80000, 0)
    assert struct.unpack_from("<HHIIIQQQQ", reply, 32) == (1, 1, 0, 2, 0, 0x1000, 0x1000, 0x6000, 0x2000)
    assert len(owner.fds) == 1


@pytest.mark.parametrize(("index", "size"), [(1, 0), (4, 0x4000), (6, 0), (7, 4096), (8, 0)])
def test_the_other_regions(owner: Client, index: int, size: int) -> None:
    reply = owner.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(80, 0, index, 0, 0, 0))
    assert wire.REGION_INFO.unpack(reply) == (32, 3 if size else 0, index, 0, size, 0)


@pytest.mark.parametrize(("index", "flags", "count"), [(0, 7, 1), (1, 9, 1), (2, 1, 64), (3, 9, 1), (4, 9, 1)])
def test_interrupt_info(owner: Client, index: int, flags: int, count: int) -> None:
    reply = owner.call(Command.DEVICE_GET_IRQ_INFO, wire.IRQ_INFO.pack(16, 0, index, 0))
    assert wire.IRQ_INFO.unpack(reply) == (16, flags, index, count)


def test_the_shared_pages_are_the_queue_registers(running: Running, owner: Client) -> None:
    owner.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(80, 0, 0, 0, 0, 0))
    fd = owner.fds.pop()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    for offset, size in (ixgbe.RX_QUEUE_PAGES, ixgbe.TX_QUEUE_PAGES):
        with mmap.mmap(fd, size, offset=offset) as page:
            view = memoryview(page).cast("I")
            view[0x40 // 4] = 0x1234_5680
            assert owner.read(offset + 0x40) == 0x1234_5680
            owner.write(offset + 0x44, 0x77)
            assert view[0x44 // 4] == 0x77
            view.release()
    os.close(fd)


def test_configuration_space_in_any_size(owner: Client) -> None:
    assert owner.read(0, 4, CONFIG) == 0x10FB_8086
    assert owner.read(8, 4, CONFIG) == 0x0200_0001
    assert owner.read(0, 4096, CONFIG) & 0xFFFF_FFFF == 0x10FB_8086
    owner.write(4, 0x0006, 2, CONFIG)
    assert owner.read(4, 2, CONFIG) == 0x0006


def test_bus_master_and_reset(running: Running, owner: Client) -> None:
    port = running.server.ports[0]
    owner.write(4, 0x0006, 2, CONFIG)
    assert port.bus_master is True
    owner.write(ixgbe.MAXFRS.offset(), 0x2400_0000)
    assert owner.call(Command.DEVICE_RESET) == b""
    assert owner.read(ixgbe.MAXFRS.offset()) == 0x05EE_0000
    assert port.bus_master is True
    owner.write(4, 0x0002, 2, CONFIG)
    assert port.bus_master is False


def test_posted_writes_get_no_reply_and_keep_their_order(owner: Client) -> None:
    for value in range(200):
        owner.post(ixgbe.FCTTV.offset(), value)
    assert owner.read(ixgbe.FCTTV.offset()) == 199


def test_interrupts_by_eventfd(owner: Client) -> None:
    one, two = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    trigger = wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_EVENTFD
    owner.write(4, 0x0006, 2, CONFIG)
    owner.set_irqs(trigger, wire.MSIX_IRQ, 0, 1, [one])
    owner.set_irqs(trigger, wire.MSIX_IRQ, 5, 1, [two])
    assert owner.read(0x72, 2, CONFIG) == 0x803F
    owner.set_irqs(wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.MSIX_IRQ, 0, 6)
    assert (os.eventfd_read(one), os.eventfd_read(two)) == (1, 1)
    owner.write(ixgbe.EIMS.offset(), 1)
    owner.write(ixgbe.EICS.offset(), 1)
    assert os.eventfd_read(one) == 1
    owner.set_irqs(trigger, wire.MSIX_IRQ, 0, 1)  # no file descriptor: taken away
    owner.set_irqs(wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.MSIX_IRQ, 0, 0)
    assert owner.read(0x72, 2, CONFIG) == 0x003F
    for index in (wire.ERR_IRQ, wire.REQ_IRQ):
        owner.set_irqs(trigger, index, 0, 1, [two])
    os.close(one)
    os.close(two)


@pytest.mark.parametrize(
    ("flags", "index", "start", "count"),
    [
        (wire.IRQ_SET_TRIGGER, 2, 0, 1),  # no data type
        (wire.IRQ_SET_DATA_NONE, 2, 0, 1),  # no action
        (wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, 2, 60, 5),
        *((wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, index, 0, 1) for index in range(3)),  # not switched on
        (wire.IRQ_SET_UNMASK | wire.IRQ_SET_DATA_NONE, 0, 0, 1),
        (wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, 1, 0, 2),
        (wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, 9, 0, 1),
        (wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, 2, 64, 0),
        (wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_BOOL, 2, 0, 1),  # no data
        (0x100 | wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, 2, 0, 1),
    ],
)
def test_wrong_interrupt_settings_are_refused(owner: Client, flags: int, index: int, start: int, count: int) -> None:
    with pytest.raises(OSError) as refused:
        owner.set_irqs(flags, index, start, count)
    assert refused.value.errno == errno.EINVAL
    assert owner.read(ixgbe.FWSM.offset()) == 0x8000  # the connection goes on


def test_masks_are_answered_as_the_kernel_does(owner: Client) -> None:
    none, eventfd = wire.IRQ_SET_DATA_NONE, wire.IRQ_SET_DATA_EVENTFD
    for action in (wire.IRQ_SET_MASK, wire.IRQ_SET_UNMASK):
        for index, data in (
            (wire.MSIX_IRQ, none),
            (wire.MSI_IRQ, none),
            (wire.ERR_IRQ, none),
            (wire.INTX_IRQ, eventfd),
        ):
            with pytest.raises(OSError) as refused:
                owner.set_irqs(action | data, index, 0, 1)
            assert refused.value.errno == errno.ENOTTY


def test_the_line_by_messages(running: Running, owner: Client) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    before = running.control(cmd="counters", port=0)["intx"]
    trigger = wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_EVENTFD
    owner.set_irqs(trigger, wire.INTX_IRQ, 0, 1, [fd])
    for index in (wire.MSI_IRQ, wire.MSIX_IRQ):  # one kind at a time
        with pytest.raises(OSError) as refused:
            owner.set_irqs(trigger, index, 0, 1, [fd])
        assert refused.value.errno == errno.EINVAL
    owner.write(ixgbe.EIMS.offset(), 1)
    owner.write(ixgbe.EICS.offset(), 1)
    for expected in (1, 1):
        assert os.eventfd_read(fd) == expected
        with pytest.raises(BlockingIOError):  # masked, by itself
            os.eventfd_read(fd)
        unmask = wire.IRQ_SET_UNMASK | wire.IRQ_SET_DATA_BOOL
        request = wire.IRQ_SET.pack(21, unmask, wire.INTX_IRQ, 0, 1)
        owner.call(Command.DEVICE_SET_IRQS, request + b"\0")  # nothing is unmasked
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        owner.call(Command.DEVICE_SET_IRQS, request + b"\1")
    assert os.eventfd_read(fd) == 1
    owner.read(ixgbe.EICR.offset())
    owner.set_irqs(wire.IRQ_SET_MASK | wire.IRQ_SET_DATA_NONE, wire.INTX_IRQ, 0, 1)
    owner.write(ixgbe.EICS.offset(), 1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    owner.set_irqs(wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.INTX_IRQ, 0, 1)  # by hand
    assert os.eventfd_read(fd) == 1
    assert running.control(cmd="counters", port=0)["intx"] - before == 3
    owner.set_irqs(wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.INTX_IRQ, 0, 0)
    owner.set_irqs(trigger, wire.MSI_IRQ, 0, 1, [fd])
    assert owner.read(0x52, 2, CONFIG) == 0x0181
    owner.write(4, 0x0006, 2, CONFIG)
    owner.read(ixgbe.EICR.offset())
    owner.write(ixgbe.EICS.offset(), 1)
    assert os.eventfd_read(fd) == 1
    owner.set_irqs(wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.MSI_IRQ, 0, 0)
    assert owner.read(0x52, 2, CONFIG) == 0x0180
    owner.write(ixgbe.EIMC.offset(), 1)
    os.close(fd)


def test_a_trigger_signals_whatever_is_masked(owner: Client) -> None:
    """The kernel and libvfio-user write to the eventfd: the device has no say in it."""
    one, two = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    eventfd, none, data = wire.IRQ_SET_DATA_EVENTFD, wire.IRQ_SET_DATA_NONE, wire.IRQ_SET_DATA_BOOL
    owner.write(4, 0, 2, CONFIG)  # no bus master: no message of the device's own
    owner.set_irqs(wire.IRQ_SET_TRIGGER | eventfd, wire.MSIX_IRQ, 3, 1, [one])
    owner.set_irqs(wire.IRQ_SET_TRIGGER | eventfd, wire.ERR_IRQ, 0, 1, [two])
    for index, start, fd in ((wire.MSIX_IRQ, 3, one), (wire.ERR_IRQ, 0, two)):
        owner.set_irqs(wire.IRQ_SET_TRIGGER | none, index, start, 1)
        assert os.eventfd_read(fd) == 1
        for wanted in (b"\0", b"\1"):
            request = wire.IRQ_SET.pack(21, wire.IRQ_SET_TRIGGER | data, index, start, 1) + wanted
            assert owner.call(Command.DEVICE_SET_IRQS, request) == b""
        assert os.eventfd_read(fd) == 1
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        os.close(fd)


@pytest.mark.parametrize(("announced", "passed"), [({}, 1), ({"max_msg_fds": 8}, 1), ({"max_msg_fds": 0}, 0)])
def test_no_more_descriptors_than_the_client_takes(running: Running, announced: dict[str, int], passed: int) -> None:
    with running.client() as client:
        client.version(**announced)
        client.send(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(80, 0, 0, 0, 0, 0))
        reply = client.receive()
        assert reply is not None
        assert len(reply.fds) == passed
        assert bool(wire.REGION_INFO.unpack_from(reply.payload)[1] & wire.REGION_FLAG_MMAP) == bool(passed)
        for fd in reply.fds:
            os.close(fd)


def test_dma_windows(running: Running, owner: Client) -> None:
    table = running.server.ports[0].dma
    fd = memory(0x4000)
    assert dma_map(owner, 0x10000, 0x1000, [fd]) == b""
    assert dma_map(owner, 0x20000, 0x3000, [fd], 0x1000) == b""
    assert dma_map(owner, 0xE000_0000, 0x1000, []) == b""  # a BAR: by message only
    assert len(table) == 3
    for iova, size, offset in (
        (0x30000, 0x5000, 0),
        (0x10800, 0x1000, 0),
        (0x30000, 0, 0),
        ((1 << 64) - 4096, 8192, 0),
    ):
        with pytest.raises(OSError) as refused:
            dma_map(owner, iova, size, [fd], offset)
        assert refused.value.errno == errno.EINVAL
    unmap = wire.DMA_UNMAP.pack(24, 0, 0, 0x1_0000_0000)
    assert owner.call(Command.DMA_UNMAP, unmap) == unmap
    assert len(table) == 0
    dma_map(owner, 0x10000, 0x4000, [fd])
    for flags, iova, size, number in (
        (0, 0x50000, 0x1000, errno.ENOENT),  # nothing is there
        (0, 0x10000, 0x1000, errno.EINVAL),  # a part of a window
        (0, 0x13000, 0x10000, errno.EINVAL),
        (0, 0x10000, 0, errno.EINVAL),
        (0, (1 << 64) - 4096, 8192, errno.EINVAL),
        (wire.DMA_UNMAP_ALL, 0x10000, 0x4000, errno.EINVAL),
        (1, 0x10000, 0x4000, errno.EINVAL),
    ):
        with pytest.raises(OSError) as refused:
            owner.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, flags, iova, size))
        assert (refused.value.errno, len(table)) == (number, 1), (flags, iova, size)
    for _ in range(2):  # all of nothing is all
        owner.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, wire.DMA_UNMAP_ALL, 0, 0))
        assert len(table) == 0
    os.close(fd)


def test_windows_go_with_their_owner(running: Running) -> None:
    maps = Path("/proc/self/maps").read_text().count("memfd:test")
    fd = memory(0x2000)
    with running.client(1) as client:
        client.version()
        dma_map(client, 0, 0x1000, [fd])
        assert len(running.server.ports[1].dma) == 1
    running.eventually(lambda: not running.server.sessions)
    os.close(fd)
    assert len(running.server.ports[1].dma) == 0
    assert Path("/proc/self/maps").read_text().count("memfd:test") == maps
    running.nothing_is_left()


def test_one_owner_a_port(running: Running, owner: Client) -> None:
    with running.client() as second, pytest.raises(OSError) as refused:
        second.version()
    assert refused.value.errno == errno.EBUSY
    with running.client(1) as other:
        other.version()


def test_a_device_only_client_uses_the_device_but_maps_nothing(running: Running, owner: Client) -> None:
    fd = memory(0x1000)
    with running.client() as lent:
        assert lent.version(**{wire.DEVICE_ONLY: True})["capabilities"][wire.DEVICE_ONLY] is True
        lent.write(ixgbe.FCTTV.offset(), 42)
        assert owner.read(ixgbe.FCTTV.offset()) == 42
        with pytest.raises(PermissionError):
            dma_map(lent, 0, 0x1000, [fd])
        with pytest.raises(PermissionError):
            lent.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, wire.DMA_UNMAP_ALL, 0, 0))
        owner.socket.shutdown(socket.SHUT_RDWR)
        assert lent.receive() is None  # it ends with its owner
    os.close(fd)


def test_a_device_only_client_needs_an_owner(running: Running) -> None:
    with running.client() as lent, pytest.raises(PermissionError):
        lent.version(**{wire.DEVICE_ONLY: True})


def test_control_socket(running: Running, owner: Client) -> None:
    running.control(cmd="violations", clear=True)
    owner.write(ixgbe.FWSM.offset(), 1)
    text = "port 0: FWSM: write of 0x00000001 to a read-only register"
    assert running.control(cmd="violations") == {"count": 1, "violations": [text]}
    assert running.control(cmd="violations", clear=True)["count"] == 1
    assert running.control(cmd="violations") == {"count": 0, "violations": []}
    assert running.control(cmd="trace", port=0, on=True) == {}
    owner.write(ixgbe.LEDCTL.offset(), 0xE)
    assert running.control(cmd="trace", port=0) == {"trace": [["write", 0x200, 0xE]]}
    assert running.control(cmd="trace", port=0, on=False) == {}
    assert running.control(cmd="counters", port=1)["counters"] == {}
    assert running.control(cmd="cables") == {"cables": []}
    assert "error" in running.control(cmd="link", port=0)
    assert running.control(cmd="counters", port=7) == {"error": "there is no port 7"}
    assert running.control(cmd="nonsense") == {"error": "unknown command 'nonsense'"}


def test_a_cable_brings_the_link_and_vanishing_takes_it(running: Running) -> None:
    single = Running(2)
    try:
        assert single.control(cmd="counters", port=0)["link"] is False
        assert single.control(cmd="cable", spec="0:port:1") == {}
        assert "port 0 has a cable" in single.control(cmd="cable", spec="0:port:1")["error"]
        single.eventually(lambda: all(nic.link.up for nic in single.server.nics))
        single.control(cmd="link", port=1, up=False)
        single.eventually(lambda: not any(nic.link.up for nic in single.server.nics))
        single.control(cmd="link", port=1, up=True)
        single.eventually(lambda: all(nic.link.up for nic in single.server.nics))
        with single.client() as client:
            client.version()
            single.control(cmd="vanish", port=0)
            assert client.read(ixgbe.STATUS.offset()) == 0xFFFF_FFFF
            assert client.read(0, 4, CONFIG) == 0xFFFF_FFFF
            client.write(ixgbe.CTRL.offset(), 0)
        single.eventually(lambda: not single.server.nics[1].link.up)
    finally:
        single.close()


def test_trap_mode_offers_no_pages() -> None:
    trapping = Running(1, trap=True)
    try:
        with trapping.client() as client:
            client.version()
            reply = client.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(80, 0, 0, 0, 0, 0))
            assert wire.REGION_INFO.unpack(reply) == (32, 3, 0, 0, 0x80000, 0)
            client.write(ixgbe.RDLEN.offset(3), 0xF_FFFF)
            assert client.read(ixgbe.RDLEN.offset(3)) == 0xF_FF80
    finally:
        trapping.close()


def test_a_directory_in_use_is_refused_and_a_stale_socket_is_not(running: Running, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in use by a running simulator"):
        Server(running.directory, 1)
    with running.client() as client:  # the running one is unharmed
        client.version()
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(tmp_path / "port0.sock"))
    stale.close()
    server = Server(tmp_path, 1)
    server.close()
    assert list(tmp_path.iterdir()) == []
