"""QEMU's edu device: a DMA engine in four registers, and nothing else. Source: QEMU docs/specs/edu.rst."""

from ixy_vfio.audit.attack.engine import BLOCK, wait
from ixy_vfio.core import pci
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.transport.base import Device

IDS = (0x1234, 0x11E8)
BUFFER = 0x40000  # where DMA addresses the device's own buffer
SOURCE, DESTINATION, COUNT, COMMAND = 0x80 // 8, 0x88 // 8, 0x90 // 8, 0x98 // 8  # 64-bit words of BAR0
RUN, TO_MEMORY = 1, 2
SENT, RESULT = 0, 4096  # where in the work memory
PROBE_VALUE = b"\xa7" * BLOCK


class Edu:
    """Implements `engine.Engine`."""

    def __init__(self, device: Device, _: DmaMemory, work: DmaMemory) -> None:
        self._device = device
        self._work = work
        self._page = device.bar0.map(0, 4096)
        self._words = self._page.view.cast("Q")  # a store to an element is one store

    def start(self) -> None:
        """It does nothing unless told."""
        pci.set_bus_master(self._device, True)

    def close(self) -> None:
        """Unmap the registers."""
        self._words.release()
        self._page.close()

    def _dma(self, iova: int, to_memory: bool, patient: bool = True) -> None:
        self._words[SOURCE], self._words[DESTINATION] = (BUFFER, iova) if to_memory else (iova, BUFFER)
        self._words[COUNT] = BLOCK
        self._words[COMMAND] = RUN | TO_MEMORY * to_memory
        if patient:
            wait(lambda: not self._words[COMMAND] & RUN)

    def _load(self, value: bytes) -> None:
        """Put bytes into the device's buffer."""
        self._work.view[SENT : SENT + BLOCK] = value
        self._dma(self._work.iova + SENT, to_memory=False)

    def write(self, iova: int, nonce: bytes) -> bytes:
        """Load the buffer, and write it to `iova`."""
        value = nonce * (BLOCK // len(nonce))
        self._load(value)
        self._dma(iova, to_memory=True)
        return value

    def kick(self, iova: int) -> None:
        """Write what is in the buffer; it takes the device 0.1 s."""
        self._dma(iova, to_memory=True)

    def read(self, iova: int, grace: float) -> bytes | None:
        """Read into the buffer, and write that to the work memory. A buffer that is as it was has read nothing."""
        self._load(PROBE_VALUE)
        self._work.view[RESULT : RESULT + BLOCK] = PROBE_VALUE
        self._dma(iova, to_memory=False)
        self._dma(self._work.iova + RESULT, to_memory=True)
        found = bytes(self._work.view[RESULT : RESULT + BLOCK])
        return None if found == PROBE_VALUE else found

    def forged(self) -> bytes:
        """It has no descriptors."""
        return b""

    def fetch(self, iova: int, grace: float) -> bool:
        """It has no descriptors."""
        return False
