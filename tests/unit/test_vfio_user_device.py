"""The vfio-user client against a scripted server: what it sends byte by byte, and what it does when it is lied to."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ixy_vfio.core import signals
from ixy_vfio.core.errors import DeviceError, DeviceGone, UsageError
from ixy_vfio.transport import vfio_user, wire
from ixy_vfio.transport.vfio_user import VfioUserDevice
from ixy_vfio.transport.wire import Command, Message

BAR_SIZE = 0x80000
FD_OFFSET = 0x10000
AREAS = ((0x1000, 0x1000), (0x6000, 0x2000))
Answer = tuple[bytes, list[int], int]  # payload, fds, error number


class Server:
    """Answers with the truth, unless `override` has another answer (None: end the connection)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.seen: list[Message] = []
        self.override: dict[int, Callable[[Message], Answer | None]] = {}
        self.memory = os.memfd_create("bar0")
        os.ftruncate(self.memory, FD_OFFSET + BAR_SIZE)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while message := wire.receive(self.connection):
            self.seen.append(message)
            if message.flags & wire.NO_REPLY:
                continue
            answer = self.override.get(message.command, self.answer)(message)
            if answer is None:
                break
            payload, fds, error = answer
            flags = wire.TYPE_REPLY | (wire.ERROR if error else 0)
            wire.send(self.connection, wire.pack(message.id, message.command, payload, flags, error), tuple(fds))
        self.connection.close()

    def answer(self, message: Message) -> Answer:
        match message.command:
            case Command.DEVICE_GET_INFO:
                return wire.DEVICE_INFO.pack(16, wire.DEVICE_FLAG_PCI | wire.DEVICE_FLAG_RESET, 9, 5), [], 0
            case Command.DEVICE_GET_IRQ_INFO:
                return wire.IRQ_INFO.pack(16, wire.IRQ_FLAG_EVENTFD, wire.MSIX_IRQ, 64), [], 0
            case Command.DEVICE_GET_REGION_INFO:
                return region_info(AREAS), [self.memory], 0
            case Command.REGION_READ:
                offset, region, count = wire.REGION_ACCESS.unpack(message.payload)
                return message.payload + (offset + region).to_bytes(count, "little"), [], 0
        return b"", [], 0

    def payloads(self, command: Command) -> list[bytes]:
        return [message.payload for message in self.seen if message.command == command]


def region_info(areas: tuple[tuple[int, int], ...], size: int = BAR_SIZE) -> bytes:
    flags = wire.REGION_FLAG_READ | wire.REGION_FLAG_WRITE
    if not areas:
        return wire.REGION_INFO.pack(32, flags, 0, 0, size, 0)
    sparse = wire.CAPABILITY.pack(wire.CAP_SPARSE_MMAP, 1, 0) + wire.SPARSE_MMAP.pack(len(areas), 0)
    sparse += b"".join(wire.SPARSE_AREA.pack(*area) for area in areas)
    flags |= wire.REGION_FLAG_MMAP | wire.REGION_FLAG_CAPS
    return wire.REGION_INFO.pack(32 + len(sparse), flags, 0, 32, size, FD_OFFSET) + sparse


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def server() -> Iterator[tuple[socket.socket, Server]]:
    near, far = socket.socketpair()
    running = Server(far)
    try:
        yield near, running
    finally:
        near.close()
        running.thread.join()
        for message in running.seen:
            for fd in message.fds:
                os.close(fd)
        os.close(running.memory)


@pytest.fixture
def opened() -> Iterator[tuple[VfioUserDevice, Server]]:
    before = open_fds()
    with server() as (near, running):
        device = VfioUserDevice(near, "8259:00:00.0")
        yield device, running
        device.close()
        device.close()
    assert open_fds() == before


def test_what_is_asked_at_the_start(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    assert [(message.command, message.payload) for message in running.seen] == [
        (Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0)),
        (Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, 2, 0)),
        (Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 4096, 0, 0, 0, 0, 0)),
    ]
    assert (device.msix_vectors, device.bar0.size) == (64, BAR_SIZE)


