"""A port of the data plane with rings and buffers, driven by hand: values and offsets straight from the book."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane, Port
from ixy_vfio.sim.frames import pop_frame, push_frame
from ixy_vfio.sim.state import MAX_PORTS
from ixy_vfio.wires.cable import Cable

IOVA = 0x1000_0000
SIZE = 1 << 20
RX_RING, TX_RING, BUFFERS = 0x0000, 0x8000, 0x10000  # offsets in the memory
MAC = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("0200000000ee")
ENABLE = 1 << 25
DATA = 0x2B30_0000  # DEXT, IFCS, RS, EOP, DTYP = data


class Rig:
    """One port: memory at IOVA, receive and transmit rings of `count` descriptors, receiver and transmitter on."""

    def __init__(self, plane: DataPlane, count: int = 64, mac: bytes = MAC) -> None:
        self.plane, self.count = plane, count
        self.registers: NDArray[np.uint32] = np.zeros(0x80000 // 4, np.uint32)
        self.port: Port = plane.add_port(self.registers)
        self.memory = np.zeros(SIZE, np.uint8)
        self.port.dma.map(IOVA, SIZE, self.memory.ctypes.data, True, True)
        self.port.bus_master = self.port.link_up = True
        self.rx_tail = self.tx_tail = 0
        self.reset_values(mac)

    def reset_values(self, mac: bytes) -> None:
        self.write(0x4240, 1 << 10 | 1 << 1 | 1)  # HLREG0: TXPADEN, RXCRCSTRP, TXCRCEN
        self.write(0x2F00, 1 << 1)  # RDRXCTL.CRCSTRIP
        self.write(0x3C00, 512 << 10)  # RXPBSIZE
        self.write(0x5088, 0x8100)  # VLNCTRL.VET
        self.write(0x4A80, 0x8100 << 16 | 1)  # DMATXCTL: VT, TE
        self.write(0x4A88, 0x0FF6_0FF6)  # DTXTCPFLGL
        self.write(0x4A8C, 0xF7F)  # DTXTCPFLGH
        self.write(0x3000, 1)  # RXCTRL.RXEN
        self.write(0xA200, int.from_bytes(mac[:4], "little"))
        self.write(0xA204, int.from_bytes(mac[4:], "little") | 1 << 31)

    def write(self, offset: int, value: int) -> None:
        self.registers[offset // 4] = value

    def read(self, offset: int) -> int:
        return int(self.registers[offset // 4])

    def start_receive(self, queue: int = 0, srrctl: int = 1 << 25 | 2, rxdctl: int = 0, ring: int = RX_RING) -> None:
        block = 0x1000 + 0x40 * queue
        self.write(block, IOVA + ring)
        self.write(block + 0x08, 16 * self.count)
        self.write(block + 0x14, srrctl)
        self.write(block + 0x28, ENABLE | rxdctl)

    def start_transmit(self, queue: int = 0, ring: int = TX_RING) -> None:
        block = 0x6000 + 0x40 * queue
        self.write(block, IOVA + ring)
        self.write(block + 0x08, 16 * self.count)
        self.write(block + 0x28, ENABLE)

    def give(self, *offsets: int, queue: int = 0, ring: int = RX_RING) -> None:
        """Receive buffers at these offsets of the memory."""
        for offset in offsets:
            self.put(ring + 16 * self.rx_tail, struct.pack("<QQ", IOVA + offset, 0))
            self.rx_tail = (self.rx_tail + 1) % self.count
        self.write(0x1018 + 0x40 * queue, self.rx_tail)

    def ring_transmit(self, *descriptors: tuple[int, int], queue: int = 0, ring: int = TX_RING) -> None:
        for first, second in descriptors:
            self.put(ring + 16 * self.tx_tail, struct.pack("<QQ", first, second))
            self.tx_tail = (self.tx_tail + 1) % self.count
        self.write(0x6018 + 0x40 * queue, self.tx_tail)

    def send(self, packet: bytes, at: int = BUFFERS, command: int = DATA) -> None:
        """One packet in one descriptor."""
        self.put(at, packet)
        self.ring_transmit((IOVA + at, command | len(packet) | len(packet) << 46))

    def put(self, offset: int, data: bytes) -> None:
        self.memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def get(self, offset: int, size: int) -> bytes:
        return self.memory[offset : offset + size].tobytes()

    def rx_descriptor(self, index: int, ring: int = RX_RING) -> tuple[int, int]:
        first, second = struct.unpack("<QQ", self.get(ring + 16 * index, 16))
        return first, second

    def tx_descriptor(self, index: int) -> tuple[int, int]:
        first, second = struct.unpack("<QQ", self.get(TX_RING + 16 * index, 16))
        return first, second

    def from_wire(self, frame: bytes) -> None:
        """A frame (without CRC) arrives at the port."""
        array = np.frombuffer(frame, np.uint8)
        assert push_frame(self.plane.fifos, self.port.number, array, len(array))

    def on_wire(self) -> list[bytes]:
        """The frames (without CRC) that the port has sent since the last call."""
        buffer, frames = np.zeros(16384, np.uint8), []
        while (length := pop_frame(self.plane.fifos, MAX_PORTS + self.port.number, buffer)) >= 0:
            frames.append(buffer[:length].tobytes())
        return frames


def rig(**options: Any) -> Rig:
    """A port on a loose cable, both directions running."""
    plane = DataPlane()
    one = Rig(plane, **options)
    plane.connect(Cable("loose", 0))
    one.start_receive()
    one.start_transmit()
    return one


def back_to_back() -> tuple[Rig, Rig]:
    """Two ports on a cable."""
    plane = DataPlane()
    one, other = Rig(plane), Rig(plane, mac=OTHER)
    plane.connect(parse_cable("0:port:1"))
    for end in (one, other):
        end.start_receive()
        end.start_transmit()
    return one, other


def frame(size: int = 60, destination: bytes = MAC, kind: int = 0x88B5, fill: int = 0x5A) -> bytes:
    """A frame of `size` bytes (without CRC) of a local experimental type."""
    head = destination + OTHER + struct.pack(">H", kind)
    return head + bytes((fill + i) & 0xFF for i in range(size - len(head)))
