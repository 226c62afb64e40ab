"""One lease, one process: parse -> state -> policy -> act -> reply -> permit next. Anything odd ends the lease.

A *refusal* touches nothing and the lease goes on. A *failure* while acting, like an odd message, ends the lease.
Whatever was done is undone, over all devices: bus master off, unmap, release. The kernel resets a device when its last
descriptor is closed, and once more before the next lease has it.
"""

import contextlib
import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, Protocol

from ixy_vfio_helper import memory, protocol
from ixy_vfio_helper.claims import Claims, Ledger
from ixy_vfio_helper.memory import HUGE, PAGE, Account, Memory, Range, pages
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.protocol import Kind, Listed, Message, ProtocolError, Purpose, State

MAX_REQUESTS = 1024  # in one lease; ten devices with all their queues need a tenth of that
HELLO_DEADLINE = 10.0  # seconds
LOOK = 30.0  # seconds to look at memory for a client whose lease was ended, and time for its workers to stop
log = logging.getLogger("ixy_vfio_helper")


class Refusal(Exception):
    """It is not done, for this reason. Nothing was touched."""


class LeaseOver(Exception):
    """The lease ends, for this reason."""


class Left(LeaseOver):
    """The client ended it, or has gone."""


class Session(Protocol):
    """One device of one lease. Making one touches nothing; what undoes may be called although nothing was done."""

    kind: Kind
    group: str  # of the IOMMU; it cannot tell the devices of a group apart
    neighbours: Sequence[str]  # other devices of the group

    def open(self) -> int:
        """Take the device, alone in an IOMMU domain of its own; returns the fd for the client, still owned here.

        OSError with EBUSY when somebody else has it open, with EPERM when the kernel does not give it to a program.
        """

    def verify(self, recorded: str) -> None:
        """Raise Refusal if the open device is not what the policy recorded (""), or gets past the IOMMU."""

    def usable(self) -> Sequence[Range]:
        """The IOVA ranges that the IOMMU lets be mapped."""

    def map(self, memory: Memory, iova: int) -> None:
        """Let the device read and write this memory."""

    def unmap(self, iova: int, size: int) -> None:
        """Take the memory away from the device."""

    def bus_master_off(self) -> None:
        """Stop the device's DMA, and its interrupts, at their source."""

    def close(self) -> None:
        """Let go of the device, which is reset when nobody has it any more. Idempotent."""

    def watch(self) -> Sequence[int]:
        """File descriptors of an open device that turn readable when it has something to say."""

    def trouble(self) -> str | None:
        """Called when one did: why the lease must end, or None."""


class Backend(Protocol):
    """Where devices come from: the kernel, or a simulator."""

    def describe(self, address: str) -> Listed | None:
        """What there is at this address (count and state FREE or UNBOUND are the caller's to replace)."""

    def session(self, address: str) -> Session:
        """A session with the device, not open. Raises Refusal when it cannot be leased as it is."""


class Phase(Enum):
    """How far a lease has come."""

    NEW = "before Hello"
    OPEN = "without a device"
    ATTACHED = "with devices"
    SEALED = "after Seal"


