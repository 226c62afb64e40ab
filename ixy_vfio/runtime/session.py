"""Ports for scripts and for the prompt: one process, packets as NumPy arrays.

    import ixy_vfio

    with ixy_vfio.open_ports("0000:03:00.0", "0000:03:00.1") as (a, b):
        while True:
            batch = a.rx(32)               # does not wait; up to 32 packets
            for packet in batch:           # a writable uint8 array of each packet's bytes
                packet[48] += 1
            b.tx(batch)                    # what finds no room is dropped and counted

and faster, with a function compiled for a whole batch:

    @ixy_vfio.kernel
    def touch(packet, length):
        packet[48] += 1
        return True                        # True: keep it, False: drop it

    batch = a.batch(32)
    receive, work, send = a.receiver(batch), touch.on(batch), b.sender(batch)
    while True:                        # or, a little slower: a.rx_into(batch); touch(batch); b.tx(batch)
        receive()
        work()
        send()

Without packets a script need not poll: `a.wait(timeout)` sleeps until a packet may have come, and `a.fileno()` is for
selectors and asyncio, which wait for several things.

When the ports are closed, nothing of the devices stays open or mapped, and they can be opened again. What is used of
closed ports raises UsageError. Arrays of packets that are still held keep their bytes.

This process holds the devices' file descriptors *and* looks at packets: isolation level L1. The commands keep the two
apart (`control`, `worker`). The compiled functions are the same.
"""

import contextlib
import os
import select
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core import libc
from ixy_vfio.core.bound import Entry
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.datapath.batch import PAIR, calls, receiver, sender
from ixy_vfio.datapath.format import CHAIN_LIMIT
from ixy_vfio.datapath.forwarding import call_for, loop_state
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.pool import CLOSED, DATA, STRIDE, Pool
from ixy_vfio.datapath.queue import PortCounters, QueuePair, counters
from ixy_vfio.drivers import contract
from ixy_vfio.drivers.contract import INTERRUPT_INTERVAL, Counters, Link, PortConfig
from ixy_vfio.runtime.batch import Batch, Kernel
from ixy_vfio.transport.base import Device
from ixy_vfio.transport.lease import Lease, Purpose

IN_HAND = 4096  # buffers for packets that the script holds


class _Closed:
    """In the place of what a closed port had."""

    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError(CLOSED)


class Port:
    """One port: queue 0 of a device, with a pool that it shares with the other ports of the session."""

    def __init__(self, device: contract.NetDevice, pair: QueuePair, lease: Lease | None = None) -> None:
        self.device, self.pair, self._lease = device, pair, lease
        self._interrupts: int | None = None  # an eventfd, from the first `fileno` on
        self._record = pair.state  # compiled functions that are bound to the port read it, also when it is closed
        self._address = pair.address
        self._receive, self._send = calls(pair.queue.format)

    def rx(self, count: int = 32) -> Batch:
        """Up to `count` packets that have been received; does not wait."""
        batch = Batch(self.pair.pool, count)
        self._receive(self._address, batch._address)
        return batch

    def fileno(self) -> int:
        """A file descriptor, readable when packets may have come: then `wait(0)`, and `rx` until there is nothing.

        From the first call on the device interrupts, 2,000 times a second at most. SystemRefused for what is refused.
        """
        if self._interrupts is None:
            queues = self.device.config.queues
            with libc.needed("eventfd2"):
                eventfd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # 1: packets may be there already
            try:
                self.device.enable_interrupts([eventfd] * queues, INTERRUPT_INTERVAL)
            except BaseException:
                os.close(eventfd)
                raise
            self._interrupts = eventfd
        return self._interrupts

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until a packet may have come: True, now and then in vain. False after `timeout` seconds (None: never).

        LeaseError when the helper has ended the lease meanwhile.
        """
        interrupts = self.fileno()
        poll = select.poll()
        poll.register(interrupts, select.POLLIN)
        if self._lease is not None:
            poll.register(self._lease.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(None if timeout is None else max(timeout, 0) * 1000)}
        if self._lease is not None and ready - {interrupts}:
            self._lease.check()
        if interrupts not in ready:
            return False
        os.eventfd_read(interrupts)
        return True

    def batch(self, count: int = 32) -> Batch:
        """An empty batch with room for `count` packets, for `rx_into`."""
        return Batch(self.pair.pool, count)

    def rx_into(self, batch: Batch) -> int:
        """Like `rx`, into an empty batch that is used again and again: that is faster. Returns how many packets."""
        return self._receive(self._address, batch._address)

    def tx(self, batch: Batch) -> int:
        """Send a batch; returns how many packets the ring had room for. The others are dropped and counted."""
        return self._send(self._address, batch._address)

    def receiver(self, batch: Batch) -> Callable[[], int]:
        """`rx_into` as a function for this batch, to be called again and again: the fastest way to have a batch."""
        return self._bound(receiver(self.pair.queue.format), batch)

    def sender(self, batch: Batch) -> Callable[[], int]:
        """`tx` as a function for this batch, to be called again and again."""
        return self._bound(sender(self.pair.queue.format), batch)

    def _bound(self, entry: Entry, batch: Batch) -> Callable[[], int]:
        pair: NDArray[Any] = np.array([(self.pair.address, batch._address)], PAIR)
        return entry.bind(int(pair.ctypes.data), (pair, batch, self))

    def new(self, count: int, length: int) -> Batch:
        """`count` fresh packets of `length` bytes (17 to 2048), to be filled and sent. Fewer when there are fewer."""
        if not 17 <= length <= DATA:
            raise UsageError(f"a packet of {length} bytes: 17 to {DATA}")
        pool = self.pair.pool
        batch = self.batch(count)
        count = min(count, pool.free)
        batch._words[0, :count], batch._words[1] = pool.stack[pool.free - count : pool.free], length
        pool.state["free"] -= count
        batch._count = count
        return batch

    def run(
        self,
        kernel: Callable[..., bool] | Kernel,
        to: "Port",
        *,
        rounds: int = 1_000_000,
        packets: int = 0,
        batch: int = 32,
        both: bool = False,
    ) -> int:
        """Receive here, run `kernel` on each packet, send on `to`, compiled; returns the packets received.

        Ends after `rounds` polls, or `packets` packets (0: no limit). `both`: the other direction as well. `kernel`: as
        in `datapath/loop.py`, or one of `ixy_vfio.kernel`.
        """
        return self.forwarder(kernel, to, rounds=rounds, packets=packets, batch=batch, both=both)()

    def forwarder(
        self,
        kernel: Callable[..., bool] | Kernel,
        to: "Port",
        *,
        rounds: int = 1,
        packets: int = 0,
        batch: int = 32,
        both: bool = False,
    ) -> Callable[[], int]:
        """What `run` does, as a function to call again and again: of one batch (in each direction), say, at a time.

        The fastest way to forward a batch a call: nothing but the packets' number comes to Python.
        """
        if to.pair.pool is not self.pair.pool:
            raise UsageError("these ports are of two sessions: open both with one open_ports")
        widest = min(-(-(self.mtu + 26) // DATA), CHAIN_LIMIT)
        state, kept = loop_state(self.pair, to.pair, batch, both, packets, widest)
        state["rounds"], state["patience"] = rounds, rounds
        function = kernel.function if isinstance(kernel, Kernel) else kernel
        formats = Formats(self.pair.queue.format, to.pair.queue.format)
        return call_for(formats, function).bind(int(state.ctypes.data), (state, kept, self, to))

    @property
    def mtu(self) -> int:
        """The longest packet that can come, without Ethernet's header."""
        return self.device.config.mtu

    @property
    def mac(self) -> bytes:
        """The port's address."""
        return self.device.mac

    @property
    def link(self) -> Link:
        """The link, now."""
        return self.device.link()

    @property
    def counted(self) -> PortCounters:
        """What the data path counted."""
        return counters(self.pair)

    def counters(self) -> Counters:
        """What the device counted."""
        return self.device.counters()

    def _close(self) -> None:
        """Unmap the doorbells. What is used of the port from now on raises UsageError."""
        device, pair = self.device, self.pair
        closed: Any = _Closed()
        self.device = self.pair = closed
        pair.close()
        device.close()
        if self._interrupts is not None:
            os.close(self._interrupts)
            self._interrupts = None


