"""A worker: a sealed process that runs the compiled loop over its queues, and looks up once a millisecond."""

import gc
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.pool import Pool
from ixy_vfio.ixgbe.datapath import QueuePair
from ixy_vfio.ixgbe.forward import LOOP
from ixy_vfio.runtime import messages, sandbox
from ixy_vfio.runtime.messages import Kind, PortCounters, Statistics

PATIENCE = 1000  # empty rounds before a call returns: some tens of microseconds
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

    name: str  # of the kernel, for messages
    loop: Callable[[NDArray[Any]], int]
    pool: Pool
    pairs: tuple[QueuePair, QueuePair]
    batch: int
    both: bool
    limit: int  # packets; 0: none
    widest: int  # descriptors that the longest packet takes
    core: int | None
    idle: Idle
    wakeups: tuple[int, ...] = ()  # eventfds that the devices signal; control keeps them open

    def keep(self) -> list[tuple[int, int]]:
        """The ranges of shared memory that the job works on."""
        ranges = [(self.pool.memory.address, self.pool.memory.size)]
        for pair in self.pairs:
            queue = pair.queue
            ranges += [(page.address, page.size) for page in (queue.rx_page, queue.tx_page)]
            ranges += [(ring.address, ring.descriptors * 16) for ring in (queue.rx, queue.tx)]
        return ranges


def loop_state(
    a: QueuePair, b: QueuePair, batch: int, both: bool = True, limit: int = 0, widest: int = 1
) -> tuple[NDArray[Any], Any]:
    """The loop's record, and what it points to (to be kept as long as the record)."""
    state: NDArray[Any] = np.zeros(1, LOOP)
    values = {
        "a": a.address,
        "b": b.address,
        "both": both,
        "batch": batch,
        "widest": widest,
        "rounds": 1000,
        "patience": PATIENCE,
        "limit": limit,
    }
    for name, value in values.items():
        state[name] = value
    return state, (a, b)


def counters(pair: QueuePair) -> PortCounters:
    """The counters of a queue pair."""
    rx, tx = pair.state[0]["rx"], pair.state[0]["tx"]
    received_bytes, sent_bytes = pair.bytes
    return PortCounters(
        received=pair.received,
        received_bytes=received_bytes,
        rx_errors=int(rx["errors"]),
        oversize=int(rx["oversize"]),
        refused=int(rx["refused"]),
        no_buffer=int(rx["no_buffer"]),
        sent=pair.sent,
        sent_bytes=sent_bytes,
        no_room=int(tx["no_room"]),
    )


def start(job: Job) -> tuple[int, socket.socket]:
    """Fork a worker; returns its pid and control's end of the socketpair. It waits for GO."""
    for pair in job.pairs:
        counters(pair)  # compiled now: a sealed worker can load nothing
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        waker = _waker(job, theirs)  # kept until the end: sealed, it cannot be closed
        status = _main(job, theirs, waker, parent)
    finally:
        os._exit(status)


def _main(job: Job, connection: socket.socket, waker: select.epoll | None, parent: int) -> int:
    try:
        gc.disable()
        kept = [connection.fileno()] + ([waker.fileno()] if waker else [])
        sealed = sandbox.seal(kept, job.keep(), parent, job.core)
        messages.send(connection, Kind.READY, sealed.pack())
        message = messages.receive(connection)
        if message is not None and message[0] is Kind.GO:
            _run(job, connection, waker)
        else:
            messages.send(connection, Kind.DONE, Statistics().pack())
        return 0
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        return 1  # control is gone, or reads nothing: there is nobody to tell
    except Exception as error:
        text = f"kernel {job.name}: {type(error).__name__}: {error}"
        messages.send(connection, Kind.ERROR, " ".join(text.split()).encode()[: messages.TEXT])
        return 1


def _waker(job: Job, connection: socket.socket) -> select.epoll | None:
    """What the worker sleeps on: interrupts, and its socket. None when it never sleeps.

    Edge-triggered, an eventfd needs no read: each signal since the last wait ends the next one. So the eventfds
    themselves are closed with all the rest, and a worker can neither take nor give a signal.
    """
    if job.idle is not Idle.SLEEP:
        return None
    waker = select.epoll()
    waker.register(connection.fileno(), select.EPOLLIN)
    for eventfd in job.wakeups:
        waker.register(eventfd, select.EPOLLIN | select.EPOLLET)
    return waker


def _run(job: Job, connection: socket.socket, waker: select.epoll | None) -> None:
    state, _scratch = loop_state(*job.pairs, job.batch, job.both, job.limit, job.widest)
    first_packet = 0
    busy_at = last_look = time.monotonic()
    while True:
        begin = time.monotonic()
        received = job.loop(state)
        now = time.monotonic()
        if received:
            first_packet = first_packet or time.monotonic_ns()
            busy_at = now
            if now - begin < LOOK_UP / 2 and state["rounds"][0] < MAX_ROUNDS:
                state["rounds"] *= 2
            elif now - begin > 2 * LOOK_UP and state["rounds"][0] > 1:
                state["rounds"] //= 2
        elif job.idle is not Idle.POLL:
            if waker is not None and now - busy_at > SLEEP_AFTER:
                waker.poll(SLEEP)
                now = time.monotonic()
            else:
                os.sched_yield()
        done = bool(job.limit) and int(state["received"][0]) >= job.limit
        if now - last_look < LOOK_UP and not done:
            continue
        last_look = now
        if _look_up(job, connection, first_packet) or done:
            statistics = Statistics(first_packet, (counters(job.pairs[0]), counters(job.pairs[1])))
            messages.send(connection, Kind.DONE, statistics.pack())
            return


def _look_up(job: Job, connection: socket.socket, first_packet: int) -> bool:
    """Answer what control asked meanwhile. True when it is time to stop."""
    try:
        message = messages.receive(connection, wait=False)
    except BlockingIOError:
        return False
    if message is None or message[0] is Kind.STOP:
        return True
    statistics = Statistics(first_packet, (counters(job.pairs[0]), counters(job.pairs[1])))
    messages.send(connection, Kind.STATISTICS, statistics.pack())
    return False
