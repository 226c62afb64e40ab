"""The client's lease: what it says when what answers is not a helper, and what a helper's answers become."""

import contextlib
import gc
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ixy_vfio_helper import protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.monitor import Monitor
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import Ended, Hello, Welcome

from ixy_vfio.core.errors import DeviceError, LeaseError, RefusedError, UsageError
from ixy_vfio.transport import lease as module
from ixy_vfio.transport.lease import DeviceInfo, Lease, Purpose, State
from tests.unit.lease_support import A, B, C, FakeBackend, open_fds

Peer = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(directory: Path, peer: Peer) -> Iterator[str]:
    """A socket whose one client is given to `peer`, in a thread; the connection closes when `peer` returns."""
    path = str(directory / "helper.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(20)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                peer(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield path
        thread.join(20)
        assert not thread.is_alive()


def says(*packets: bytes, read: bool = True) -> Peer:
    """A peer that reads one request for each of these packets that it sends."""

    def peer(connection: socket.socket) -> None:
        for packet in packets:
            if read:
                assert connection.recv(4096)
            connection.send(packet)

    return peer


WELCOME = protocol.encode(Welcome(1 << 20, 2), 1)


def test_no_helper_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "helper.sock")
    text = f"^{path}: no helper is running there; start ixy-vfio-helper"
    with pytest.raises(UsageError, match=text):
        Lease(path)
    monkeypatch.setenv("IXY_VFIO_HELPER", path)
    with pytest.raises(UsageError, match=text):
        Lease()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left_behind:
        left_behind.bind(path)
    with pytest.raises(UsageError, match=text):
        Lease()


def test_the_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IXY_VFIO_HELPER", raising=False)
    monkeypatch.setattr(module, "DEFAULT_SOCKET", "/nonexistent/helper.sock")
    with pytest.raises(UsageError, match=r"^/nonexistent/helper\.sock: no helper"):
        Lease()


def test_another_kind_of_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "stream.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(path)
        stream.listen(1)
        with pytest.raises(UsageError, match=r"not the socket of a helper \(Protocol wrong type for socket\)"):
            Lease(path)
    with pytest.raises(UsageError, match="too long for the path of a socket"):
        Lease("/" + "x" * 200)


def test_a_helper_whose_queue_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fills it makes the others wait for their turn, and turns nobody away at once."""
    path = str(tmp_path / "helper.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        other.connect(path)
        monkeypatch.setattr(module, "DEADLINE", 0.1)
        with pytest.raises(LeaseError, match=r"helper\.sock: the helper took no connection in 0\.1 s, as too many"):
            Lease(path)
        monkeypatch.setattr(module, "DEADLINE", 30.0)

        def take() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        taken = threading.Timer(0.2, take)
        taken.start()
        with pytest.raises(UsageError, match="the helper closed the connection"):  # it was taken, after a while
            Lease(path)
        taken.join()


def other_version() -> bytes:
    return protocol.encode(Ended("x"), 0)[:4] + struct.pack("<H", 2) + protocol.encode(Ended("x"), 0)[6:]


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no helper of this version: a message of 26 bytes, not 256"),
        (bytes(256), "no helper of this version: not a message of this protocol"),
        (other_version(), "the other side speaks version 2, this one 1: install the same version"),
        (protocol.encode(Hello(), 1), "unknown message type 0x1"),
        (protocol.encode(Welcome(1, 1), 2), "the helper answered Welcome to Hello"),
    ],
)
def test_what_answers_is_no_helper(tmp_path: Path, packet: bytes, text: str) -> None:
    gc.collect()  # closes what the tests before have left in cycles
    before = open_fds()
    with listening(tmp_path, says(packet)) as path, pytest.raises(UsageError, match=text):
        Lease(path)
    assert open_fds() == before


def silent(connection: socket.socket) -> None:
    while connection.recv(256):
        pass


def test_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)
    with (
        listening(tmp_path, silent) as path,
        pytest.raises(UsageError, match="the helper did not answer in 0 s"),
    ):
        Lease(path)


def test_it_closes_at_once(tmp_path: Path) -> None:
    with listening(tmp_path, says()) as path, pytest.raises(UsageError, match="the helper closed the connection"):
        Lease(path)


@pytest.mark.parametrize("read", [True, False])
def test_a_user_without_rights_is_told_so(tmp_path: Path, read: bool) -> None:
    reason = "the helper's policy gives nothing to uid 1000"
    with (
        listening(tmp_path, says(protocol.encode(Ended(reason), 0), read=read)) as path,
        pytest.raises(RefusedError, match=f"^{reason}$"),
    ):
        Lease(path)


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    def peer(connection: socket.socket) -> None:
        connection.recv(256)
        socket.send_fds(connection, [WELCOME], [connection.fileno()] * 3)

    before = open_fds()
    with listening(tmp_path, peer) as path, pytest.raises(UsageError, match="Welcome: unexpected file descriptors"):
        Lease(path)
    assert open_fds() == before


def test_the_helper_dies(tmp_path: Path) -> None:
    with listening(tmp_path, says(WELCOME)) as path:
        lease = Lease(path)
    with pytest.raises(LeaseError, match="the helper closed the connection; its log says why"):
        lease.check()
    for _ in range(2):
        with pytest.raises(LeaseError, match="the helper closed the connection; its log says why"):
            lease.devices()
    lease.close()
    lease.close()


class FakeDevice:
    """Stands for a transport's device; has the descriptor that the helper passed."""

    def __init__(self, fd: int, address: str) -> None:
        self.fd = fd
        self.address = address

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@contextlib.contextmanager
def leased(
    directory: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, stop: tuple[int, ...] = ()
) -> Iterator[Lease]:
    """A client of a real monitor."""
    monkeypatch.setattr(module, "_open", lambda kind, fd, address: FakeDevice(fd, address))
    grant = Grant(1000, frozenset({A, B}), 1 << 20, 1)

    def monitor(connection: socket.socket) -> None:
        Monitor(connection, grant, backend, Claims(directory), stop).run()

    with listening(directory, monitor) as path, Lease(path) as lease:
        yield lease


