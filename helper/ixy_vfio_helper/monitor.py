"""One lease, one process: parse -> state -> policy -> act -> reply -> permit next. Anything odd ends the lease.

A *refusal* touches nothing and the lease goes on. A *failure* while acting, like an odd message, ends the lease.
Whatever was done is undone, in the order of `Stage`: no device may write while its memory goes away.
"""

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, IntEnum
from functools import partial
from typing import Any, Protocol

from ixy_vfio_helper import memory, protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.memory import Memory, Range
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import Kind, Listed, Message, ProtocolError, Purpose, State
from ixy_vfio_helper.records import Ledger

MAX_REQUESTS = 1024  # in one lease; ten devices with all their queues need a tenth of that
HELLO_DEADLINE = 10.0  # seconds
log = logging.getLogger("ixy_vfio_helper")


class Refusal(Exception):
    """The request is refused, for this reason. Nothing was touched."""


class LeaseOver(Exception):
    """The lease ends, for this reason."""


class Session(Protocol):
    """One device of one lease. Making one touches nothing; what undoes may be called although nothing was done."""

    kind: Kind

    def open(self) -> int:
        """Take the device, alone in an IOMMU domain of its own; returns the fd for the client, still owned here."""

    def usable(self) -> Sequence[Range]:
        """The IOVA ranges that the IOMMU lets be mapped."""

    def map(self, memory: Memory, iova: int) -> None:
        """Let the device read and write this memory."""

    def unmap(self, iova: int, size: int) -> None:
        """Take the memory away from the device."""

    def bus_master_off(self) -> None:
        """Stop the device's DMA, and its interrupts, at their source."""

    def reset(self) -> None:
        """Function level reset."""

    def close(self) -> None:
        """Give the device back as it was found. Idempotent."""

    def watch(self) -> Sequence[int]:
        """File descriptors that turn readable when the device has something to say."""

    def trouble(self) -> str | None:
        """Called when one did: why the lease must end, or None."""


class Backend(Protocol):
    """Where devices come from: the kernel, or a simulator."""

    def describe(self, address: str) -> Listed | None:
        """What there is at this address (count and state FREE or UNBOUND are the caller's to replace)."""

    def session(self, address: str) -> Session:
        """A session with the device, not open. Raises Refusal when it cannot be leased as it is."""


class Stage(IntEnum):
    """The order at the end of a lease, over all of its devices."""

    BUS_MASTER_OFF = 0
    RESET = 1
    UNMAP = 2
    RELEASE = 3


class Undo:
    """What must be undone; recorded before it is done."""

    def __init__(self) -> None:
        self._actions: list[tuple[Stage, str, Callable[[], None]]] = []

    def add(self, stage: Stage, what: str, action: Callable[[], None]) -> None:
        """Record an action."""
        self._actions.append((stage, what, action))

    def run(self) -> int:
        """Do all of it, stage by stage, the youngest first; a failure is logged and the rest is still done."""
        actions = [entry for stage in Stage for entry in reversed(self._actions) if entry[0] is stage]
        self._actions = []
        failures = 0
        for _, what, action in actions:
            try:
                action()
            except Exception as error:
                failures += 1
                log.error("end of lease: %s failed: %s", what, error)
        return failures


class Phase(Enum):
    """How far a lease has come."""

    NEW = "before Hello"
    OPEN = "without a device"
    ATTACHED = "with devices"
    SEALED = "after Seal"


Answer = tuple[Message, Sequence[int]]


