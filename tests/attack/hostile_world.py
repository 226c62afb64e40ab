"""A hostile device and the driver's own loop, in one process, a turn each; and a witness to all that passes between.

The device is the simulator's (`sim.hostile_moves`), the loop is what `ixy-vfio forward` runs. All memory that the
driver works on lies between pages that nobody may touch: rings, packets, doorbells, and its own arrays. The witness
knows no state of the driver. It sees what a device sees: descriptors and doorbells; and the device's own words.
"""

# mypy: disable-error-code="type-arg"

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.core.unsafe import bytes_at, record_at, words32_at, words64_at
from ixy_vfio.datapath.format import Format, Queue, Ring
from ixy_vfio.datapath.forwarding import loop_state
from ixy_vfio.datapath.pool import DATA, HEADROOM, STRIDE, Pool
from ixy_vfio.datapath.queue import QueuePair
from ixy_vfio.drivers.ixgbe.format import FORMAT
from ixy_vfio.hw import ixgbe as hw
from ixy_vfio.sim.dataplane import DataPlane
from ixy_vfio.sim.hostile import Spec, new_state
from ixy_vfio.sim.hostile_moves import STALE, step
from tests.attack.fences import PAGE, Fences

U = np.uint64
SILENT = 0xFFFF_FFFF  # of a doorbell that was not rung
RINGS_IOVA, PACKETS_IOVA = 0x1000_0000, 0x4000_0000


WITNESS = np.dtype([
    ("rx_ring", "<u8"),
    ("tx_ring", "<u8"),
    ("rx_size", "<u8"),
    ("tx_size", "<u8"),
    ("rdt", "<u8"),  # doorbells as last seen
    ("tdt", "<u8"),
    ("slots", "<u8"),  # address of uint32[rx_size]: the buffer that each descriptor was given with, plus 1
    ("claims", "<u8"),  # address of uint32[buffers]: the most that the device has said of it since it was given
    ("sent", "<u8"),  # address of uint32[buffers]: how often it was sent since it was given
    ("packets", "<u8"),
    ("buffers", "<u8"),
    ("strict", "<u8"),  # the device fills what it reports: no STALE byte may be sent, and the kernel's seal holds
    ("given", "<u8"),
    ("frames", "<u8"),
    ("segments", "<u8"),
    ("wrong", "<u8"),  # number of the first rule that was broken, and the words it was seen in
    ("seen", "<u8", 2),
])  # fmt: skip
RULES = (
    "",
    "a receive descriptor was given that is not one free buffer in read format",
    "a transmit descriptor points elsewhere than to the data of one buffer",
    "a transmit descriptor has another command than data, EOP, RS, IFCS",
    "more is sent of a buffer than the device said was received, or nothing",
    "a buffer is sent twice, or was never received",
    "PAYLEN is not what the packet's descriptors hold",
    "a packet ends in the middle of what was given to the device",
    "stale bytes are sent",
    "what is sent is not as long as what the kernel was shown",
    "a doorbell outside the ring",
)


@compiled
def blame(w: Any, rule: int, first: Any, second: Any) -> None:
    if w.wrong == 0:
        w.wrong = U(rule)
        w.seen[0], w.seen[1] = U(first), U(second)


@compiled
def before(address: Any) -> None:
    """What the device says of each buffer, just before the driver looks."""
    w = record_at(address, WITNESS)
    ring, slots, claims = words64_at(w.rx_ring, U(2) * w.rx_size), words32_at(w.slots, w.rx_size), w.claims
    for i in range(w.rx_size):
        word = ring[U(2) * i + U(1)]
        if word & U(1) and slots[i]:
            claim = words32_at(claims, w.buffers)
            length = np.uint32(word >> U(32) & U(0xFFFF))
            claim[slots[i] - 1] = max(claim[slots[i] - 1], length)


@compiled
def buffer_of(address: Any, buffers: Any) -> Any:
    """The buffer whose data begins at an IOVA, plus 1; 0 when there is none."""
    offset = U(address) - U(PACKETS_IOVA)
    if offset >= buffers * U(STRIDE) or offset % U(STRIDE) != U(HEADROOM):
        return U(0)
    return offset // U(STRIDE) + U(1)


