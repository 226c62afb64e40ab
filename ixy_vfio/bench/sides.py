"""The sides of the comparison: each has its own memory and its own two ports of the model NIC."""

# mypy: disable-error-code="type-arg"

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.bench import reference
from ixy_vfio.bench.entry import Entry, of_loop
from ixy_vfio.bench.model import BENCH, LENGTHS, TEMPLATE
from ixy_vfio.bench.pages import Memory
from ixy_vfio.core.memory import DmaMemory, Mapping
from ixy_vfio.datapath.format import Queue, Ring
from ixy_vfio.datapath.forwarding import loop_state
from ixy_vfio.datapath.pool import STRIDE, Pool
from ixy_vfio.datapath.queue import QueuePair
from ixy_vfio.drivers.ixgbe.format import FORMAT

IOVA = 1 << 32  # of the first byte of each side's memory
PAGE = 4096
REFERENCE_BUFFERS = 4096  # of each port: ixy's number
DESCRIPTOR = 16


class Side:
    """One design under measurement: `driver` is called with `state`, the model steps on `bench`."""

    def __init__(self, name: str, size: int, ring: int, page_size: int) -> None:
        self.name, self.ring = name, ring
        self.rings = -(-4 * ring * DESCRIPTOR // PAGE) * PAGE
        self.memory = Memory(self.rings + size, page_size)
        self.registers: NDArray[np.uint32] = np.zeros((4, 64), np.uint32)  # each doorbell on lines of its own
        self.template = _template()
        self.lengths: NDArray[np.uint32] = np.zeros(LENGTHS, np.uint32)
        self.bench: NDArray[Any] = np.zeros(1, BENCH)
        for number in range(2):
            nic = self.bench["nics"][0][number]
            rx, tx = self.ring_offsets(number)
            values = {
                "rdt": self.doorbell(number, 0),
                "tdt": self.doorbell(number, 1),
                "memory": self.memory.address,
                "iova": IOVA,
                "size": self.memory.size,
                "rx_ring": self.memory.address + rx,
                "tx_ring": self.memory.address + tx,
                "rx_size": ring,
                "tx_size": ring,
                "template": self.template.ctypes.data,
                "lengths": self.lengths.ctypes.data,
            }
            for field, value in values.items():
                nic[field] = value
        self.sizes([60])
        self.driver: Entry
        self.state = 0
        self._wires: list[NDArray[np.uint8]] = []

    def ring_offsets(self, number: int) -> tuple[int, int]:
        """Where the rings of port `number` begin in the memory: receive, transmit."""
        at = 2 * number * self.ring * DESCRIPTOR
        return at, at + self.ring * DESCRIPTOR

    def doorbell(self, number: int, which: int) -> int:
        """Address of RDT (0) or TDT (1) of port `number`."""
        return int(self.registers[2 * number + which].ctypes.data)

    def sizes(self, lengths: list[int]) -> None:
        """Packet lengths that the model brings, in turn."""
        self.lengths[:] = np.resize(np.array(lengths, np.uint32), LENGTHS)

    def configure(self, batch: int, burst: int) -> None:
        """One call of the driver takes a burst from each port, in batches."""
        self.bench["burst"] = burst
        self.set_rounds(batch, -(-burst // batch))

    def set_rounds(self, batch: int, rounds: int) -> None:
        """So many packets a poll, so many polls of each port a call."""
        raise NotImplementedError

    def record(self, size: int) -> None:
        """Record the next `size` bytes that each port sends."""
        self._wires = [np.zeros(size, np.uint8) for _ in range(2)]
        for number, wire in enumerate(self._wires):
            nic = self.bench["nics"][0][number]
            nic["wire"], nic["wire_size"], nic["wire_used"] = wire.ctypes.data, wire.size, 0

    def recorded(self) -> list[bytes]:
        """What was sent since `record`, of each port: length (2 bytes) and bytes of each packet. Ends the recording."""
        nics = self.bench["nics"][0]
        result = [wire[: int(nic["wire_used"])].tobytes() for wire, nic in zip(self._wires, nics, strict=True)]
        nics["wire"] = 0
        return result

    @property
    def digests(self) -> tuple[int, ...]:
        """Of every byte that each port has sent, in order, and how many packets that were."""
        nics = self.bench["nics"][0]
        return (*(int(nic["digest"]) for nic in nics), *(int(nic["sent"]) for nic in nics))

    @property
    def errors(self) -> int:
        """What the model found wrong."""
        return int(self.bench["nics"][0]["errors"].sum())

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()


def _template() -> NDArray[np.uint8]:
    """What a packet begins with: Ethernet, IPv4, UDP, then a pattern."""
    bytes_: NDArray[np.uint8] = (np.arange(TEMPLATE) * 7).astype(np.uint8)
    header = bytes.fromhex("525400000001525400000002 0800 4500002e000040004011b700 0a000001 0a000002 03e907d0001a0000")
    bytes_[: len(header)] = np.frombuffer(header, np.uint8)
    return bytes_


class Product(Side):
    """`ixy-vfio forward`: its loop, its pool, its queue pairs, with the sizes that it chooses itself."""

    def __init__(
        self,
        loop: Callable[[NDArray[Any]], int],
        name: str = "forward",
        *,
        ring: int = 512,
        page_size: int = 4096,
        entry: Entry | None = None,
        batch: int = 256,
        widest: int = 1,
    ) -> None:
        buffers = 2 * (2 * ring + batch + 32)  # as in runtime/control.py
        super().__init__(name, buffers * STRIDE, ring, page_size)
        self.loop, self._widest = loop, widest
        mapping = self.memory.mapping
        self.pool = Pool(DmaMemory(mapping, IOVA, self.memory.size, page_size), self.rings, buffers)
        self.pairs = [QueuePair(self._queue(number), self.pool) for number in range(2)]
        for pair in self.pairs:
            pair.arm()
        self.driver = entry or of_loop(loop, name)
        self.loop_state, self._scratch = loop_state(self.pairs[0], self.pairs[1], batch, widest=widest)
        self.set_rounds(batch, 1)

    def _queue(self, number: int) -> Queue:
        rings = [Ring(self.memory.address + offset, IOVA + offset, self.ring) for offset in self.ring_offsets(number)]
        pages = [cast(Mapping, _Page(self.doorbell(number, which))) for which in (0, 1)]
        return Queue(0, rings[0], rings[1], pages[0], 0, pages[1], 0, 2048, FORMAT)

    def set_rounds(self, batch: int, rounds: int) -> None:
        """As the worker does it, but for the number of rounds."""
        self.loop_state, self._scratch = loop_state(self.pairs[0], self.pairs[1], batch, widest=self._widest)
        self.loop_state["rounds"] = rounds
        self.loop_state["patience"] = rounds + 1
        self.state = int(self.loop_state.ctypes.data)

    def close(self) -> None:
        """Give the memory back."""
        self.pool.close()
        super().close()


class _Page:
    """Stands in for the mapping of a doorbell page."""

    def __init__(self, address: int) -> None:
        self.address, self.size = address, 256


class Reference(Side):
    """The C reference."""

    def __init__(self, build: reference.Build, *, ring: int = 512, page_size: int = 4096) -> None:
        buffers = max(REFERENCE_BUFFERS, 2 * ring + 1024)
        each = buffers * 2048
        super().__init__(build.name, 2 * each, ring, page_size)
        self._library, ffi = build.library, reference.ffi
        self._handle: Any = build.library.reference_new()
        for number in range(2):
            at = self.rings + number * each
            build.library.reference_port(
                self._handle,
                number,
                ffi.cast("void *", self.memory.address + self.ring_offsets(number)[0]),
                ring,
                ffi.cast("void *", self.doorbell(number, 0)),
                ffi.cast("void *", self.doorbell(number, 1)),
                ffi.cast("void *", self.memory.address + at),
                IOVA + at,
                buffers,
            )
        self.state = int(ffi.cast("uintptr_t", self._handle))
        self.driver = Entry(reference.address_of(build.library, "reference_forward"), build)
        self.set_rounds(32, 1)

    def set_rounds(self, batch: int, rounds: int) -> None:
        """So many packets a poll, so many polls of each port a call."""
        self._library.reference_configure(self._handle, batch, rounds)

    def close(self) -> None:
        """Give the memory back."""
        self._library.reference_free(self._handle)
        super().close()
