"""PCI configuration space of a simulated port (82599 datasheet, chapter 9).

A byte table with write masks. Capabilities stand where the 82599 has them: power management 0x40, MSI 0x50, MSI-X 0x70,
PCI Express 0xA0, vital product data 0xE0, advanced error reporting 0x100, device serial number 0x140. Multi-function
is off, so each port is function 0, and its interrupt pin is A.
"""

from collections.abc import Callable

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim import msix, vpd
from ixy_vfio.sim.eeprom import mac_address
from ixy_vfio.sim.vpd import Vpd
from ixy_vfio.transport import wire

SIZE = 4096
DEVICE_ID = 0x10FB
COMMAND, STATUS = 0x04, 0x06
COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE = 0x4, 0x400
STATUS_INTERRUPT = 0x8
BAR0, MSIX_BAR = 0x10, 0x20  # BAR4 and 5 hold the MSI-X BAR, as with every 82599 in 64-bit mode
MSIX_BAR_INDEX = 4
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D
POWER, MSI, MSIX, EXPRESS = 0x40, 0x50, 0x70, 0xA0
MSI_CONTROL, MSI_MASK, MSI_PENDING = MSI + 2, MSI + 0x10, MSI + 0x14
MSI_ENABLE = 0x1
MSIX_CONTROL = MSIX + 2
MSIX_ENABLE, MSIX_FUNCTION_MASK = 0x8000, 0x4000
ENABLES = {wire.MSI_IRQ: (MSI_CONTROL, MSI_ENABLE), wire.MSIX_IRQ: (MSIX_CONTROL, MSIX_ENABLE)}  # by VFIO index
DEVICE_CONTROL = EXPRESS + 8
FUNCTION_LEVEL_RESET = 0x8000
ERRORS, SERIAL = 0x100, 0x140
BAR_64_PREFETCHABLE = 0xC