@compiled
def armed(w: Any, rdt: Any) -> None:
    """Descriptors that the driver has given to the device."""
    ring, slots = words64_at(w.rx_ring, U(2) * w.rx_size), words32_at(w.slots, w.rx_size)
    claims, sent = words32_at(w.claims, w.buffers), words32_at(w.sent, w.buffers)
    at = w.rdt
    while True:
        at = (at + U(1)) & (w.rx_size - U(1))
        buffer = buffer_of(ring[U(2) * at], w.buffers)
        if buffer == U(0) or ring[U(2) * at + U(1)] != U(0):
            blame(w, 1, ring[U(2) * at], ring[U(2) * at + U(1)])
            return
        slots[at] = np.uint32(buffer)
        claims[buffer - U(1)] = sent[buffer - U(1)] = np.uint32(0)
        w.given += U(1)
        if at == rdt:
            break
    w.rdt = rdt


@compiled
def segment(w: Any, first: Any, second: Any) -> Any:
    """One transmit descriptor; returns its length."""
    buffer, length = buffer_of(first, w.buffers), second & U(0xFFFF)
    if buffer == U(0):
        blame(w, 2, first, second)
        return length
    claims, sent = words32_at(w.claims, w.buffers), words32_at(w.sent, w.buffers)
    if second & U(0x3FFF_F6FF_0000) != U(0x2230_0000):  # 7.2.3.2.4: DTYP 3, IFCS, DEXT; EOP and RS are free
        blame(w, 3, first, second)
    if length == U(0) or length > U(DATA) or length > U(claims[buffer - U(1)]):
        blame(w, 4, first, second)
    sent[buffer - U(1)] += np.uint32(1)
    if sent[buffer - U(1)] > 1:
        blame(w, 5, first, second)
    if w.strict:
        data = bytes_at(w.packets + (buffer - U(1)) * U(STRIDE) + U(HEADROOM), DATA)
        for i in range(min(length, U(DATA))):
            if data[i] == STALE:
                blame(w, 8, first, second)
                break
    return length


@compiled
def filled(w: Any, tdt: Any) -> None:
    """Packets that the driver has given to the device."""
    ring = words64_at(w.tx_ring, U(2) * w.tx_size)
    at = w.tdt
    total = payload = sealed = U(0)
    open_packet = False
    while at != tdt:
        first, second = ring[U(2) * at], ring[U(2) * at + U(1)]
        if not open_packet:
            total, payload, open_packet = U(0), second >> U(46), True
            sealed = payload & U(0x7F)
            buffer = buffer_of(first, w.buffers)
            if w.strict and buffer:
                sealed = U(bytes_at(w.packets + (buffer - U(1)) * U(STRIDE) + U(HEADROOM), 1)[0])
        total += segment(w, first, second)
        w.segments += U(1)
        if second & U(1 << 24):
            open_packet = False
            w.frames += U(1)
            if total != payload:
                blame(w, 6, total, payload)
            if sealed != total & U(0x7F):
                blame(w, 9, sealed, total)
        at = (at + U(1)) & (w.tx_size - U(1))
    if open_packet:
        blame(w, 7, w.tdt, tdt)
    w.tdt = tdt


@compiled
def after(address: Any, rdt: Any, tdt: Any) -> Any:
    """What the driver has done to its rings; returns the number of the rule that was broken, or 0."""
    w = record_at(address, WITNESS)
    if U(rdt) < w.rx_size:
        armed(w, U(rdt))
    elif rdt != SILENT:
        blame(w, 10, rdt, tdt)
    if U(tdt) < w.tx_size:
        filled(w, U(tdt))
    elif tdt != SILENT:
        blame(w, 10, rdt, tdt)
    return w.wrong


