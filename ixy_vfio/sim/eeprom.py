"""The EEPROM: its words, the registers by which it is read, and the semaphores that guard it.

82599 datasheet, chapter 6 (EEPROM map) and sections 8.2.3.2, 8.2.3.4 (SWSM). It cannot be written: an attempt is a
violation, since on a real NIC it would outlive the driver.
"""

from functools import partial

from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim import vpd
from ixy_vfio.sim.bar0 import Bar0

WORDS = 256  # EEC.EE_SIZE 2
CHECKSUM_WORD, CHECKSUM = 0x3F, 0xBABA
FIRST_POINTER, FIRMWARE_POINTER = 0x03, 0x0F  # the sum takes in what words 3 to 14 point to
VPD_POINTER = 0x2F  # not in the sum
NO_POINTER = 0xFFFF

PART_NUMBER = "E10G42-SIM"

EEC_CLOCK_PINS = 0x0000_0007
EEC_FLASH_WRITE = 0x0000_0030
EEC_FLASH_WRITE_OFF = 0x0000_0010
EEC_REQUEST, EEC_GRANT = 0x40, 0x80
EEC_PRESENT, EEC_AUTO_READ_DONE = 0x100, 0x200
EEC_SIZE_2 = 0x1000
EEC_MODULES_READ = 0x003F_8000  # PCIe analog, core, general, function; core analog, core CSRs, MAC
EEC_FLASH_UPDATE = 0x0080_0000
EERD_START, EERD_DONE = 0x1, 0x2
SWSM_SMBI, SWSM_SWESMBI = 0x1, 0x2


def mac_address(port: int) -> bytes:
    """The MAC address in the EEPROM of port N: locally administered, unicast."""
    return bytes((0x02, 0x82, 0x59, 0x90, 0x00, port))


def contents(port: int) -> list[int]:
    """All words of the EEPROM of port N."""
    words = [NO_POINTER] * WORDS

    def put(at: int, *values: int) -> int:
        words[at : at + len(values)] = values
        return at

    put(0x00, 0x0000, 0x0002)  # control words 1 and 2
    put(0x03, *[NO_POINTER] * 12)
    mac = mac_address(port)
    address = [mac[0] | mac[1] << 8, mac[2] | mac[3] << 8, mac[4] | mac[5] << 8]
    put(0x06, put(0x50, 5, 0x0000, 0x8086, 0x10FB, 0x0000, 0x0000))  # PCIe general: length, then its words
    put(0x09, put(0x58, 4, *address, 0x0000))  # LAN core: length, MAC address
    put(0x0F, put(0x60, 0x0000, 0x0000, NO_POINTER, 0x0000, 0x0070))  # firmware: no LESM; pass-through patch at 0x70
    put(0x70, *[0x0000] * 7, 0x0006)  # its version, word 7
    pba = PART_NUMBER.encode()
    pairs = [pba[i] << 8 | pba[i + 1] for i in range(0, len(pba), 2)]
    put(0x80, 1 + len(pairs), *pairs)
    put(0x15, 0xFAFA, 0x0080)  # the part number is a string, at 0x80
    put(0x26, 0x0000)  # no thermal sensors
    put(0x27, NO_POINTER, NO_POINTER)  # no SAN addresses
    put(0x2B, put(0x90, *_sfp_init()))
    put(0xA0, 0x0000, 0x0001, NO_POINTER)
    put(0x2C, 0x0001)  # device capabilities: any SFP+ module may be used
    put(0x2D, 0x0001, 0x8000)  # image id
    product = vpd.contents(pba, mac.hex().encode())
    product += bytes(len(product) % 2)
    put(VPD_POINTER, put(0xB0, *(product[i] | product[i + 1] << 8 for i in range(0, len(product), 2))))
    put(0x37, NO_POINTER, 0x0000)  # no alternate MAC address; init control word 3
    words[CHECKSUM_WORD] = (CHECKSUM - _sum(words)) & 0xFFFF
    return words