def test_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    before = open_fds()
    with leased(tmp_path, backend, monkeypatch) as lease:
        assert lease.memory_limit == 1 << 20
        free = DeviceInfo(A, 0x8086, 0x10FB, "vfio-pci", State.FREE, 1)
        assert lease.devices() == [free, DeviceInfo(B, 0x8086, 0x10FB, "vfio-pci", State.FREE, 1)]
        one, two = lease.attach(A.removeprefix("0000:")), lease.attach(B)
        assert [one.address, two.address] == [A, B]
        rings = lease.memory(5000, [two], Purpose.RINGS)
        packets = lease.memory(4096, [one, two], Purpose.PACKETS)
        assert (rings.iova, rings.size, rings.page_size) == (0x10_0000_0000, 8192, 4096)
        assert (packets.iova, packets.size, packets.page_size) == (0x10_0040_0000, 4096, 4096)
        assert bytes(rings.view) == bytes(8192)
        assert backend.log == [
            f"open {A}", f"open {B}", f"map {B} 0x1000000000 0x2000",
            f"map {A} 0x1000400000 0x1000", f"map {B} 0x1000400000 0x1000",
        ]  # fmt: skip
        lease.check()
        lease.seal()
        rings.view[:] = b"x" * 8192
        lease.close()
        assert backend.log[-1] == f"close {B}"  # when `close` returns everything is undone
        lease.close()
        assert bytes(rings.view[:2]) == b"\0\0"  # its pages were given back; the mapping stays
        rings.close()
        packets.close()
    assert open_fds() == before


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leased(tmp_path, FakeBackend(), monkeypatch) as lease:
        for address in ("", "eth0", "0000:03:00.9", "0000:03:00.0/../x", "8259:0:0.0"):
            with pytest.raises(UsageError, match=r"not a PCI address like 0000:03:00\.0"):
                lease.attach(address)
        with pytest.raises(RefusedError, match=f"{C}: the helper's policy does not give this device to uid 1000"):
            lease.attach(C)
        device = lease.attach(A)
        with pytest.raises(UsageError, match="memory of 0 bytes for 1 devices"):
            lease.memory(0, [device], Purpose.RINGS)
        with pytest.raises(UsageError, match="memory of 4096 bytes for 0 devices"):
            lease.memory(4096, [], Purpose.RINGS)
        with pytest.raises(RefusedError, match="1048577 bytes asked, 1048576 of 1048576 left to you"):
            lease.memory((1 << 20) + 1, [device], Purpose.PACKETS)
        stranger: object = FakeDevice(-1, B)
        with pytest.raises(UsageError, match=f"{B}: not a device of this lease"):
            lease.memory(4096, [stranger], Purpose.RINGS)  # type: ignore[list-item]
        assert lease.memory(1 << 20, [device], Purpose.PACKETS).size == 1 << 20
        lease.seal()
        with pytest.raises(LeaseError, match="the helper ended the lease: Attach is not permitted after Seal"):
            lease.attach(B)
        with pytest.raises(LeaseError, match="Attach is not permitted after Seal"):
            lease.devices()


def test_a_failure_of_the_helper_ends_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend(f"open {A}")
    with leased(tmp_path, backend, monkeypatch) as lease:
        with pytest.raises(LeaseError, match=r"^the helper ended the lease: failed: \[Errno 5\] injected: open$"):
            lease.attach(A)
        with pytest.raises(LeaseError, match="injected: open"):
            lease.check()


def test_check_says_why_the_lease_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    with leased(tmp_path, backend, monkeypatch) as lease:
        lease.attach(A)
        lease.check()
        os.write(backend.sessions[0].speak, b"!")
        with pytest.raises(LeaseError, match=r"^the helper ended the lease: the device has trouble$"):
            lease.check(wait=20.0)
    assert backend.log == [f"open {A}", f"bus_master_off {A}", f"close {A}"]


def test_a_device_that_does_not_open_leaks_nothing(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.close()
    before = open_fds()
    with pytest.raises((DeviceError, OSError)):
        module._open(protocol.Kind.VFIO_USER, theirs.detach(), A)
    assert open_fds() == before - 1