def seal(packet: Any, length: Any) -> bool:
    """The application: notes in the packet what length it was shown, and reads and writes its last byte."""
    last = packet.size - 1
    packet[last] = packet[last] & np.uint8(0x7F)
    packet[0] = np.uint8(length & U(0x7F))
    return bool(length % U(11) != U(0))


class Broken(AssertionError):
    """The driver broke a rule; the text says which one, and how to see it again."""


Loop = Callable[[NDArray[Any]], int]


class World:
    """Two hostile ports, and the driver's loop between them."""

    def __init__(
        self,
        loop: Loop,
        format: Format = FORMAT,
        *,
        ring: int = 64,
        batch: int = 32,
        widest: int = 1,
        spare: int = 32,
    ) -> None:
        self.format = format
        self.loop, self.ring, self.batch, self.widest = loop, ring, batch, widest
        self.fences = Fences()
        plane = DataPlane()
        self.ports = [plane.add_port(np.zeros(hw.BAR0_SIZE // 4, np.uint32)) for _ in range(2)]
        self.buffers = 2 * (2 * ring + batch) + spare
        self.packets = self.fences.new(self.buffers * STRIDE)
        self.packets.array[:] = STALE
        self.bells = [[self.fences.new(4).array.view(np.uint32) for _ in range(2)] for _ in range(2)]
        self.words = self.fences.new(2 * 4 * batch)  # for those who keep a batch
        self.rings = [self.fences.new(2 * ring * 16) for _ in range(2)]
        for number in range(2):
            self._map(number)
        self._lasting = len(self.fences.all)

    def start(self, spec: Spec, tapes: Sequence[NDArray[np.uint64]] = ()) -> None:
        """A session from its begin: the driver's state is new, the rings are empty; packet memory stays as it was.

        With tapes, one a device, they decide and not the seed.
        """
        self.spec, self._tapes = spec, tapes
        del self.fences.all[self._lasting :]
        self.packets.array.reshape(-1, STRIDE)[:, :HEADROOM] = STALE
        mapping: Any = self.packets
        with self.fences.in_use():
            self.pool = Pool(DmaMemory(mapping, PACKETS_IOVA, self.packets.size, PAGE), 0, self.buffers)
        self.pool.stack = self.fences.array(self.pool.stack)
        self.pool.state["stack"] = self.pool.stack.ctypes.data
        self.claims: NDArray[np.uint32] = np.zeros((2, self.buffers), np.uint32)
        self.witnesses = np.zeros(2, WITNESS)
        self._watching = [int(self.witnesses[number:].ctypes.data) for number in range(2)]
        self._slots: NDArray[np.uint32] = np.zeros((2, self.ring), np.uint32)
        self.devices = [new_state(spec, number, tapes[number] if tapes else None) for number in range(2)]
        for ring, port in zip(self.rings, self.ports, strict=True):
            ring.array[:] = 0
            for row in (hw.RDH, hw.RDT, hw.TDH, hw.TDT):
                port.registers[row.offset(0) // 4] = 0
        self.pairs = [self._pair(number) for number in range(2)]
        with self.fences.in_use():
            self.state, self._points_to = loop_state(self.pairs[0], self.pairs[1], self.batch, widest=self.widest)
        self.state["rounds"], self.state["patience"] = 4, 5
        self.look()

    def _pair(self, number: int) -> QueuePair:
        ring, where = self.ring, self.rings[number]
        rings = [Ring(where.address + at, self._iova(number) + at, ring) for at in (0, ring * 16)]
        pages: list[Any] = [_Page(bell) for bell in self.bells[number]]
        with self.fences.in_use():
            pair = QueuePair(Queue(0, rings[0], rings[1], pages[0], 0, pages[1], 0, DATA, self.format), self.pool)
        w = self.witnesses[number]
        w["rx_ring"], w["tx_ring"], w["rx_size"], w["tx_size"] = rings[0].address, rings[1].address, ring, ring
        w["slots"] = self._slots[number].ctypes.data
        w["claims"], w["sent"] = self.claims[0].ctypes.data, self.claims[1].ctypes.data
        w["packets"], w["buffers"] = self.packets.address, self.pool.capacity
        # Rules about bytes hold where the device keeps its hands off packets that it was not given.
        w["strict"] = not {"EARLY", "PACKETS", "RINGS", "FORMAT", "STATUS", "TWICE", "TORN", "HEADS"} & {
            move.name for move in self.spec.moves
        }
        w["rdt"] = ring - 1
        for bell in self.bells[number]:
            bell[0] = SILENT
        pair.arm()
        return pair

    @staticmethod
    def _iova(number: int) -> int:
        return RINGS_IOVA + number * 0x10_0000

    def _map(self, number: int) -> None:
        """The device's registers, and what it may reach: its own rings, and the packets."""
        port, iova = self.ports[number], self._iova(number)
        for row, value in (
            (hw.RDBAL, iova),
            (hw.RDLEN, self.ring * 16),
            (hw.SRRCTL, 1 << 25 | DATA // 1024),
            (hw.TDBAL, iova + self.ring * 16),
            (hw.TDLEN, self.ring * 16),
        ):
            port.registers[row.offset(0) // 4] = value
        port.dma.map(iova, self.rings[number].size, self.rings[number].address, True, True)
        port.dma.map(PACKETS_IOVA, self.packets.size, self.packets.address, True, True)

    def look(self) -> None:
        """Raises Broken when the driver has broken a rule."""
        for number in range(2):
            rule = after(self._watching[number], *(int(bell[0]) for bell in self.bells[number]))
            if rule:
                words = ", ".join(f"{int(word):#x}" for word in self.witnesses[number]["seen"])
                raise Broken(f"port {number}: {RULES[int(rule)]} ({words})")
        self.bring_bells()

    def bring_bells(self) -> None:
        """Doorbells that were rung go to the device."""
        for port, bells in zip(self.ports, self.bells, strict=True):
            for row, bell in zip((hw.RDT, hw.TDT), bells, strict=True):
                if bell[0] != SILENT:
                    port.registers[row.offset(0) // 4] = bell[0]
                    bell[0] = SILENT

    def turn(self, moves: int = 64) -> int:
        """The devices' moves, then the driver's; returns how many moves there were."""
        done = 0
        for number in range(2):
            done += int(step(self.devices[number].ctypes.data, self.ports[number].address, moves))
            before(self._watching[number])
        self.loop(self.state)
        self.look()
        return done

    def check(self) -> None:
        """Each buffer in exactly one place, and nothing written around the driver's memory."""
        self.fences.check()
        if not {"PACKETS", "FORMAT", "RINGS", "STATUS"} & {move.name for move in self.spec.moves}:
            heads = self.packets.array.reshape(-1, STRIDE)[:, :HEADROOM]
            assert (heads == STALE).all(), "bytes between the buffers were written to"
        self.pool.check([index for pair in self.pairs for index in pair.held()])

    def counted(self) -> list[dict[str, int]]:
        """The driver's counters, and its small state, whatever they are called."""
        return [
            {"rx.packets": pair.received, "tx.packets": pair.sent} |
            {f"{part}.{name}": int(pair.state[0][part][name]) for part in ("rx", "tx")
             for name in (pair.state.dtype[part].names or ()) if int(pair.state[0][part][name]) < 1 << 32}
            for pair in self.pairs
        ]  # fmt: skip

    @property
    def hostile_descriptors(self) -> int:
        return sum(int(device["descriptors"][0] - device["honest"][0]) for device in self.devices)

    @property
    def digest(self) -> int:
        """Of everything that has happened: memory, counters and moves."""
        seen = [self.packets.array.tobytes(), *(ring.array.tobytes() for ring in self.rings)]
        seen += [str(self.counted()).encode(), *(str(device["digest"]).encode() for device in self.devices)]
        return zlib.crc32(b"".join(seen))


class _Page:
    """Stands in for the mapping of a doorbell page."""

    def __init__(self, bell: NDArray[np.uint32]) -> None:
        self.address, self.size = int(bell.ctypes.data), 4
