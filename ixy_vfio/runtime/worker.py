"""A worker: a sealed process that runs the compiled loop over its queues, and looks up once a millisecond."""

import gc
import os
import select
import socket
import time
from dataclasses import dataclass
from enum import Enum

from ixy_vfio.core import libc
from ixy_vfio.datapath.pool import Pool
from ixy_vfio.datapath.program import Program
from ixy_vfio.datapath.queue import QueuePair
from ixy_vfio.runtime import messages, sandbox
from ixy_vfio.runtime.messages import Kind, Share
from ixy_vfio.runtime.page import Page

MAX_ROUNDS = 1 << 20
LOOK_UP = 0.001  # seconds between looks at the socket, while packets come
SLEEP_AFTER = 0.002  # seconds without a packet; more than control lets the device hold an interrupt back
SLEEP = 0.1  # seconds at most: what a lost interrupt can cost


class Idle(Enum):
    """What a worker does while there are no packets."""

    POLL = "poll"  # poll on
    YIELD = "yield"  # poll, but let others run in between
    SLEEP = "sleep"  # yield, and after a while sleep until an interrupt


@dataclass(slots=True)
class Job:
    """All that a worker needs, made by control before the fork."""

    program: Program
    pool: Pool
    pairs: tuple[QueuePair, ...]  # one of each port
    limit: int | None = None  # packets that may come before control grants more; None: any number
    widest: int = 1  # descriptors that the longest packet takes
    core: int | None = None
    idle: Idle = Idle.SLEEP
    wakeups: tuple[int, ...] = ()  # eventfds that the devices signal; control keeps them open

    def keep(self, page: Page) -> list[tuple[int, int]]:
        """The ranges of shared memory that the job works on, and the page that it counts in."""
        ranges = [page.range, (self.pool.memory.address, self.pool.memory.size)]
        for pair in self.pairs:
            queue = pair.queue
            ranges += [(page.address, page.size) for page in (queue.rx_page, queue.tx_page)]
            ranges += [(ring.address, ring.descriptors * 16) for ring in (queue.rx, queue.tx)]
        return ranges


def start(job: Job) -> tuple[int, socket.socket, Page]:
    """Fork a worker; returns its pid, control's end of the socketpair, and its counters. It waits for GO."""
    page = Page(len(job.pairs))
    page.publish(job.pairs, 0, waiting=False)  # what counts is compiled now: a sealed worker can load nothing
    with libc.needed("socketpair"):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waker = _waker(job, theirs)  # before the fork: what it may lack is an error of control's
    parent = os.getpid()
    with libc.needed("fork"):
        pid = os.fork()
    if pid:
        theirs.close()
        if waker is not None:
            waker.close()
        page.hand_over()
        return pid, ours, page
    status = 1
    try:
        status = _main(job, theirs, waker, page, parent)
    finally:
        os._exit(status)


def _main(job: Job, connection: socket.socket, waker: select.epoll | None, page: Page, parent: int) -> int:
    blame = ""
    try:
        gc.disable()
        kept = [connection.fileno()] + ([waker.fileno()] if waker else [])
        sealed = sandbox.seal(kept, job.keep(page), parent, job.core)
        messages.send(connection, Kind.READY, sealed.pack())
        blame = f"kernel {job.program.name}: "
        message = messages.receive(connection)
        if message is not None and message[0] is Kind.GO:
            run = _Run(job, connection, page)
            try:
                _run(run, waker)
            finally:
                run.publish()
        messages.send(connection, Kind.DONE)
        return 0
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        return 1  # control is gone, or reads nothing: there is nobody to tell
    except Exception as error:
        text = f"{blame}{type(error).__name__}: {error}" if blame else str(error)
        messages.send(connection, Kind.ERROR, " ".join(text.split()).encode()[: messages.TEXT])
        return 1


def _waker(job: Job, connection: socket.socket) -> select.epoll | None:
    """What the worker sleeps on: interrupts, and its socket. None when it never sleeps.

    Edge-triggered, an eventfd needs no read: each signal since the last wait ends the next one. So the eventfds
    themselves are closed with all the rest, and a worker can neither take nor give a signal.
    """
    if job.idle is not Idle.SLEEP:
        return None
    with libc.needed("epoll_create1 (not needed with --idle yield)"):
        waker = select.epoll()
    with libc.needed("epoll_ctl (not needed with --idle yield)"):
        waker.register(connection.fileno(), select.EPOLLIN)
        for eventfd in job.wakeups:
            waker.register(eventfd, select.EPOLLIN | select.EPOLLET)
    return waker


class _Run:
    """What a worker that runs knows, and how it answers control."""

    def __init__(self, job: Job, connection: socket.socket, page: Page) -> None:
        self.job, self._connection, self._page = job, connection, page
        self.state, self._kept = job.program.record(job.pairs, job.widest)
        self.state["rounds"] = 1  # more when it is known that they are short: a kernel may take long for a packet
        self.first_packet = 0
        self._granted, self._returned = job.limit, 0
        self._set_limit()

    @property
    def _taken(self) -> int:
        return int(self.state["received"][0])

    @property
    def at_limit(self) -> bool:
        """Every packet that may come has come."""
        return self._granted is not None and self._taken >= self._granted - self._returned

    def _set_limit(self) -> None:
        self.state["limit"] = 0 if self._granted is None else self._granted - self._returned

    def publish(self, *, waiting: bool = False) -> None:
        """What was counted."""
        self._page.publish(self.job.pairs, self.first_packet, waiting)

    def tell_share(self) -> None:
        """What became of the packets that were granted."""
        messages.send(self._connection, Kind.SHARE, Share(self._taken, self._returned).pack())

    def obey(self, *, wait: bool) -> bool:
        """Do what control asked for meanwhile, if it did. True when it is time to stop."""
        try:
            message = messages.receive(self._connection, wait=wait)
        except BlockingIOError:
            return False
        if message is None or message[0] is Kind.STOP:
            return True
        kind, payload = message
        if kind is Kind.GRANT:
            (self._granted,) = messages.NUMBER.unpack(payload)
        else:
            if self._granted is not None:
                left = self._granted - self._returned - self._taken
                self._returned += left - left // 2
            self.tell_share()
        self._set_limit()
        return False


def _run(run: _Run, waker: select.epoll | None) -> None:
    state, loop, idle = run.state, run.job.program.loop, run.job.idle
    stop = False
    busy_at = last_look = time.monotonic()
    while not stop:
        if run.at_limit:
            run.publish(waiting=True)
            run.tell_share()  # control grants more, or ends the run
            while run.at_limit and not stop:
                stop = run.obey(wait=True)
            continue
        begin = time.monotonic()
        received = loop(state)
        now = time.monotonic()
        if received:
            run.first_packet = run.first_packet or time.monotonic_ns()
            busy_at = now
            if now - begin < LOOK_UP / 2 and state["rounds"][0] < MAX_ROUNDS:
                state["rounds"] *= 2
            elif now - begin > 2 * LOOK_UP and state["rounds"][0] > 1:
                state["rounds"] //= 2
        elif idle is not Idle.POLL:
            if waker is not None and now - busy_at > SLEEP_AFTER:
                waker.poll(SLEEP)
                now = time.monotonic()
            else:
                os.sched_yield()
        if now - last_look >= LOOK_UP:
            last_look = now
            run.publish()
            stop = run.obey(wait=False)
