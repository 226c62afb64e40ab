"""What the tests of leases share: a backend that records what is done to it, and a monitor at the end of a socket."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ixy_vfio_helper import protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.memory import WINDOW, Account, Memory, Range
from ixy_vfio_helper.monitor import Monitor, Refusal, Session
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import Kind, Listed, Message, State

A, B, C = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"  # C exists, and the grants here do not have it


def open_fds() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


class FakeSession:
    """Records every call in the backend's log; fails where the backend says."""

    kind = Kind.VFIO
    group = "7"

    def __init__(self, backend: "FakeBackend", address: str) -> None:
        self.neighbours: Sequence[str] = backend.neighbours.get(address, ())
        self._backend = backend
        self._address = address
        self._fds: list[int] = []
        self.speak = -1  # write here, and the device has trouble

    def _do(self, what: str, more: str = "") -> None:
        self._backend.log.append(f"{what} {self._address}{more}")
        self._backend.heard(self._backend.log[-1])
        if f"{what} {self._address}" in self._backend.failing:
            raise OSError(5, f"injected: {what}")

    def open(self) -> int:
        hears, self.speak = os.pipe()
        self._fds = [hears, self.speak, os.open(os.devnull, os.O_RDONLY)]
        self._do("open")
        if self._backend.busy:
            raise self._backend.busy
        return self._fds[2]

    def usable(self) -> Sequence[Range]:
        return self._backend.ranges.get(self._address, [WINDOW])

    def map(self, memory: Memory, iova: int) -> None:
        self._do("map", f" {iova:#x} {memory.size:#x}")

    def unmap(self, iova: int, size: int) -> None:
        self._do("unmap", f" {iova:#x} {size:#x}")

    def verify(self, recorded: str) -> None:
        if recorded:
            raise Refusal(f"{self._address}: the policy gives {recorded}")

    def bus_master_off(self) -> None:
        self._do("bus_master_off")

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._do("close")

    def watch(self) -> Sequence[int]:
        return self._fds[:1]

    def trouble(self) -> str | None:
        return None if os.read(self._fds[0], 1) == b"." else "the device has trouble"


class FakeBackend:
    """Three devices, of which FakeSession says what happens to them."""

    def __init__(self, *failing: str) -> None:
        self.log: list[str] = []
        self.failing = set(failing)
        self.busy: OSError | None = None  # why the kernel gives no device away
        self.neighbours: dict[str, Sequence[str]] = {}
        self.heard: Callable[[str], None] = lambda entry: None  # called with each entry of the log
        self.ranges: dict[str, Sequence[Range]] = {}
        self.sessions: list[FakeSession] = []
        self.unbound: set[str] = set()

    def describe(self, address: str) -> Listed | None:
        if address not in (A, B, C):
            return None
        state = State.UNBOUND if address in self.unbound else State.FREE
        return Listed(0, address, 0x8086, 0x10FB, state, 1, "vfio-pci")

    def session(self, address: str) -> Session:
        if address in self.unbound:
            raise Refusal(f"{address}: not bound")
        self.sessions.append(FakeSession(self, address))
        return self.sessions[-1]


class Client:
    """The client's end of a monitor that runs in a thread."""

    def __init__(self, connection: socket.socket, monitor: threading.Thread, reasons: list[str]) -> None:
        self.connection = connection
        self.sequence = 0
        self._monitor = monitor
        self._reasons = reasons

    def tell(self, message: Message, sequence: int | None = None) -> None:
        """Send a request; without a number of its own it gets the next one."""
        self.sequence += 1
        protocol.send(self.connection, message, self.sequence if sequence is None else sequence)

    def ask(self, message: Message) -> Message:
        """Send a request and receive the reply; descriptors that come with it are closed."""
        reply, fds = self.ask_fds(message)
        for fd in fds:
            os.close(fd)
        return reply

    def ask_fds(self, message: Message) -> tuple[Message, list[int]]:
        """The same; the caller has to close the descriptors."""
        self.tell(message)
        received = protocol.receive(self.connection, protocol.REPLIES)
        assert received is not None
        sequence, reply, fds = received
        assert sequence == (0 if isinstance(reply, protocol.Ended) else self.sequence)
        return reply, fds

    def ended(self) -> str:
        """Wait for the end; the reason, as the monitor returned it and as the client was told."""
        received = protocol.receive(self.connection, protocol.REPLIES)
        assert received is not None
        sequence, reply, fds = received
        assert (sequence, fds) == (0, [])
        assert isinstance(reply, protocol.Ended)
        self.connection.close()  # the monitor waits for that, if it was not the client that ended the lease
        self.wait()
        assert self._reasons == [reply.reason]
        return reply.reason

    def wait(self) -> str:
        """Wait until the monitor is done; returns the reason."""
        self._monitor.join(20)
        assert not self._monitor.is_alive()
        return self._reasons[0]


@contextlib.contextmanager
def served(
    backend: FakeBackend,
    directory: Path,
    uid: int = 1000,
    devices: Sequence[str] = (A, B),
    memory: int = 1 << 20,
    stop: Sequence[int] = (),
    seal: Callable[[], None] = lambda: None,
    account: Account | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Iterator[Client]:
    """A lease, with a monitor of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    grant = Grant(uid, frozenset(devices), memory, 4, recorded or {})
    reasons: list[str] = []

    def run() -> None:
        with theirs:
            reasons.append(Monitor(theirs, grant, backend, Claims(directory), stop, seal, account or Account()).run())

    thread = threading.Thread(target=run)
    thread.start()
    client = Client(ours, thread, reasons)
    try:
        yield client
    finally:
        ours.close()
        client.wait()
