"""The simulator: vfio-user servers for all ports, the data plane and the control socket, in one loop.

Messages first, then one bounded step of the data plane, again. Nothing runs beside it: a reply to a register read
means that the model has finished what was begun before.
"""

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ixy_vfio_helper.shown import shown

from ixy_vfio.core.errors import DeviceError, UsageError
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.control import Control
from ixy_vfio.sim.dataplane import DataPlane, Port
from ixy_vfio.sim.hostile import Hostile, Spec
from ixy_vfio.sim.nic import Nic
from ixy_vfio.sim.private import bind_private, stranger
from ixy_vfio.sim.session import Session
from ixy_vfio.sim.stream import Refused, Stream
from ixy_vfio.wires.cable import Cable

MESSAGES_AT_ONCE = 64  # of one client, before the others and the data plane have their turn
STEP_BUDGET = 1024  # packets a port and step
MAX_CLIENTS = 64
MISSES_REPEATED = 16

# A doorbell is a store to shared memory and wakes nobody, so an idle loop looks again after a nap. Seconds.
SPIN = 0.002  # no naps this long after a packet has moved; a message ends a nap itself
SHORT_NAPS, SHORT_NAP = 0.2, 0.00005
LONG_NAP = 0.001
NOBODY_NAP = 0.05  # no client: nothing but sockets can bring work


