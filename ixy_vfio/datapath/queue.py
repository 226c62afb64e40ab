"""A queue pair as Python sees it: its record, the arrays that the record points to, and its counters."""

# mypy: disable-error-code="type-arg"

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled, linked
from ixy_vfio.datapath.format import Format, Queue
from ixy_vfio.datapath.pool import Pool
from ixy_vfio.datapath.rings import BLOCK, QUEUE, TX_AT, count, fill_receive_ring


@dataclass(frozen=True, slots=True)
class PortCounters:
    """What a worker counted on one port. `sent` is what was given to the device."""

    received: int = 0
    received_bytes: int = 0
    rx_errors: int = 0
    oversize: int = 0
    refused: int = 0
    no_buffer: int = 0
    sent: int = 0
    sent_bytes: int = 0
    no_room: int = 0
    returned: int = 0  # received, and sent by the same port


class Calls(NamedTuple):
    """Functions of an array of one QUEUE."""

    fill: Callable[[NDArray[Any]], None]
    counted: Callable[[NDArray[Any], NDArray[np.uint64]], None]  # into an array of a PortCounters' values


@functools.cache
def calls_for(format: Format) -> Calls:
    """The functions for one format, compiled or loaded when they are first called."""
    return Calls(compiled(linked(fill_receive_ring, format)), compiled(linked(count, format)))


class QueuePair:
    """The state of one queue pair, and the arrays that its record points to."""

    def __init__(self, queue: Queue, pool: Pool) -> None:
        self.queue, self.pool = queue, pool
        self.rx_slots: NDArray[np.uint32] = np.zeros(queue.rx.descriptors, np.uint32)
        self.tx_slots: NDArray[np.uint32] = np.zeros((queue.tx.descriptors, 2), np.uint32)
        self.reports: NDArray[np.uint32] = np.zeros(queue.tx.descriptors // BLOCK, np.uint32)
        self.state: NDArray[Any] = np.zeros(1, QUEUE)
        record = self.state[0]
        record["pool"] = pool.address
        rx, tx = record["rx"], record["tx"]
        rx["ring"], rx["size"], rx["slots"] = queue.rx.address, queue.rx.descriptors, self.rx_slots.ctypes.data
        rx["home"] = self.address + TX_AT
        rx["doorbell"] = queue.rx_page.address + queue.rx_tail
        tx["ring"], tx["size"], tx["slots"] = queue.tx.address, queue.tx.descriptors, self.tx_slots.ctypes.data
        tx["reports"] = self.reports.ctypes.data
        tx["doorbell"] = queue.tx_page.address + queue.tx_tail

    @property
    def address(self) -> int:
        """Where the state lies."""
        return int(self.state.ctypes.data)

    def arm(self) -> None:
        """Fill the receive ring from the pool, as far as whole blocks go."""
        calls_for(self.queue.format).fill(self.state)

    @property
    def received(self) -> int:
        """Good packets given to the application."""
        return self._taken - int(self.state[0]["rx"]["partial"])

    @property
    def sent(self) -> int:
        """Packets given to the device."""
        tx = self.state[0]["tx"]
        return int(tx["filled"] - tx["partial"])

    def count(self, into: NDArray[np.uint64]) -> None:
        """Write the values of PortCounters into an array of as many, in their order."""
        calls_for(self.queue.format).counted(self.state, into)

    @property
    def armed(self) -> int:
        """Receive descriptors with a buffer."""
        return int(self.state[0]["rx"]["armed"]) - self._taken

    @property
    def used(self) -> int:
        """Transmit descriptors with a buffer."""
        tx = self.state[0]["tx"]
        return int(tx["filled"] - tx["freed"])

    @property
    def _taken(self) -> int:
        rx = self.state[0]["rx"]
        return int(rx["pause"] - rx["run"])

    def close(self) -> None:
        """No address of a device or its memory stays in the record: what compiled code finds there is a closed port."""
        self.state[:] = np.zeros(1, QUEUE)

    def held(self) -> list[int]:
        """The buffers in the rings, and in a packet that is not complete. For tests: see `Pool.check`."""
        rx, tx = self.state[0]["rx"], self.state[0]["tx"]
        chain = [int(rx["chain_first"])] if rx["chain_count"] else []
        for _ in range(int(rx["chain_count"]) - 1):
            chain.append(int(self.pool.links[chain[-1]]))
        received = [int(self.rx_slots[(int(rx["next"]) + i) % int(rx["size"])]) for i in range(self.armed)]
        return (
            chain
            + received
            + [int(self.tx_slots[(int(tx["tail"]) - 1 - i) % int(tx["size"]), 0]) for i in range(self.used)]
        )


def counters(pair: QueuePair) -> PortCounters:
    """The counters of a queue pair."""
    found = np.zeros(len(PortCounters.__slots__), np.uint64)
    pair.count(found)
    return PortCounters(*map(int, found))