class Session:
    """A lease, and ports that share packet memory. A context manager; gives the ports."""

    def __init__(
        self, *addresses: str, helper: str | None = None, config: PortConfig | None = None, link_deadline: float = 10.0
    ) -> None:
        """Open the ports and wait for their links. All that Lease and NetDevice raise."""
        if not addresses or len(set(addresses)) < len(addresses):
            raise UsageError("name each port once")
        self.config = config or PortConfig(promiscuous=True)
        self.lease = Lease(helper)
        self.ports: list[Port] = []
        self._devices: list[contract.NetDevice] = []
        self._memory: list[DmaMemory] = []
        self._pool: Pool | None = None
        try:
            self._open(addresses, link_deadline)
        except BaseException:
            self.close()
            raise

    def _open(self, addresses: tuple[str, ...], link_deadline: float) -> None:
        devices = [self.lease.attach(address) for address in addresses]
        buffers = len(devices) * (self.config.rx_ring + self.config.tx_ring) + IN_HAND
        pool = self._pool = Pool(self._new_memory(buffers * STRIDE, devices, Purpose.PACKETS))
        for device in devices:
            rings = partial(self._new_memory, devices=[device], purpose=Purpose.RINGS)
            port = contract.open_port(device, self.config, rings)
            self._devices.append(port)
            port.initialise()
            pair = QueuePair(port.queue(0), pool)
            pair.arm()
            self.ports.append(Port(port, pair, self.lease))
        self.lease.seal()
        for port in self._devices:
            port.wait_link(link_deadline)
        for port in self._devices:
            port.enable_receive()

    def _new_memory(self, size: int, devices: Sequence[Device], purpose: Purpose) -> DmaMemory:
        self._memory.append(self.lease.memory(size, devices, purpose))
        return self._memory[-1]

    def close(self) -> None:
        """Stop the devices, unmap all that is theirs, and end the lease. Idempotent."""
        with contextlib.ExitStack() as always:  # each of it, also when what came before has failed
            always.callback(self.lease.close)
            for memory in self._memory:
                always.callback(memory.close)
            if self._pool is not None:
                always.callback(self._pool.close)
            for device in self._devices:
                always.callback(device.close)
            for port in self.ports:
                always.callback(port._close)
            for device in self._devices:
                always.callback(device.stop)
        self.ports, self._devices, self._memory, self._pool = [], [], [], None

    def __enter__(self) -> list[Port]:
        return self.ports

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