def test_a_register_is_read_by_message_and_written_by_a_posted_one(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    device.bar0.write32(0x4240, 0xFFFF_FFFF)
    assert device.bar0.read32(0x4240) == 0x4240
    write, read = running.seen[-2:]
    assert (write.command, write.flags) == (Command.REGION_WRITE, wire.NO_REPLY)
    assert write.payload == struct.pack("<QIII", 0x4240, 0, 4, 0xFFFF_FFFF)
    assert (read.command, read.flags, read.payload) == (Command.REGION_READ, 0, struct.pack("<QII", 0x4240, 0, 4))


@pytest.mark.parametrize("offset", [-4, 2, BAR_SIZE, BAR_SIZE - 2])
def test_a_register_outside_or_unaligned_is_refused(opened: tuple[VfioUserDevice, Server], offset: int) -> None:
    device, running = opened
    sent = len(running.seen)
    with pytest.raises(UsageError, match="register offset"):
        device.bar0.read32(offset)
    with pytest.raises(UsageError, match="register offset"):
        device.bar0.write32(offset, 0)
    with pytest.raises(UsageError, match="does not fit"):
        device.bar0.write32(0, 1 << 32)
    assert len(running.seen) == sent


def test_pages_are_mapped_at_the_region_s_offset_in_the_fd(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    mapping = device.bar0.map(0x7000, 0x1000)
    os.pwrite(running.memory, b"here", FD_OFFSET + 0x7000)
    assert bytes(mapping.view[:4]) == b"here"
    device.close()
    mapping.view[4] = 7  # it survives the device
    assert os.pread(running.memory, 5, FD_OFFSET + 0x7000) == b"here\x07"
    mapping.close()


@pytest.mark.parametrize(
    ("offset", "size"), [(0x0, 0x1000), (0x1000, 0x2000), (0x1800, 0x800), (0x5000, 0x2000), (0x1000, 0)]
)
def test_pages_that_are_not_offered_are_not_mapped(
    opened: tuple[VfioUserDevice, Server], offset: int, size: int
) -> None:
    with pytest.raises(UsageError, match="does not let this be mapped"):
        opened[0].bar0.map(offset, size)


def test_configuration_space(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    assert device.config_read(4, 2) == 4 + wire.CONFIG_REGION
    device.config_write(4, 2, 0x0406)
    last = running.seen[-1]
    assert (last.command, last.flags, last.payload) == (Command.REGION_WRITE, 0, struct.pack("<QIIH", 4, 7, 2, 0x0406))
    for offset, size, value in ((3, 2, 0), (0, 3, 0), (4096, 1, 0), (0, 1, 256)):
        with pytest.raises(UsageError):
            device.config_write(offset, size, value)


def test_interrupts_carry_their_eventfds_as_many_a_message_as_allowed(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    eventfds = [os.eventfd(0) for _ in range(17)]
    device.set_interrupts(eventfds)
    device.set_interrupts(())
    calls = [message for message in running.seen if message.command == Command.DEVICE_SET_IRQS]
    none, eventfd = wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_NONE, wire.IRQ_SET_TRIGGER | wire.IRQ_SET_DATA_EVENTFD
    assert [(wire.IRQ_SET.unpack(call.payload)[1:], len(call.fds)) for call in calls] == [
        ((none, 2, 0, 0), 0),
        ((eventfd, 2, 0, 16), 16),
        ((eventfd, 2, 16, 1), 1),
        ((none, 2, 0, 0), 0),
    ]
    os.eventfd_write(calls[2].fds[0], 3)
    assert os.eventfd_read(eventfds[16]) == 3
    with pytest.raises(UsageError, match="65 eventfds: the device has 64"):
        device.set_interrupts([0] * 65)
    for fd in eventfds:
        os.close(fd)


def test_reset(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    device.reset()
    assert running.seen[-1].command == Command.DEVICE_RESET


def test_a_server_without_mmap_offers_no_pages() -> None:
    before = open_fds()
    with server() as (near, running):
        running.override[Command.DEVICE_GET_REGION_INFO] = lambda message: (region_info(()), [], 0)
        device = VfioUserDevice(near, "8259:00:00.0")
        with pytest.raises(UsageError, match="does not let this be mapped"):
            device.bar0.map(0x1000, 0x1000)
        device.close()
    assert open_fds() == before


LOOP = wire.CAPABILITY.pack(7, 1, 32)


@pytest.mark.parametrize(
    ("command", "answer", "message"),
    [
        (Command.DEVICE_GET_INFO, lambda fd: (b"", [], 22), "refused DEVICE_GET_INFO: Invalid argument"),
        (Command.DEVICE_GET_INFO, lambda fd: (b"short", [], 0), "DEVICE_GET_INFO was answered by 5 bytes"),
        (Command.DEVICE_GET_INFO, lambda fd: (struct.pack("<IIII", 16, 1, 9, 5), [], 0), "offers no PCI device"),
        (Command.DEVICE_GET_INFO, lambda fd: (bytes(16), [fd, fd], 0), "DEVICE_GET_INFO was answered by"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS), [], 0), "came with 0 file descriptors"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS), [fd, fd], 0), "came with 2 file descriptors"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(()), [fd], 0), "came with 1 file descriptors"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS)[:-8], [fd], 0), "capability is cut off"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS)[:36], [fd], 0), "region 0: unpack_from"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS)[:32] + LOOP, [fd], 0), "form a loop"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(((1, 2),)), [fd], 0), "not whole pages inside"),
        (Command.DEVICE_GET_REGION_INFO, lambda fd: (region_info(AREAS, 4096), [fd], 0), "not whole pages inside"),
        (Command.DEVICE_GET_IRQ_INFO, lambda fd: None, "8259:00:00.0: the simulated device is gone: it has ended"),
    ],
)
def test_a_lying_server_is_an_error_and_leaks_nothing(
    command: Command, answer: Callable[[int], Answer | None], message: str
) -> None:
    before = open_fds()
    with server() as (near, running):
        running.override[command] = lambda _: answer(running.memory)
        with pytest.raises(DeviceError, match=message):
            VfioUserDevice(near, "8259:00:00.0")
    assert open_fds() == before


