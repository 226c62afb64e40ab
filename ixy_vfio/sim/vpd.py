"""Vital product data: a part of the EEPROM that is read and written through PCI configuration space.

PCI Local Bus 3.0, appendix I, and 82599 datasheet, chapter 9: the capability stands at 0xE0. A write to its address
with the flag clear reads four bytes, one with the flag set writes them; the flag turns over when it is done. Only
what is tagged as writable (VPD-W) changes. A write outlives the driver, so each is a violation.
"""

from collections.abc import Callable

CAPABILITY = 0xE0
ADDRESS, DATA = CAPABILITY + 2, CAPABILITY + 4
FLAG = 0x8000
IDENTIFIER, READ_ONLY, READ_WRITE, END = 0x82, 0x90, 0x91, 0x78  # tags
WRITABLE_SIZE = 32
_KEYWORD = 3  # two letters and a length


def _field(keyword: bytes, value: bytes) -> bytes:
    return keyword + bytes([len(value)]) + value


def _tagged(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + len(data).to_bytes(2, "little") + data


def contents(part_number: bytes, serial: bytes) -> bytes:
    """Name, part and serial number with their checksum, and an area for notes of the owner's (YA, zeros)."""
    head = _tagged(IDENTIFIER, b"simulated 82599")
    fields = _field(b"PN", part_number) + _field(b"SN", serial)
    before = head + bytes([READ_ONLY]) + (len(fields) + _KEYWORD + 1).to_bytes(2, "little") + fields + b"RV\x01"
    checked = before + bytes([-sum(before) & 0xFF])
    checked += _tagged(READ_WRITE, _field(b"YA", bytes(WRITABLE_SIZE)))
    return checked + bytes([END])


class Vpd:
    """The product data in `words` of the EEPROM from word `at` on; it ends with the EEPROM."""

    def __init__(self, words: list[int], at: int, violate: Callable[[str], None]) -> None:
        self._words, self._at, self._violate = words, at, violate
        data = b"".join(word.to_bytes(2, "little") for word in words[at:])
        tag = 0  # of resource data types, the first byte of each: type, then length
        while data[tag] in (IDENTIFIER, READ_ONLY):
            tag += 3 + int.from_bytes(data[tag + 1 : tag + 3], "little")
        first = tag + 3
        size = int.from_bytes(data[tag + 1 : tag + 3], "little") if data[tag] == READ_WRITE else 0
        self.writable = range(first, first + size)

    def read(self, address: int) -> int:
        """Four bytes; ones beyond the end."""
        return int.from_bytes(bytes(self._byte(address + i) for i in range(4)), "little")

    def write(self, address: int, value: int) -> None:
        """Four bytes; those that are not writable stay."""
        self._violate(f"VPD: a write of {value:#010x} at {address:#x} outlives the driver")
        for at, byte in enumerate(value.to_bytes(4, "little"), address):
            if at in self.writable:
                word, shift = self._at + at // 2, at % 2 * 8
                self._words[word] = self._words[word] & ~(0xFF << shift) | byte << shift

    def _byte(self, at: int) -> int:
        word = self._at + at // 2
        return self._words[word] >> at % 2 * 8 & 0xFF if word < len(self._words) else 0xFF