class ConfigSpace:
    """The 4096 bytes of one port.

    `on_change` is called when bus master, interrupts or the power state may have changed, `on_flr` for a function level
    reset (after this space has its reset values).
    """

    def __init__(self, port: int, product: Vpd, on_change: Callable[[], None], on_flr: Callable[[], None]) -> None:
        self._port = port
        self._product = product
        self._on_change = on_change
        self._on_flr = on_flr
        self._bytes = bytearray(SIZE)
        self._mask = bytearray(SIZE)  # bits that a write changes
        self._clear = bytearray(SIZE)  # bits that a write of 1 clears
        self._build()
        self._reset_bytes = bytes(self._bytes)

    @property
    def bus_master(self) -> bool:
        """Whether the device may start transactions: bus master on, power state D0."""
        return bool(self.word(COMMAND) & COMMAND_BUS_MASTER) and not self.word(POWER + 4) & 3

    @property
    def msix_enabled(self) -> bool:
        """MSI-X enabled; its function mask may be set."""
        return bool(self.word(MSIX_CONTROL) & MSIX_ENABLE)

    @property
    def msix_usable(self) -> bool:
        """MSI-X enabled and not masked as a whole."""
        return self.word(MSIX_CONTROL) & (MSIX_ENABLE | MSIX_FUNCTION_MASK) == MSIX_ENABLE

    @property
    def msi_enabled(self) -> bool:
        """MSI enabled; its mask bit may be set."""
        return bool(self.word(MSI_CONTROL) & MSI_ENABLE)

    @property
    def msi_usable(self) -> bool:
        """MSI enabled and not masked; a message is a memory write, so bus master is on."""
        return self.msi_enabled and not self.word(MSI_MASK) & 1 and self.bus_master

    @property
    def intx_selected(self) -> bool:
        """Neither MSI nor MSI-X is enabled, power state D0: interrupts go to the line."""
        return not self.msi_enabled and not self.msix_enabled and not self.word(POWER + 4) & 3

    @property
    def intx_enabled(self) -> bool:
        """The command register lets the line go up."""
        return not self.word(COMMAND) & COMMAND_INTX_DISABLE

    def show_interrupt(self, up: bool) -> None:
        """The status register's interrupt bit: the line would be up, were it not for the command register."""
        self._put(STATUS, 2, self.word(STATUS) & ~STATUS_INTERRUPT | (STATUS_INTERRUPT if up else 0))

    def show_pending(self, pending: bool) -> None:
        """The pending bit of MSI."""
        self._put(MSI_PENDING, 4, int(pending))

    def enable(self, index: int, on: bool) -> None:
        """What the kernel's VFIO does when interrupts of a VFIO index are set up through it."""
        if index in ENABLES:
            offset, bit = ENABLES[index]
            self._put(offset, 2, self.word(offset) & ~bit | (bit if on else 0))
            self._on_change()

    def word(self, offset: int) -> int:
        """16 bits."""
        return int.from_bytes(self._bytes[offset : offset + 2], "little")

    def read(self, offset: int, size: int) -> bytes:
        """Any bytes inside the space (a client reads the whole of it at once)."""
        return bytes(self._bytes[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; those that are read-only keep their value, as on every PCI device."""
        reset = any(
            offset + i == DEVICE_CONTROL + 1 and value & FUNCTION_LEVEL_RESET >> 8 for i, value in enumerate(data)
        )
        for at, value in enumerate(data, offset):
            mask = self._mask[at]
            self._bytes[at] = (self._bytes[at] & ~mask | value & mask) & ~(value & self._clear[at])
        if reset:
            self._bytes[:] = self._reset_bytes
            self._on_flr()
        elif offset <= vpd.ADDRESS + 1 < offset + len(data):
            self._access_product()
        self._on_change()

    def _access_product(self) -> None:
        """The byte with the flag was written: the access it asks for, done at once."""
        asked = self.word(vpd.ADDRESS)
        if asked & vpd.FLAG:
            self._product.write(asked & ~vpd.FLAG, int.from_bytes(self.read(vpd.DATA, 4), "little"))
        else:
            self._put(vpd.DATA, 4, self._product.read(asked))
        self._put(vpd.ADDRESS, 2, asked ^ vpd.FLAG)

    def _put(self, offset: int, size: int, value: int, mask: int = 0, clear: int = 0) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")
        if mask:
            self._mask[offset : offset + size] = mask.to_bytes(size, "little")
        if clear:
            self._clear[offset : offset + size] = clear.to_bytes(size, "little")

    def _build(self) -> None:
        put = self._put
        put(0x00, 2, ixgbe.VENDOR_INTEL)
        put(0x02, 2, DEVICE_ID)
        put(COMMAND, 2, 0x0000, mask=0x0547)
        put(STATUS, 2, 0x0010, clear=0xF900)  # capabilities list
        put(0x08, 1, 0x01)  # revision
        put(0x09, 3, 0x020000)  # Ethernet controller
        put(0x0C, 1, 0x10, mask=0xFF)  # cache line
        put(BAR0, 8, BAR_64_PREFETCHABLE, mask=(1 << 64) - ixgbe.BAR0_SIZE)
        put(MSIX_BAR, 8, BAR_64_PREFETCHABLE, mask=(1 << 64) - msix.BAR_SIZE)
        put(0x2C, 2, ixgbe.VENDOR_INTEL)
        put(0x2E, 2, 0x0003)  # X520
        put(0x34, 1, POWER)
        put(INTERRUPT_LINE, 1, 0x00, mask=0xFF)
        put(INTERRUPT_PIN, 1, 1)  # INTA
        put(POWER, 4, 0x0023_0001 | MSI << 8)  # version 3, device specific initialisation
        put(POWER + 4, 2, 0x0008, mask=0x0103, clear=0x8000)  # no soft reset
        put(MSI, 4, 0x0180_0005 | MSIX << 8, mask=MSI_ENABLE << 16)  # one message, 64-bit address, mask bit
        put(MSI + 4, 8, 0, mask=0xFFFF_FFFF_FFFF_FFFC)
        put(MSI + 12, 2, 0, mask=0xFFFF)
        put(MSI_MASK, 4, 0, mask=1)
        put(MSIX, 4, (msix.VECTORS - 1) << 16 | EXPRESS << 8 | 0x11, mask=0xC000_0000)
        put(MSIX + 4, 4, 0x0000 | MSIX_BAR_INDEX)
        put(MSIX + 8, 4, msix.PBA_OFFSET | MSIX_BAR_INDEX)
        self._build_express()
        put(vpd.CAPABILITY, 2, 0x0003)  # last of the list
        put(vpd.ADDRESS, 2, 0x0000, mask=0xFFFF)
        put(vpd.DATA, 4, 0x0000_0000, mask=0xFFFF_FFFF)
        put(ERRORS, 4, SERIAL << 20 | 0x0001_0001)
        put(ERRORS + 0x04, 4, 0, clear=0x001F_F030)
        put(ERRORS + 0x08, 4, 0, mask=0x001F_F030)
        put(ERRORS + 0x0C, 4, 0x0006_2030, mask=0x001F_F030)
        put(ERRORS + 0x10, 4, 0, clear=0x0000_31C1)
        put(ERRORS + 0x14, 4, 0x0000_2000, mask=0x0000_31C1)
        put(SERIAL, 4, 0x0001_0003)
        mac = mac_address(self._port)
        put(SERIAL + 4, 8, int.from_bytes(mac[:3] + b"\xff\xff" + mac[3:], "big"))

    def _build_express(self) -> None:
        put = self._put
        put(EXPRESS, 4, 0x0002_0010 | vpd.CAPABILITY << 8)  # endpoint, version 2
        put(EXPRESS + 0x04, 4, 0x1000_8CC2)  # function level reset, role-based errors, 512 bytes payload
        put(DEVICE_CONTROL, 2, 0x2810, mask=0x7FFF)
        put(EXPRESS + 0x0A, 2, 0x0000, clear=0x000F)
        put(EXPRESS + 0x0C, 4, 0x0003_5482)  # 5 GT/s, 8 lanes
        put(EXPRESS + 0x10, 2, 0x0000, mask=0x00DB)
        put(EXPRESS + 0x12, 2, 0x1082)
        put(EXPRESS + 0x24, 4, 0x0000_001F)
        put(EXPRESS + 0x28, 2, 0x0000, mask=0x001F)
        put(EXPRESS + 0x30, 2, 0x0002, mask=0x007F)