Step = tuple[str, Callable[[], None]]
Answer = tuple[Message, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Leased:
    """A device of this lease."""

    session: Session
    ledger: Ledger
    release: contextlib.ExitStack  # session, ledger, and last the claim: from then on another lease can have it


@dataclass(slots=True)
class Monitor:
    """Serves one connection until its lease ends."""

    connection: socket.socket
    grant: Grant
    backend: Backend
    claims: Claims
    stop: Sequence[int]  # file descriptors that turn readable to end it
    seal: Callable[[], None] = lambda: None  # gives up what the end of a lease does not need
    account: Account = field(default_factory=Account)  # all memory of the user
    _phase: Phase = Phase.NEW
    _requests: int = 0
    _listing: list[Listed] = field(default_factory=list)
    _window: memory.Window = field(default_factory=memory.Window)
    # What must be undone; each is recorded before it is done.
    _devices: dict[str, Leased] = field(default_factory=dict)  # by address
    _mapped: list[tuple[Session, int, int]] = field(default_factory=list)  # device, IOVA, size
    _memory: list[Memory] = field(default_factory=list)

    def run(self) -> str:
        """Serve until the end, undo everything, tell the client; returns why the lease ended."""
        left = False
        try:
            while True:
                self._wait()
                self._serve_one()
        except (LeaseOver, ProtocolError) as end:
            reason, left = str(end), isinstance(end, Left | ProtocolError)  # who talks nonsense is done with
        except Exception as error:
            reason = f"failed: {str(error) or type(error).__name__}"
            log.error("lease %s", reason, exc_info=not isinstance(error, OSError))
        failures = self._undo(left)
        log.info("lease of uid %d ended: %s%s", self.grant.uid, reason, f" ({failures} failures)" * bool(failures))
        with contextlib.suppress(OSError):  # the client may be gone, or not reading
            protocol.send(self.connection, protocol.Ended(protocol.one_line(reason)))
        if not left and self._memory:
            self._wait_for_the_client_to_leave()
            self._all(self._memory_steps())
        return reason

    def _undo(self, left: bool) -> int:
        """Undo everything, and what the client needs no more if it has left; returns the failures."""
        devices = self._devices.items()
        steps: list[Step] = []
        steps += [(f"bus master off of {address}", one.session.bus_master_off) for address, one in devices]
        steps += [(f"unmap of {iova:#x}", partial(one.unmap, iova, size)) for one, iova, size in self._mapped]
        steps += self._memory_steps() if left else []
        steps += [(f"release of {address}", one.release.close) for address, one in devices]
        return self._all(steps)

    def _memory_steps(self) -> list[Step]:
        return [(f"giving back of {made.size} bytes", partial(self._give_back, made)) for made in self._memory]

    def _all(self, steps: Sequence[Step]) -> int:
        """Do them all; a failure is logged, and the rest is still done. Returns the failures."""
        failures = 0
        for what, action in steps:
            try:
                action()
            except Exception as error:
                failures += 1
                log.error("end of lease: %s failed: %s", what, error)
        return failures

    def _wait_for_the_client_to_leave(self) -> None:
        """What it says meanwhile is not read."""
        poll = select.poll()
        poll.register(self.connection, 0)  # told of a hangup all the same
        for fd in self.stop:
            poll.register(fd, select.POLLIN)
        poll.poll(LOOK * 1000)

    def _give_back(self, made: Memory) -> None:
        """If this fails the bytes stay counted: a client that kept the descriptor has them."""
        memory.give_back(made)
        os.close(made.fd)
        self.account.give(made.size)

    def _wait(self) -> None:
        """Wait for the next request; everything that may end the lease meanwhile comes first."""
        poll = select.poll()
        watched = {fd: one.session for one in self._devices.values() for fd in one.session.watch()}
        for fd in (self.connection.fileno(), *self.stop, *watched):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(HELLO_DEADLINE * 1000 if self._phase is Phase.NEW else None)]
            if not ready:
                raise LeaseOver(f"no Hello in {HELLO_DEADLINE:.0f} s")
            if any(fd in ready for fd in self.stop):
                raise LeaseOver("the helper was stopped")
            for fd in ready:
                if fd in watched and (trouble := watched[fd].trouble()):
                    raise LeaseOver(trouble)
            if self.connection.fileno() in ready:
                return

    def _serve_one(self) -> None:
        try:
            received = protocol.receive(self.connection, protocol.REQUESTS)
        except ConnectionResetError:
            received = None
        if received is None:
            raise Left("the client closed the connection")
        sequence, request, _ = received
        self._requests += 1
        if sequence != self._requests or sequence > MAX_REQUESTS:
            raise ProtocolError(f"request {sequence} where {self._requests} of at most {MAX_REQUESTS} was due")
        permitted, handler, following = TABLE[type(request)]
        if self._phase not in permitted:
            raise ProtocolError(f"{type(request).__name__} is not permitted {self._phase.value}")
        fds: Sequence[int] = ()
        try:
            answer, fds = handler(self, request)
            self._phase = following or self._phase
        except Refusal as refusal:
            answer = protocol.Refused(protocol.one_line(str(refusal)))
            log.info("uid %d refused: %s", self.grant.uid, refusal)
        try:
            protocol.send(self.connection, answer, sequence, fds)
        except BlockingIOError:
            raise ProtocolError("the client does not read its answers") from None
        except (BrokenPipeError, ConnectionResetError):
            raise Left("the client closed the connection") from None
        finally:
            for fd in fds:
                os.close(fd)

    def _hello(self, request: protocol.Hello) -> Answer:
        return protocol.Welcome(self.grant.memory, len(self.grant.devices)), ()

    def _list(self, request: protocol.List) -> Answer:
        if request.index == 0:  # how it stands now; the rest of the list is asked for one by one
            found = [entry for address in sorted(self.grant.devices) if (entry := self.backend.describe(address))]
            self._listing = [replace(entry, count=len(found), state=self._state(entry)) for entry in found]
        count = len(self._listing)
        nothing = Listed(count, "", 0, 0, State.FREE, -1, "")
        return self._listing[request.index] if request.index < count else nothing, ()

    def _state(self, entry: Listed) -> int:
        holder = self.claims.holder(entry.address)
        return entry.state if holder is None else State.YOURS if holder[0] == self.grant.uid else State.LEASED

    def _attach(self, request: protocol.Attach) -> Answer:
        address, uid = request.address, self.grant.uid
        if address not in self.grant.devices:
            raise Refusal(f"{address}: the helper's policy does not give this device to uid {uid}")
        if address in self._devices:
            raise Refusal(f"{address}: this lease has it already")
        if holder := self.claims.holder(address):
            raise Refusal(f"{address}: leased by uid %d (helper process %d); that lease must end first" % holder)
        session = self.backend.session(address)  # the first look at the device itself
        claim = self.claims.claim(address, uid)
        if claim is None:
            raise Refusal(f"{address}: another lease was faster; it must end first")
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, claim)
            ledger = Ledger(self.claims.directory, address)
            undo.callback(ledger.close)
            undo.callback(session.close)
            self._devices[address] = Leased(session, ledger, undo.pop_all())
        try:
            fd = session.open()
            session.verify(self.grant.recorded.get(address, ""))
        except Refusal:
            self._devices.pop(address).release.close()
            raise
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EPERM):
                raise
            self._devices.pop(address).release.close()
            raise Refusal(f"{address}: {self._taken(session, error)}") from None
        log.info("uid %d attached %s", uid, address)
        return protocol.Attached(len(self._devices) - 1, session.kind), (os.dup(fd),)

    def _taken(self, session: Session, error: OSError) -> str:
        """Why the kernel does not give away a device that nobody leases."""
        for other in session.neighbours:
            holder = self.claims.holder(other)
            whose = "this lease has" if other in self._devices else f"uid {holder[0]} leases" if holder else ""
            if whose:
                shared = f"shares IOMMU group {session.group} with {other}, which {whose}"
                return f"{shared}: lease one at a time, or use a slot with ACS"
        if error.errno == errno.EPERM:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        shared = f" or {session.neighbours[0]} of its IOMMU group {session.group}" if session.neighbours else ""
        return f"a process still has it{shared} open; try again when that has ended"

    def _allocate(self, request: protocol.Memory) -> Answer:
        if request.devices >> len(self._devices):
            raise ProtocolError("Memory for a device that is not attached")
        devices = [device for i, device in enumerate(self._devices.values()) if request.devices >> i & 1]
        if request.purpose == Purpose.RINGS and len(devices) > 1:
            raise Refusal("rings are one device's alone; ask once per device")
        made = replace(self._made(request), writable=request.purpose != Purpose.READ_ONLY)
        self._memory.append(made)
        iova = self._window.take(made.size, [one.session.usable() for one in devices])
        for one in devices:
            one.ledger.add(iova, made, request.purpose)
            self._mapped.append((one.session, iova, made.size))
            one.session.map(made, iova)
        return protocol.Allocated(iova, made.size, made.page_size, protocol.one_line(made.note)), (os.dup(made.fd),)

    def _made(self, request: protocol.Memory) -> Memory:
        """New memory, within what all leases of the user may have together."""
        size, limit = request.size, self.grant.memory
        for page in (HUGE, PAGE) if request.purpose == Purpose.PACKETS else (PAGE,):
            if self.account.take(pages(size, page), limit):
                break
        else:
            left = max(0, limit - sum(self.account.counts()))
            raise Refusal(f"memory: {size} bytes asked, {left} of {limit} left to you")
        try:
            made = memory.allocate(size, page == HUGE)
        except OSError as error:
            self.account.give(pages(size, page))
            raise Refusal(f"memory: {error.strerror}; ask for less") from None
        self.account.give(pages(size, page) - made.size)  # small pages, where there were no hugepages
        return made

    def _seal(self, request: protocol.Seal) -> Answer:
        self.seal()
        return protocol.Sealed(), ()

    def _end(self, request: protocol.End) -> Answer:
        raise Left("the client ended it")


# Request -> (when it is permitted, handler, phase that follows, if it is another one).
_ASKING = (Phase.OPEN, Phase.ATTACHED)
TABLE: dict[type[Message], tuple[Sequence[Phase], Callable[[Monitor, Any], Answer], Phase | None]] = {
    protocol.Hello: ((Phase.NEW,), Monitor._hello, Phase.OPEN),
    protocol.List: (_ASKING, Monitor._list, None),
    protocol.Attach: (_ASKING, Monitor._attach, Phase.ATTACHED),
    protocol.Memory: ((Phase.ATTACHED,), Monitor._allocate, None),
    protocol.Seal: ((Phase.ATTACHED,), Monitor._seal, Phase.SEALED),
    protocol.End: ((*_ASKING, Phase.SEALED), Monitor._end, None),
}