class Monitor:
    """Serves one connection until its lease ends.

    `stop`: file descriptors that turn readable to end it. `seal`: gives up what the end of a lease does not need.
    """

    def __init__(
        self,
        connection: socket.socket,
        grant: Grant,
        backend: Backend,
        claims: Claims,
        stop: Sequence[int],
        seal: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._grant = grant
        self._backend = backend
        self._claims = claims
        self._stop = stop
        self._give_up = seal
        self._phase = Phase.NEW
        self._requests = 0
        self._memory_left = grant.memory
        self._sessions: list[Session] = []
        self._ledgers: list[Ledger] = []
        self._addresses: list[str] = []
        self._listing: list[Listed] = []
        self._window = memory.Window()
        self._undo = Undo()

    def run(self) -> str:
        """Serve until the end, undo everything, tell the client; returns why the lease ended."""
        try:
            while True:
                self._wait()
                self._serve_one()
        except (LeaseOver, ProtocolError) as end:
            reason = str(end)
        except Exception as error:
            reason = f"failed: {error}"
            log.error("lease %s", reason, exc_info=not isinstance(error, OSError))
        failures = self._undo.run()
        log.info("lease of uid %d ended: %s%s", self._grant.uid, reason, f" ({failures} failures)" * bool(failures))
        with contextlib.suppress(OSError):  # the client may be gone, or not reading
            protocol.send(self._connection, protocol.Ended(protocol.one_line(reason)))
        return reason

    def _wait(self) -> None:
        """Wait for the next request; everything that may end the lease meanwhile comes first."""
        poll = select.poll()
        watched = {fd: session for session in self._sessions for fd in session.watch()}
        for fd in (self._connection.fileno(), *self._stop, *watched):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(HELLO_DEADLINE * 1000 if self._phase is Phase.NEW else None)]
            if not ready:
                raise LeaseOver(f"no Hello in {HELLO_DEADLINE:.0f} s")
            if any(fd in ready for fd in self._stop):
                raise LeaseOver("the helper was stopped")
            for session in {id(watched[fd]): watched[fd] for fd in ready if fd in watched}.values():
                if trouble := session.trouble():
                    raise LeaseOver(trouble)
            if self._connection.fileno() in ready:
                return

    def _serve_one(self) -> None:
        try:
            received = protocol.receive(self._connection, protocol.REQUESTS)
        except ConnectionResetError:
            received = None
        if received is None:
            raise LeaseOver("the client closed the connection")
        sequence, request, _ = received
        self._requests += 1
        if sequence != self._requests or sequence > MAX_REQUESTS:
            raise ProtocolError(f"request {sequence} where {self._requests} of at most {MAX_REQUESTS} was due")
        if type(request) not in TABLE[self._phase]:
            raise ProtocolError(f"{type(request).__name__} is not permitted {self._phase.value}")
        handler, following = TABLE[self._phase][type(request)]
        fds: Sequence[int] = ()
        try:
            answer, fds = handler(self, request)
            self._phase = following
        except Refusal as refusal:
            answer = protocol.Refused(protocol.one_line(str(refusal)))
            log.info("uid %d refused: %s", self._grant.uid, refusal)
        try:
            protocol.send(self._connection, answer, sequence, fds)
        except BlockingIOError:
            raise ProtocolError("the client does not read its answers") from None
        except (BrokenPipeError, ConnectionResetError):
            raise LeaseOver("the client closed the connection") from None
        finally:
            for fd in fds:
                os.close(fd)

    def _hello(self, request: protocol.Hello) -> Answer:
        return protocol.Welcome(self._grant.memory, len(self._grant.devices)), ()

    def _list(self, request: protocol.List) -> Answer:
        if request.index == 0:
            self._listing = [entry for address in sorted(self._grant.devices) if (entry := self._describe(address))]
        count = len(self._listing)
        if request.index >= count:
            return Listed(count, "", 0, 0, State.FREE, -1, ""), ()
        entry = self._listing[request.index]
        return Listed(count, entry.address, entry.vendor, entry.device, entry.state, entry.numa, entry.driver), ()

    def _describe(self, address: str) -> Listed | None:
        entry = self._backend.describe(address)
        holder = self._claims.holder(address)
        if entry is None or holder is None:
            return entry
        state = State.YOURS if holder[0] == self._grant.uid else State.LEASED
        return Listed(0, address, entry.vendor, entry.device, state, entry.numa, entry.driver)

    def _attach(self, request: protocol.Attach) -> Answer:
        address, uid = request.address, self._grant.uid
        if address not in self._grant.devices:
            raise Refusal(f"{address}: the helper's policy does not give this device to uid {uid}")
        if address in self._addresses:
            raise Refusal(f"{address}: this lease has it already")
        if self._claims.holder(address):
            raise self._leased(address)
        session = self._backend.session(address)  # the first look at the device itself
        claim = self._claims.claim(address, uid)
        if claim is None:
            raise self._leased(address)
        self._undo.add(Stage.RELEASE, f"release of the claim on {address}", lambda: os.close(claim))
        ledger = Ledger(self._claims.directory, address)
        self._undo.add(Stage.RELEASE, f"end of the ledger of {address}", ledger.close)
        self._undo.add(Stage.RELEASE, f"release of {address}", session.close)
        self._undo.add(Stage.RESET, f"reset of {address}", session.reset)
        self._undo.add(Stage.BUS_MASTER_OFF, f"bus master off of {address}", session.bus_master_off)
        fd = session.open()
        self._sessions.append(session)
        self._ledgers.append(ledger)
        self._addresses.append(address)
        log.info("uid %d attached %s", uid, address)
        return protocol.Attached(len(self._sessions) - 1, session.kind), (os.dup(fd),)

    def _leased(self, address: str) -> Refusal:
        holder, pid = self._claims.holder(address) or (-1, -1)
        return Refusal(f"{address}: leased by uid {holder} (helper process {pid}); that lease must end first")

    def _memory(self, request: protocol.Memory) -> Answer:
        if request.devices >> len(self._sessions):
            raise ProtocolError("Memory for a device that is not attached")
        chosen = [i for i in range(len(self._sessions)) if request.devices >> i & 1]
        sessions = [self._sessions[i] for i in chosen]
        if request.purpose == Purpose.RINGS and len(sessions) > 1:
            raise Refusal("rings are one device's alone; ask once per device")
        if memory.pages(request.size, memory.PAGE) > self._memory_left:
            raise Refusal(
                f"memory: {request.size} bytes asked, {self._memory_left} of {self._grant.memory} left to you"
            )
        huge = request.purpose == Purpose.PACKETS and memory.pages(request.size, memory.HUGE) <= self._memory_left
        try:
            made = memory.allocate(request.size, huge)
        except OSError as error:
            raise Refusal(f"memory: {error.strerror}; ask for less") from None
        made = replace(made, writable=request.purpose != Purpose.READ_ONLY)
        try:
            self._memory_left -= made.size
            iova = self._window.take(made.size, [session.usable() for session in sessions])
            for i, session in zip(chosen, sessions, strict=True):
                self._ledgers[i].add(iova, made, request.purpose)
                self._undo.add(Stage.UNMAP, f"unmap of {iova:#x}", partial(session.unmap, iova, made.size))
                session.map(made, iova)
        except BaseException:
            os.close(made.fd)
            raise
        note = protocol.one_line(made.note)
        return protocol.Allocated(iova, made.size, made.page_size, note), (made.fd,)

    def _seal(self, request: protocol.Seal) -> Answer:
        self._give_up()
        return protocol.Sealed(), ()

    def _end(self, request: protocol.End) -> Answer:
        raise LeaseOver("the client ended it")


# What is permitted in each phase: request -> (handler, phase that follows).
Handler = Callable[[Monitor, Any], Answer]
_END: dict[type[Any], tuple[Handler, Phase]] = {protocol.End: (Monitor._end, Phase.SEALED)}
TABLE: dict[Phase, dict[type[Any], tuple[Handler, Phase]]] = {
    Phase.NEW: {protocol.Hello: (Monitor._hello, Phase.OPEN)},
    Phase.OPEN: _END | {protocol.List: (Monitor._list, Phase.OPEN), protocol.Attach: (Monitor._attach, Phase.ATTACHED)},
    Phase.ATTACHED: _END
    | {
        protocol.List: (Monitor._list, Phase.ATTACHED),
        protocol.Attach: (Monitor._attach, Phase.ATTACHED),
        protocol.Memory: (Monitor._memory, Phase.ATTACHED),
        protocol.Seal: (Monitor._seal, Phase.SEALED),
    },
    Phase.SEALED: _END,
}
