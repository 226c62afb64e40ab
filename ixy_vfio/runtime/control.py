"""Control: opens the lease and the ports, forks the workers, watches everything, and puts everything back.

    lease -> ports -> packet memory -> rings filled -> workers forked and sealed -> links up -> GO -> receive on
    stop: workers end -> devices idle -> last counters -> lease closed

A packet is looked at by workers only; control has the devices, and never reads packet memory.
"""

import contextlib
import functools
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Self

from ixy_vfio.core import libc, signals, threads
from ixy_vfio.core.errors import DeviceError, IxyError, LeaseError, LinkDown, SealError, WorkerError
from ixy_vfio.datapath.pool import STRIDE, Pool
from ixy_vfio.datapath.queue import QueuePair
from ixy_vfio.drivers import contract
from ixy_vfio.drivers.contract import INTERRUPT_INTERVAL, Counters, Link, NetDevice
from ixy_vfio.runtime import child, control_seal, sandbox, shares, worker
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind
from ixy_vfio.runtime.plan import Plan, Snapshot
from ixy_vfio.runtime.sandbox import Seal
from ixy_vfio.runtime.worker import Idle, Job
from ixy_vfio.transport.base import Device
from ixy_vfio.transport.lease import Lease, Purpose

_FRAME = 26  # Ethernet header, two VLAN tags, CRC
WATCH = 0.25  # seconds between looks at the devices
LAST_WORD = 1.0  # seconds; a helper that ends a lease takes the devices back first and says why last


