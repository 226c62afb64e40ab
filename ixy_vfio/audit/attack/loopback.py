"""An engine of a NIC that sends to itself: what it transmits is read memory, what it receives is written memory.

82599 and 82576 have the same descriptors: advanced receive and advanced transmit data (82599 datasheet
7.1.6 and 7.2.3.2.4).

A port may be on a busy wire, and what is said about loopback does not say that nothing comes from there. So the NIC
takes frames to one address only, which nobody can know: by an exact filter, in entry 1 (entry 0 is the port's own).
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from ixy_vfio.audit.attack.engine import BLOCK, DEADLINE, wait
from ixy_vfio.core import pci
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.transport.base import Device

DESCRIPTORS = 64  # in each ring
RINGS = 8192  # bytes of ring memory: a page each
LOCAL = b"\x02"  # first byte of an address that is no vendor's, and one station's
SOURCE_AND_TYPE = bytes.fromhex("02000000000188b5")  # EtherType: local experimental
HEADER_SIZE = 14
VALID = 1 << 31  # RAH.AV
FRAME, RESULT = 0, 4096  # where in the work memory
EMPTY = b"\xee"
RX_DD = 1
TX_FIRST = 3 << 20 | 1 << 25 | 1 << 29  # data descriptor, IFCS, DEXT
TX_LAST = TX_FIRST | 1 << 24 | 1 << 27  # EOP, RS
TX_DD = 1 << 32


@dataclass(frozen=True, slots=True)
class Registers:
    """Where the registers of queue 0 and of the exact filters are."""

    rdt: int
    tdt: int
    ral: int  # of entry 0; RAH is behind it, the next entry behind that


class LoopbackNic:
    """Implements `engine.Engine`.

    `set_up` resets the NIC, gives it the rings (the one for transmit lies at an IOVA), and turns loopback on; it takes
    nothing but by exact filters then. `receive` lets it receive: what it takes before its filters are right would lie
    in its packet buffer.
    """

    def __init__(
        self,
        device: Device,
        rings: DmaMemory,
        work: DmaMemory,
        registers: Registers,
        set_up: Callable[[int], None],
        receive: Callable[[], None],
    ) -> None:
        self._device = device
        self._bar = device.bar0
        self._work = work
        self._registers = registers
        self._set_up, self._let_receive = set_up, receive
        self._own_ring = rings.iova + 4096
        words = rings.view.cast("Q")  # a store to an element is one store
        self._receive, self._transmit = words[: 2 * DESCRIPTORS], words[512 : 512 + 2 * DESCRIPTORS]
        self._rx = self._tx = 0  # the next descriptors
        self._header = LOCAL + os.urandom(5) + SOURCE_AND_TYPE

    def start(self) -> None:
        """Reset and set up; the link is the NIC's own."""
        self._begin(self._own_ring)

    def _begin(self, transmit: int) -> None:
        self._rx = self._tx = 0
        self._set_up(transmit)
        self._bar.write32(self._registers.ral + 4, 0)
        self._accept(self._header)
        self._let_receive()

    def _accept(self, frame: bytes) -> None:
        """Take frames to the address that this one is for, and no others."""
        low, high = struct.unpack_from("<IH", frame)
        self._bar.write32(self._registers.ral + 8, low)
        self._bar.write32(self._registers.ral + 12, high | VALID)

    def close(self) -> None:
        """It has mapped nothing."""

    def _post(self, iova: int) -> int:
        """Give the NIC one receive buffer; returns the index of its descriptor."""
        slot = self._rx
        self._receive[2 * slot + 1] = 0
        self._receive[2 * slot] = iova
        self._rx = (slot + 1) % DESCRIPTORS
        self._bar.write32(self._registers.rdt, self._rx)
        return slot

    def _send(self, *parts: tuple[int, int]) -> int:
        """Transmit a frame of these (IOVA, size); returns the index of its last descriptor."""
        total, slot = sum(size for _, size in parts), self._tx
        for number, (iova, size) in enumerate(parts, 1):
            slot = self._tx
            last = number == len(parts)
            self._transmit[2 * slot] = iova
            self._transmit[2 * slot + 1] = total << 46 | (TX_LAST if last else TX_FIRST) | size
            self._tx = (slot + 1) % DESCRIPTORS
        self._bar.write32(self._registers.tdt, self._tx)
        return slot

    def _settle(self, sent: int, received: int, grace: float) -> bool:
        """Wait for the NIC to say that it is done; whether a frame was received."""
        wait(lambda: bool(self._transmit[2 * sent + 1] & TX_DD) or self._stopped())
        wait(lambda: bool(self._receive[2 * received + 1] & RX_DD) or self._stopped(), grace)
        return bool(self._receive[2 * received + 1] & RX_DD)

    def _stopped(self) -> bool:
        """The helper has ended the lease, for a fault: nothing more will come."""
        return not pci.bus_master(self._device)

    def _frame(self, nonce: bytes) -> bytes:
        frame = nonce if len(nonce) == BLOCK else (self._header + nonce * (BLOCK // len(nonce)))[:BLOCK]
        self._accept(frame)
        self._work.view[FRAME : FRAME + BLOCK] = frame
        return frame

    def write(self, iova: int, nonce: bytes) -> bytes:
        """Send a frame with the nonce in it, and have it received at `iova`; that is told of a blocked one, too."""
        frame = self._frame(nonce)
        received = self._post(iova)
        self._settle(self._send((self._work.iova + FRAME, BLOCK)), received, DEADLINE)
        return frame

    def kick(self, iova: int) -> None:
        """As `write`, with whatever the frame says."""
        self._post(iova)
        self._send((self._work.iova + FRAME, BLOCK))

    def read(self, iova: int, grace: float) -> bytes | None:
        """Send a header of its own and what is at `iova` behind it; what was received is what was read."""
        self._frame(b"header..")
        result = self._work.view[RESULT : RESULT + 256]
        result[:] = EMPTY * 256
        received = self._post(self._work.iova + RESULT)
        sent = self._send((self._work.iova + FRAME, HEADER_SIZE), (iova, BLOCK))
        if not self._settle(sent, received, grace):
            return None
        if bytes(result[:HEADER_SIZE]) != self._header:
            return None
        return bytes(result[HEADER_SIZE : HEADER_SIZE + BLOCK])

    def forged(self) -> bytes:
        """A descriptor that sends the frame of the work memory; the rest of the ring is never reached."""
        return struct.pack("<QQ", self._work.iova + FRAME, BLOCK << 46 | TX_LAST | BLOCK)

    def fetch(self, iova: int, grace: float) -> bool:
        """Begin anew with the transmit ring at `iova`, ring the doorbell, and see whether the frame comes.

        Not by moving the ring of a queue that runs: where registers are memory that a model looks at now and then, it
        can miss that the queue was off for a moment.
        """
        self._begin(iova)
        frame = self._frame(b"fetched.")
        result = self._work.view[RESULT : RESULT + 256]
        result[:] = EMPTY * 256
        self._post(self._work.iova + RESULT)
        self._bar.write32(self._registers.tdt, 1)
        return wait(lambda: bytes(result[:BLOCK]) == frame, grace)
