"""Ports for scripts and for the prompt: one process, packets as NumPy arrays.

    import ixy_vfio

    with ixy_vfio.open_ports("0000:03:00.0", "0000:03:00.1") as (a, b):
        while True:
            batch = a.rx(32)               # does not wait; up to 32 packets
            for packet in batch:           # a writable uint8 array of each packet's bytes
                packet[48] += 1
            b.tx(batch)                    # what finds no room is dropped and counted

This process holds the devices' file descriptors *and* looks at packets: isolation level L1. The commands keep the two
apart (`control`, `worker`). The compiled functions are the same.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio import netdev
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.pool import CHAIN_LIMIT, DATA, STRIDE, Pool
from ixy_vfio.ixgbe.batch import free_batch, receive_batch, send_batch
from ixy_vfio.ixgbe.datapath import QueuePair, arm
from ixy_vfio.ixgbe.forward import loop_for
from ixy_vfio.netdev import Counters, Link, PortConfig
from ixy_vfio.runtime.messages import PortCounters
from ixy_vfio.runtime.worker import counters, loop_state
from ixy_vfio.transport.lease import Lease, Purpose

IN_HAND = 4096  # buffers for packets that the script holds


class Batch:
    """Packets that this process owns: from `Port.rx` or `Port.new`, until `Port.tx` or `free`.

    batch[i] is a writable uint8 array of the bytes in the packet's first buffer (all of them up to 2048); no copy.
    """

    def __init__(self, pair: QueuePair, state: NDArray[np.uint32], count: int) -> None:
        self._pair, self.state, self._count = pair, state, count

    @property
    def indices(self) -> NDArray[np.uint32]:
        """The index of each packet's first buffer."""
        return self.state[0, : self._count]

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Bytes of each packet, without CRC."""
        return self.state[1, : self._count]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        if not -self._count <= i < self._count:
            raise IndexError(f"packet {i} of {self._count}")
        index, length = self.state[:, i % self._count]
        return self._pair.pool.data(int(index), min(int(length), DATA))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(self._count))

    def bytes_of(self, i: int) -> bytes:
        """A copy of all of packet `i`, in however many buffers it lies."""
        index, length = (int(word) for word in self.state[:, i])
        chain = self._pair.pool.chain(index, length)
        return b"".join(bytes(self._pair.pool.data(one)) for one in chain)[:length]

    def taken(self) -> int:
        """The packets now belong to somebody else; how many they were."""
        count, self._count = self._count, 0
        return count

    def free(self) -> None:
        """Drop all packets. Idempotent."""
        free_batch(self._pair.state, self.state, self.taken())

    def __del__(self) -> None:
        if self._count:
            self.free()


class Port:
    """One port: queue 0 of a device, with a pool that it shares with the other ports of the session."""

    def __init__(self, device: netdev.NetDevice, pool: Pool) -> None:
        self.device = device
        self.pair = QueuePair(device.queue(0), pool)
        arm(self.pair.state)

    def rx(self, count: int = 32) -> Batch:
        """Up to `count` packets that have been received; does not wait."""
        state = np.empty((2, count), np.uint32)
        return Batch(self.pair, state, int(receive_batch(self.pair.state, state)))

    def tx(self, batch: Batch) -> int:
        """Send a batch; returns how many packets the ring had room for. The others are dropped and counted."""
        if batch._pair.pool is not self.pair.pool:
            raise UsageError("these packets are of another session: open both ports with one open_ports")
        return int(send_batch(self.pair.state, batch.state, batch.taken()))

    def new(self, count: int, length: int) -> Batch:
        """`count` fresh packets of `length` bytes (17 to 2048), to be filled and sent. Fewer when there are fewer."""
        if not 17 <= length <= DATA:
            raise UsageError(f"a packet of {length} bytes: 17 to {DATA}")
        pool = self.pair.pool
        count = min(count, pool.free)
        state = np.empty((2, count), np.uint32)
        state[0], state[1] = pool.stack[pool.free - count : pool.free], length
        pool.state["free"] -= count
        return Batch(self.pair, state, count)

    def run(
        self,
        kernel: Callable[[Any, int], bool],
        to: "Port",
        *,
        rounds: int = 1_000_000,
        packets: int = 0,
        batch: int = 32,
        both: bool = False,
    ) -> int:
        """Receive here, run `kernel` on each packet, send on `to`, compiled; returns the packets received.

        Ends after `rounds` polls, or `packets` packets (0: no limit). `both`: the other direction as well.
        """
        loop = loop_for(kernel, f"{kernel.__qualname__}_{id(kernel)}", cache=False)
        widest = min(-(-(self.device.config.mtu + 26) // DATA), CHAIN_LIMIT)
        state, _scratch = loop_state(self.pair, to.pair, batch, both, packets, widest)
        state["rounds"], state["patience"] = rounds, rounds
        return int(loop(state))

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
        self._devices: list[netdev.NetDevice] = []
        try:
            self._open(addresses, link_deadline)
        except BaseException:
            self.close()
            raise

    def _open(self, addresses: tuple[str, ...], link_deadline: float) -> None:
        devices = [self.lease.attach(address) for address in addresses]
        buffers = len(devices) * (self.config.rx_ring + self.config.tx_ring) + IN_HAND
        pool = Pool(self.lease.memory(buffers * STRIDE, devices, Purpose.PACKETS))
        for device in devices:
            rings = partial(self.lease.memory, devices=[device], purpose=Purpose.RINGS)
            port = netdev.open_port(device, self.config, rings)
            self._devices.append(port)
            port.initialise()
            self.ports.append(Port(port, pool))
        self.lease.seal()
        for port in self._devices:
            port.wait_link(link_deadline)
        for port in self._devices:
            port.enable_receive()

    def close(self) -> None:
        """Stop the devices and end the lease. Idempotent."""
        try:
            for device in self._devices:
                device.stop()
        finally:
            self.lease.close()

    def __enter__(self) -> list[Port]:
        return self.ports

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