class Server:
    """All simulated ports of one directory."""

    def __init__(self, directory: Path, ports: int, *, trap: bool = False) -> None:
        """Make the ports and listen on DIRECTORY/port<N>.sock and control.sock. Raises UsageError."""
        self.directory = directory
        self.stopping = False
        self.plane = DataPlane()
        self.nics: list[Nic] = []
        self.sessions: dict[int, Session] = {}
        self.owners: dict[int, Session] = {}
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], int]] = {}
        self._listeners: list[tuple[socket.socket, Path]] = []
        self._misses = [0] * ports
        self._moved_at = self._busy_at = time.monotonic()
        self.ports: list[Port] = []
        self.hostile: dict[int, Hostile] = {}
        self._refused: set[str] = set()  # users who were told of
        self.notes: deque[str] = deque(maxlen=256)
        self.control = Control(self)
        try:
            for number in range(ports):
                nic = Nic(number, time.monotonic, shared_pages=not trap)
                nic.bar.tell = partial(self._note, number)
                self.nics.append(nic)
                self.ports.append(self.plane.add_port(nic.memory.words))
                nic.plug(self.ports[number])
            self.plane.step()  # compiles; before anybody can connect and wait for an answer
            for nic in self.nics:
                self._listen(directory / f"port{nic.number}.sock", partial(self._accept, nic))
            self._listen(directory / "control.sock", self.control.accept)
        except BaseException:
            self.close()
            raise

    def connect(self, spec: str) -> None:
        """Put a cable in. Raises UsageError."""
        cable = parse_cable(spec)
        try:
            self.plane.connect(cable)
        except BaseException:
            cable.close()
            raise
        for fd in cable.filenos():
            # Edge-triggered: a port that is down leaves its frames where they are.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            self._handlers[fd] = lambda: 0
        self._light(cable)

    def make_hostile(self, number: int, spec: str) -> None:
        """Let a port do what `spec` says (see `hostile`); an empty one makes it honest again. Raises UsageError."""
        parsed = Spec.parse(spec) if spec else None
        if number in self.hostile:
            self.hostile.pop(number).detach()
        if parsed is not None:
            self.hostile[number] = Hostile(parsed, self.plane, self.nics[number])
            self.hostile[number].attach()

    def _light(self, cable: Cable) -> None:
        if len(cable.ports) == 2 and cable.ports[0] != cable.ports[1]:
            one, other = (self.nics[number] for number in cable.ports)
            one.far_light = lambda: other.shines
            other.far_light = lambda: one.shines

    def run(self) -> None:
        """Serve until `stopping`."""
        while not self.stopping:
            self.turn()

    def turn(self) -> None:
        """One round: messages, a step, clocks."""
        handled = 0
        for fd, _ in self._epoll.poll(0, 64):
            handler = self._handlers.get(fd)
            if handler is not None:
                handled += handler()
        moved = self.plane.step(STEP_BUDGET)
        now = time.monotonic()
        soonest: float | None = None
        for nic in self.nics:
            then = nic.tick(now)
            if then is not None and (soonest is None or then < soonest):
                soonest = then
        self._repeat_misses()
        if self.plane.notes:
            self._tell()
        if handled or moved:
            self._busy_at = now
        if moved:
            self._moved_at = now
        else:
            self._nap(now, soonest)

    def _note(self, number: int, text: str) -> None:
        self.plane.notes.append(f"port {number}: {text}")

    def _tell(self) -> None:
        """Notes, on standard error, whatever has become of that; the last ones can be asked for."""
        notes, self.plane.notes = self.plane.notes, []
        for note in notes:
            self.notes.append(note)
            with contextlib.suppress(OSError, ValueError):
                print(f"ixy-vfio sim: {shown(note)}", file=sys.stderr, flush=True)

    def _nap(self, now: float, soonest: float | None) -> None:
        idle = now - self._busy_at
        if now - self._moved_at < SPIN and self.sessions:
            return
        for nic in self.nics:
            nic.drain()
        nap = NOBODY_NAP if not self.sessions else SHORT_NAP if idle < SHORT_NAPS else LONG_NAP
        if soonest is not None:
            nap = min(nap, max(0.0, soonest - now))
        select.select([self._epoll.fileno()], [], [], nap)  # epoll's own timeout is in whole milliseconds

    def _repeat_misses(self) -> None:
        """A DMA that no window allowed goes to a client that serves DMA messages, too: its IOMMU logs the fault."""
        for number, port in enumerate(self.ports):
            count = port.dma.misses
            if count == self._misses[number]:
                continue
            new = min(count - self._misses[number], MISSES_REPEATED)
            self._misses[number] = count
            owner = self.owners.get(number)
            if owner is None or not owner.messages_dma:
                continue
            try:
                for miss in port.dma.last_misses[-new:]:
                    owner.report_miss(miss.iova, miss.length, miss.write)
            except OSError:
                self._end(owner)

    def _listen(self, path: Path, accept: Callable[[socket.socket], None]) -> None:
        claim_path(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listeners.append((listener, path))
        try:
            bind_private(listener, path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        listener.listen(8)
        listener.setblocking(False)
        self.watch(listener.fileno(), partial(self._incoming, listener, accept))

    def _incoming(self, listener: socket.socket, accept: Callable[[socket.socket], None]) -> int:
        try:
            connection, _ = listener.accept()
        except OSError:  # the client is gone again
            return 0
        if name := stranger(connection):
            connection.close()
            if name not in self._refused:
                self._refused.add(name)
                self.plane.notes.append(f"a connection of {name} is refused: these ports are another user's")
        elif len(self._handlers) > MAX_CLIENTS + len(self._listeners):
            connection.close()
        else:
            accept(connection)
        return 1

    def watch(self, fd: int, handler: Callable[[], int]) -> None:
        """Call `handler` when `fd` is readable; it returns how much it did."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Undo `watch`."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _accept(self, nic: Nic, connection: socket.socket) -> None:
        session = Session(Stream(connection), nic, self.ports[nic.number].dma, self._claim)
        self.sessions[connection.fileno()] = session
        self.watch(connection.fileno(), partial(self._serve, session))

    def _claim(self, session: Session) -> None:
        """Give a client that has said VERSION its role: one owner a port; device-only clients beside it."""
        number = session.nic.number
        if session.device_only:
            if number not in self.owners:
                raise Refused(errno.EPERM)
        elif number in self.owners:
            raise Refused(errno.EBUSY)
        else:
            self.owners[number] = session

    def _serve(self, session: Session) -> int:
        fd = session.stream.fileno()
        try:
            count = session.serve(MESSAGES_AT_ONCE)
            # While replies wait for room, wait for room and for nothing else.
            self._epoll.modify(fd, select.EPOLLOUT if session.stream.blocked else select.EPOLLIN)
            return count
        except (EOFError, OSError, DeviceError):
            self._end(session)
            return 1

    def _end(self, session: Session) -> None:
        """The end of a client; with an owner goes what it lent and mapped."""
        fd = session.stream.fileno()
        if self.sessions.pop(fd, None) is None:
            return
        self.forget(fd)
        nic = session.nic
        if self.owners.get(nic.number) is session:
            del self.owners[nic.number]
            for other in [s for s in self.sessions.values() if s.nic is nic and s.device_only]:
                self._end(other)
        if session.negotiated:
            nic.signals.release()
        session.close()

    def close(self) -> None:
        """Close and remove everything. Idempotent."""
        for session in list(self.sessions.values()):
            self._end(session)
        self.control.close()
        for listener, path in self._listeners:
            listener.close()
            path.unlink(missing_ok=True)
        self._listeners.clear()
        if not self._epoll.closed:
            for nic in self.nics:
                nic.drain()
                nic.close()
            self.plane.close()
            self._tell()
            self._epoll.close()


def claim_path(path: Path) -> None:
    """Remove a socket that a dead simulator has left. Raises UsageError when a live one listens on it."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_socket():
        raise UsageError(f"{path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        else:
            raise UsageError(f"{path.parent}: in use by a running simulator: stop it, or give another --dir")