class Control:
    """A run, from lease to lease's end. Use as a context manager: leaving it stops everything."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda text: None) -> None:
        """`say` is told what is being waited for, a line each time."""
        self.plan = plan
        self._say = say
        self.notes: list[str] = []
        self.lease: Lease | None = None
        self.ports: list[NetDevice] = []
        self.macs: list[bytes] = []
        self.workers: list[Worker] = []
        self.seal = Seal()
        self.snapshot: Snapshot | None = None  # the last one; after a run there is one, however it ended
        self.began = 0.0  # when packets may first have come, on CLOCK_MONOTONIC; 0: not yet
        self.stopping = False
        self._looked = 0.0  # at the workers, on CLOCK_MONOTONIC
        self._selector = selectors.DefaultSelector()
        self._stack = contextlib.ExitStack()
        self._stopped = False
        self._counters = [Counters(0, 0, 0, 0, 0, 0, (), {})] * len(plan.addresses)  # the last that are known
        self._links = [Link(up=False, speed=0)] * len(plan.addresses)  # likewise

    def __enter__(self) -> Self:
        try:
            self._catch_signals()
            with signals.unwinding():  # nothing has been forwarded yet: the end is quiet, and at once
                self.start()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
                self._stack.close()
            elif isinstance(value, IxyError):
                self._keep_what_is_known(value)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """End all of it after an error, which is about to be reported: others are of no interest.

        The devices are not asked to stop: at the end of its lease the helper takes their DMA away, and at once.
        """
        self._stopped = True
        for one in self.workers:
            one.kill()
        for port in self.ports:
            with contextlib.suppress(IxyError, OSError):
                port.close()
        with contextlib.suppress(IxyError, OSError):
            self._stack.close()

    def _catch_signals(self) -> None:
        """SIGINT, SIGTERM and SIGHUP (unless it is ignored, as by nohup) set `stopping` and wake `watch`."""
        with libc.needed("pipe2"):
            reader, writer = os.pipe()
        self._stack.callback(os.close, reader)
        self._stack.callback(os.close, writer)
        for end in (reader, writer):
            os.set_blocking(end, False)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer))
        self._selector.register(reader, selectors.EVENT_READ)
        self._stack.callback(self._selector.close)

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,))):
            before = signal.signal(number, stop)
            if not self.plan.alone:  # else those that follow must not cut off what is said at the end
                self._stack.callback(signal.signal, number, before)

    def start(self) -> None:
        """From the lease to the first packet."""
        plan = self.plan
        if plan.alone:
            threads.require_one("control")  # before anything is done; it is looked at again when it is sealed
        self._say(f"waiting for the lease of {' and '.join(plan.addresses)}")
        lease = self.lease = self._stack.enter_context(Lease(plan.helper))
        devices = [lease.attach(address) for address in plan.addresses]
        for device in devices:
            rings = functools.partial(lease.memory, devices=[device], purpose=Purpose.RINGS)
            self.ports.append(contract.open_port(device, plan.config, rings))
        for port, address in self._named_ports():
            with self._device(address):
                port.initialise()
                self.notes += [f"{address}: {note}" for note in port.notes]
                self.macs.append(port.mac)
        wakeups = [self._wakeups(port) if plan.idle is Idle.SLEEP else [] for port in self.ports]
        for index in range(plan.config.queues):
            self._start_worker(index, devices, tuple(one[index] for one in wakeups if one))
        self.notes += lease.notes
        lease.seal()
        for one in self.workers:
            one.receive()
        self._check_seals()
        for index, (port, address) in enumerate(self._named_ports()):
            with self._device(address):
                self._wait_link(port, address)
                self._links[index] = port.link()
        if self.stopping:
            return
        self.began = time.monotonic()
        for one in self.workers:
            one.send(Kind.GO)
        for port, address in self._named_ports():
            with self._device(address):
                port.enable_receive()

    def _wakeups(self, port: NetDevice) -> list[int]:
        """An eventfd for each queue of the port, which the device signals from now on."""
        with libc.needed("eventfd2 (not needed with --idle yield)"):
            eventfds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(self.plan.config.queues)]
        for eventfd in eventfds:
            self._stack.callback(os.close, eventfd)
        port.enable_interrupts(eventfds, INTERRUPT_INTERVAL)
        return eventfds

    def _start_worker(self, index: int, devices: Sequence[Device], wakeups: tuple[int, ...]) -> None:
        """Memory, rings and the process of one queue set. Each worker has packet memory of its own."""
        plan, config = self.plan, self.plan.config
        assert self.lease is not None
        # Every ring full, a batch in hand each, and a block to spare.
        buffers = len(self.ports) * (config.rx_ring + config.tx_ring + plan.program.batch + 32)
        pool = Pool(self.lease.memory(buffers * STRIDE, devices, Purpose.PACKETS))
        pairs = tuple(QueuePair(port.queue(index), pool) for port in self.ports)
        for pair in pairs:
            pair.arm()
        limit = None if plan.limit is None else shares.part(plan.limit, config.queues, index)
        core = plan.cores[index % len(plan.cores)] if plan.cores else None
        widest = -(-(config.mtu + _FRAME) // config.buffer_size)
        job = Job(plan.program, pool, pairs, limit, widest, core, plan.idle, wakeups)
        one = Worker(*worker.start(job), core, limit)
        self._stack.callback(one.page.close)
        one.connection.settimeout(child.DEADLINE)  # also for what is sent: a worker need not read
        self.workers.append(one)
        self._selector.register(one.connection, selectors.EVENT_READ, one)

    def _check_seals(self) -> None:
        """What the sandboxes lack is a note, or the end. The kernel is the same for all of them."""
        missing = list(dict.fromkeys(text for one in self.workers for text in one.seal.missing))
        self.notes += [f"workers are not fully sealed: {text}" for text in missing]
        if self.plan.alone:
            self.seal = control_seal.seal([one.pid for one in self.workers])
            self.notes += [f"control is not fully sealed: {text}" for text in self.seal.missing]
        if not self.plan.require_sealed:
            return
        lacks = list(dict.fromkeys((*missing, *self.seal.missing)))
        of_control = [(control_seal.LAYERS, self.seal)] if self.plan.alone else []
        for layers, seal in (*of_control, *((sandbox.LAYERS, one.seal) for one in self.workers)):
            lacks += [] if lacks else [f"{layer}: not applied" for layer in layers if layer not in seal.applied]
        if lacks:
            raise SealError(f"not sealed as required: {'; '.join(lacks)}")

    def _wait_link(self, port: NetDevice, address: str) -> None:
        """In slices, so that a signal or the end of the lease is noticed."""
        end = time.monotonic() + self.plan.link_deadline
        while not self.stopping:
            self._check_lease()
            left = end - time.monotonic()
            try:
                port.wait_link(max(min(left, 0.5), 0.0))
                return
            except LinkDown:
                self._say(f"waiting for the link of {address}, {self.plan.link_deadline:g} s at most")
                if left <= 0.5:
                    text = f"no link after {self.plan.link_deadline:g} s; is the cable in, is the peer up?"
                    raise LinkDown(text) from None

    def _named_ports(self) -> Iterator[tuple[NetDevice, str]]:
        return zip(self.ports, self.plan.addresses, strict=True)

    @contextlib.contextmanager
    def _device(self, address: str) -> Iterator[None]:
        """An error of a device says which port it was; LeaseError where the helper has taken the device back."""
        try:
            yield
        except DeviceError as error:
            self._check_lease(LAST_WORD)
            if address in str(error):
                raise
            raise type(error)(f"{address}: {error}") from None

    def _check_lease(self, wait: float = 0.0) -> None:
        assert self.lease is not None
        self.lease.check(wait)

    def watch(self, interval: float, duration: float | None = None) -> Iterator[Snapshot]:
        """A snapshot every `interval` seconds until a signal, the duration's or the packet limit's end.

        Intervals that were missed are left out: a snapshot's own `time` says how much has passed.
        """
        assert self.lease is not None
        self._selector.register(self.lease.fileno(), selectors.EVENT_READ)
        begin = time.monotonic()
        shown = begin
        while not self.stopping and not all(one.done for one in self.workers):
            if self.plan.limit is not None and shares.used_up(self.plan.limit, self.workers, self._ask_shares):
                return
            now = time.monotonic()
            if duration is not None and now >= begin + duration:
                return
            wait = WATCH if duration is None else min(WATCH, begin + duration - now)
            self._handle(min(wait, max(shown + interval - now, 0.0)))
            self._look_at_ports()
            self._look_at_workers()
            now = time.monotonic()
            if now >= shown + interval:
                shown += (now - shown) // interval * interval
                yield self.take_snapshot()

    def _handle(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Worker):
                self._receive(key.data)
            elif self.lease is not None and key.fd == self.lease.fileno():
                self._check_lease()

    def _receive(self, one: Worker) -> None:
        one.receive()
        if one.done:
            self._selector.unregister(one.connection)

    def _look_at_ports(self) -> None:
        """Raises DeviceGone when a device was removed."""
        for index, (port, address) in enumerate(self._named_ports()):
            with self._device(address):
                self._links[index] = port.link()

    def _look_at_workers(self) -> None:
        """Raises WorkerError when one has not looked up for long.

        Only time in which control looked as well counts: both may have been stopped meanwhile, as by Ctrl-Z.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * WATCH), now
        for one in self.workers:
            counted = one.counted
            if one.done or counted.waiting or counted.at != one.looked_up:
                one.looked_up, one.silent = counted.at, 0.0
            else:
                one.silent += passed
            if one.silent > child.DEADLINE:
                raise self._silent(one, "answer")

    def _ask_shares(self, what: Kind, workers: Sequence[Worker]) -> None:
        """Bring the workers' shares of the packet limit up to date."""
        asked = [one for one in workers if not one.done]
        before = {one.pid: one.share for one in asked}
        for one in asked:
            one.send(what)
        end = time.monotonic() + child.DEADLINE
        while silent := [one for one in asked if not one.done and one.share is before[one.pid]]:
            if time.monotonic() > end:
                raise self._silent(silent[0], "answer")
            self._handle(0.05)

    def _silent(self, one: Worker, what: str) -> WorkerError:
        """The error of a worker that did not do so in time, with what may keep it from it."""
        program = self.plan.program
        text = f"worker {one.pid} did not {what} in {child.DEADLINE:.0f} s; "
        if not program.slow:
            return WorkerError(f"{text}are the processors busy with something else?")
        most = child.DEADLINE / (len(program.ways) * program.batch)
        text += f"does kernel {program.name} take more than {most * 1000:.0f} ms a packet ({program.slow})? "
        return WorkerError(f"{text}Let it do less for each" + ", or try --batch 1" * (program.batch > 1))

    def take_snapshot(self) -> Snapshot:
        """All counters, now."""
        for index, (port, address) in enumerate(self._named_ports()):
            with self._device(address):
                self._counters[index] = port.counters()
        return self._gather()

    def _gather(self) -> Snapshot:
        """What is known of counters and links, without a look at the devices."""
        counted = tuple(one.counted for one in self.workers)
        self.snapshot = Snapshot(time.monotonic(), counted, tuple(self._counters), tuple(self._links))
        return self.snapshot

    def _keep_what_is_known(self, error: IxyError) -> None:
        """The last snapshot of a run that ends by an error: from workers that still answer, and devices still there."""
        if not self.began:
            return
        end = time.monotonic() + LAST_WORD
        for one in self.workers:
            with contextlib.suppress(IxyError, OSError):
                one.send(Kind.STOP)
                while not one.done and one.connection.fileno() >= 0 and time.monotonic() < end:
                    one.connection.settimeout(max(end - time.monotonic(), 0.01))
                    one.receive()
        if not isinstance(error, LeaseError):  # else the helper has reset them
            for index, port in enumerate(self.ports):
                with contextlib.suppress(IxyError, OSError):
                    self._counters[index] = port.counters()
        self._gather()

    def stop(self) -> None:
        """Stop the workers, then the devices; take the last snapshot; close the ports. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        try:
            with contextlib.ExitStack() as always:  # each of it, also when what came before has failed
                for port in reversed(self.ports):
                    always.callback(self._stop_port, port)
                for one in self.workers:
                    always.callback(one.kill)
                for one in self.workers:
                    if not one.done:
                        one.send(Kind.STOP)
                self._await_workers()
            if self.ports:
                self.take_snapshot()
        except IxyError as error:
            self._keep_what_is_known(error)
            raise
        for port in self.ports:
            port.close()

    def _stop_port(self, port: NetDevice) -> None:
        self.notes += port.stop()

    def _await_workers(self) -> None:
        end = time.monotonic() + child.DEADLINE
        for one in self.workers:
            while not one.done and one.connection.fileno() >= 0:
                if time.monotonic() > end:
                    raise self._silent(one, "stop")
                one.connection.settimeout(max(end - time.monotonic(), 0.01))
                one.receive()
            one.wait(child.DEADLINE)
