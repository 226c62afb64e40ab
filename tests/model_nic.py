"""A small model of the queues of an 82599, to step the data path inline; the driver tests' own reading of the book.

It serves one queue pair of one port. Compiled, so that it can also carry a benchmark. It keeps its own copy of the
head registers and believes nothing: an address outside the DMA memory or a malformed descriptor is an error.
"""

# mypy: disable-error-code="type-arg"

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.core.unsafe import load_acquire, store_release, words32_at, words64_at
from ixy_vfio.datapath.format import Queue, Ring
from ixy_vfio.datapath.pool import Pool
from ixy_vfio.datapath.queue import QueuePair
from ixy_vfio.drivers.ixgbe.format import FORMAT

U = np.uint64
RDT, TDT = 0x1018, 0x6018  # 8.2.3.8, 8.2.3.9; of queue 0

NIC = np.dtype(
    [
        ("bar", "<u8"),
        ("memory", "<u8"),
        ("iova", "<u8"),
        ("size", "<u8"),
        ("rx_ring", "<u8"),
        ("tx_ring", "<u8"),
        ("rx_size", "<u8"),
        ("tx_size", "<u8"),
        ("rdh", "<u8"),
        ("tdh", "<u8"),
        ("received", "<u8"),
        ("sent", "<u8"),
        ("sent_bytes", "<u8"),
        ("errors", "<u8"),
        ("next_length", "<u8"),  # descriptor's DTALEN sum of the packet being sent
        ("paylen", "<u8"),
        ("head", "<u8"),  # address of the 48 bytes that begin a received packet
    ]
)


@compiled
def deliver(nic: Any, count: int, word: Any, length: int) -> Any:
    """Write `count` receive descriptors back with `word`, and `length` bytes of packet each. Returns how many."""
    n = nic[0]
    tail = U(load_acquire(words32_at(n.bar, 0x2000), RDT // 4))
    ring = words64_at(n.rx_ring, U(2) * n.rx_size)
    template = words64_at(n.head, 8)
    done = 0
    while done < count and n.rdh != tail:
        at = ring[U(2) * n.rdh] - n.iova
        if at + U(2048) > n.size or ring[U(2) * n.rdh + U(1)] & U(1):
            n.errors += U(1)
        elif length > 0:
            packet = words64_at(n.memory + at, 256)
            for i in range(min(U(8), (U(length) + U(7)) // U(8))):
                packet[i] = template[i]
        ring[U(2) * n.rdh] = U(0)
        store_release(ring, U(2) * n.rdh + U(1), U(word))
        n.rdh = (n.rdh + U(1)) & (n.rx_size - U(1))
        n.received += U(1)
        done += 1
    return done


@compiled
def transmit(nic: Any, count: int) -> Any:
    """Take up to `count` transmit descriptors; returns how many."""
    n = nic[0]
    tail = U(load_acquire(words32_at(n.bar, 0x2000), TDT // 4))
    ring = words64_at(n.tx_ring, U(2) * n.tx_size)
    done = 0
    total = U(0)
    while done < count and n.tdh != tail:
        at = ring[U(2) * n.tdh] - n.iova
        word = ring[U(2) * n.tdh + U(1)]
        length = word & U(0xFFFF)
        if n.next_length == U(0):
            n.paylen = word >> U(46)
        n.next_length += length
        # 7.2.3.2.4: DTYP 3, DEXT, IFCS; no reserved bit, no VLE or TSE; STA and the index are zero
        if at + length > n.size or word & U(0xF4F0_0000) != U(0x2030_0000) or word & U(0x3FFF_8000_0000 & ~(1 << 31)):
            n.errors += U(1)
        total += U(words64_at(n.memory + at, 1)[0]) & U(1)
        if word & U(1 << 24):
            if n.paylen != n.next_length:
                n.errors += U(1)
            n.sent += U(1)
            n.sent_bytes += n.next_length
            n.next_length = U(0)
        elif word & U(1 << 27):
            n.errors += U(1)
        if word & U(1 << 27):
            ring[U(2) * n.tdh] = U(0)
            store_release(ring, U(2) * n.tdh + U(1), U(1 << 32))
        n.tdh = (n.tdh + U(1)) & (n.tx_size - U(1))
        done += 1
    return done


class ArrayMemory:
    """Stands in for a `Mapping`: the bytes of an array."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array, self.size = array, array.size

    @property
    def address(self) -> int:
        return int(self.array.ctypes.data)

    @property
    def view(self) -> memoryview:
        return memoryview(self.array)  # type: ignore[arg-type]

    def close(self) -> None:
        pass


class Memory(ArrayMemory):
    """Anonymous shared memory, which a forked worker shares too."""

    def __init__(self, size: int) -> None:
        super().__init__(np.frombuffer(mmap.mmap(-1, size), np.uint8))


class World:
    """`ports` model NICs that share packet memory, and the driver's queue pairs on them."""

    IOVA = 0x4000_0000

    def __init__(self, ports: int = 2, ring: int = 64, buffers: int = 512, tx_ring: int | None = None) -> None:
        tx_ring = tx_ring or ring
        rings = ports * (ring + tx_ring) * 16
        rings += -rings % 4096
        self.memory = Memory(rings + buffers * 2112 + 64)
        mapping: Any = self.memory
        self.dma = DmaMemory(mapping, self.IOVA, self.memory.size, 4096)
        self.pool = Pool(self.dma, rings, buffers)
        self.nics: list[NDArray[Any]] = []
        self.pairs: list[QueuePair] = []
        self.bars: list[Memory] = []
        self.template: NDArray[np.uint64] = np.arange(8, dtype=np.uint64)
        for port in range(ports):
            at = port * (ring + tx_ring) * 16
            self._add_port(at, ring, at + ring * 16, tx_ring)

    def _add_port(self, rx: int, rx_size: int, tx: int, tx_size: int) -> None:
        bar: Any = Memory(0x8000)
        self.bars.append(bar)
        base, iova = self.memory.address, self.IOVA
        queue = Queue(
            0,
            Ring(base + rx, iova + rx, rx_size),
            Ring(base + tx, iova + tx, tx_size),
            bar,
            RDT,
            bar,
            TDT,
            2048,
            FORMAT,
        )
        nic: NDArray[Any] = np.zeros(1, NIC)
        for name, value in {
            "bar": bar.address,
            "memory": base,
            "iova": iova,
            "size": self.memory.size,
            "rx_ring": base + rx,
            "tx_ring": base + tx,
            "rx_size": rx_size,
            "tx_size": tx_size,
            "head": self.template.ctypes.data,
        }.items():
            nic[name] = value
        self.nics.append(nic)
        self.pairs.append(QueuePair(queue, self.pool))

    def check(self, held: list[int] | None = None) -> None:
        """Every buffer has one owner, and no NIC saw an error."""
        self.pool.check([*(held or []), *(index for pair in self.pairs for index in pair.held())])
        assert [int(nic["errors"][0]) for nic in self.nics] == [0] * len(self.nics)


def read_bytes(address: int, size: int) -> bytes:
    """Raw memory, for looking at descriptors."""
    return ctypes.string_at(address, size)