def test_a_server_that_dies_is_a_device_that_is_gone(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    running.override[Command.REGION_READ] = lambda message: None
    with pytest.raises(DeviceGone, match="is gone: it has ended the connection"):
        device.bar0.read32(8)
    for act in (lambda: device.bar0.read32(8), lambda: device.bar0.write32(8, 0), lambda: device.config_read(0, 2)):
        with pytest.raises(DeviceGone, match="is gone: it has ended the connection"):
            act()


def test_a_server_that_is_silent_is_a_device_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vfio_user, "REPLY_WITHIN", 0.05)
    near, far = socket.socketpair()
    with pytest.raises(DeviceGone, match=r"gave no answer within 0\.05 s"):
        VfioUserDevice(near, "8259:00:00.0")
    far.close()


def test_a_command_that_a_signal_cut_off_ends_the_connection(
    opened: tuple[VfioUserDevice, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is still to come: the next command would take it for its own."""
    device, _ = opened

    def signalled(channel: vfio_user._Channel) -> Message:
        assert channel._connection.recv(1, socket.MSG_PEEK)  # the answer has come, and nobody has read it
        raise signals.Stopped(2)

    with monkeypatch.context() as patch:
        patch.setattr(vfio_user._Channel, "_receive", signalled)
        with pytest.raises(signals.Stopped):
            device.bar0.read32(8)
    with pytest.raises(DeviceGone, match="is gone: an answer of it was not waited for"):
        device.bar0.read32(8)
    assert wire.receive(device._channel._connection) is not None  # else the server would see a reset


def test_an_answer_to_another_question_ends_the_connection(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened

    def other(message: Message) -> Answer:
        message.id += 1
        return running.answer(message)

    running.override[Command.REGION_READ] = other
    with pytest.raises(DeviceGone, match="REGION_READ was answered by something else"):
        device.bar0.read32(8)


def test_file_descriptors_that_nobody_asked_for_are_closed(opened: tuple[VfioUserDevice, Server]) -> None:
    device, running = opened
    running.override[Command.REGION_READ] = lambda message: (message.payload + bytes(4), [running.memory], 0)
    before = open_fds()
    with pytest.raises(DeviceError, match="a read of 4 bytes was answered"):
        device.bar0.read32(8)
    assert open_fds() == before


def test_a_device_that_was_closed_says_so(opened: tuple[VfioUserDevice, Server]) -> None:
    device, _ = opened
    device.close()
    for use in (lambda: device.bar0.read32(0), lambda: device.bar0.write32(0, 0), device.reset):
        with pytest.raises(UsageError, match="the device was closed"):
            use()