def _sfp_init() -> list[int]:
    """List of (module type, where its analog set-up stands); the set-up has one word for CORECTL.

    Types: 3, 4 direct attach, 5, 6 short and long range, each on core 0 and 1.
    """
    return [0x0000, 3, 0x00A0, 4, 0x00A0, 5, 0x00A0, 6, 0x00A0, NO_POINTER]


def _sum(words: list[int]) -> int:
    total = sum(words[:CHECKSUM_WORD])
    for pointer in words[FIRST_POINTER:FIRMWARE_POINTER]:
        if pointer not in (0, NO_POINTER) and pointer < WORDS and words[pointer] not in (0, NO_POINTER):
            total += sum(words[pointer + 1 : pointer + 1 + words[pointer]])
    return total


class Eeprom:
    """The EEPROM registers and the software semaphore of one port."""

    def __init__(self, bar: Bar0, port: int) -> None:
        self.words = contents(port)
        self.product = vpd.Vpd(self.words, self.words[VPD_POINTER], bar.violate)
        self._bar = bar
        bar.on_write(ixgbe.EEC, self._write_eec)
        bar.on_write(ixgbe.EERD, self._write_eerd)
        for row in (ixgbe.EEWR, ixgbe.FLA, ixgbe.FLMNGCTL, ixgbe.FLMNGDATA, ixgbe.FLMNGCNT, ixgbe.FLOP):
            bar.on_write(row, partial(self._refuse, row))
        bar.on_read(ixgbe.SWSM, self._read_swsm)
        bar.on_write(ixgbe.SWSM, lambda _, value: bar.set(ixgbe.SWSM, value & 0x7))

    def reset(self) -> None:
        """The EEPROM is being read again: not done yet."""
        self._bar.set(ixgbe.EEC, EEC_PRESENT | EEC_SIZE_2 | EEC_FLASH_WRITE_OFF)

    def auto_read(self) -> None:
        """The hardware has read the EEPROM: addresses are in their registers, the done bits are set."""
        bar, words = self._bar, self.words
        at = words[0x09] + 1
        bar.set(ixgbe.RAL, words[at] | words[at + 1] << 16)
        bar.set(ixgbe.RAH, words[at + 2] | 0x8000_0000)
        bar.set(ixgbe.EEC, bar.get(ixgbe.EEC) | EEC_AUTO_READ_DONE | EEC_MODULES_READ)

    def _refuse(self, row: Register, _: int, value: int) -> None:
        self._bar.violate(f"{row.name}: write of {value:#010x} would change EEPROM or flash")

    def _write_eec(self, _: int, value: int) -> None:
        if value & EEC_FLASH_WRITE != EEC_FLASH_WRITE_OFF or value & EEC_FLASH_UPDATE:
            self._bar.violate(f"EEC: write of {value:#010x} would allow writes to EEPROM or flash")
        held = self._bar.merge(ixgbe.EEC, value & ~(EEC_FLASH_WRITE | EEC_FLASH_UPDATE) | EEC_FLASH_WRITE_OFF)
        granted = held & ~EEC_GRANT | (EEC_GRANT if value & EEC_REQUEST else 0)
        self._bar.set(ixgbe.EEC, granted)

    def _write_eerd(self, _: int, value: int) -> None:
        address = value >> 2 & 0x3FFF
        if not value & EERD_START:
            self._bar.set(ixgbe.EERD, value & 0xFFFC)
        elif address >= WORDS:
            self._bar.violate(f"EERD: read of word {address:#x}, the EEPROM has {WORDS}")
            self._bar.set(ixgbe.EERD, 0xFFFF << 16 | address << 2 | EERD_DONE)
        else:
            self._bar.set(ixgbe.EERD, self.words[address] << 16 | address << 2 | EERD_DONE)

    def _read_swsm(self, _: int) -> int:
        """Reading SMBI as 0 takes the semaphore: the read sets it."""
        value = self._bar.get(ixgbe.SWSM)
        self._bar.set(ixgbe.SWSM, value | SWSM_SMBI)
        return value
