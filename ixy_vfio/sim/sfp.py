"""The SFP+ module: a two-wire memory at 0xA0 (SFF-8472) behind the bits of I2CCTL (82599 datasheet, 3.5.4)."""

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.bar0 import Bar0

CLOCK_IN, CLOCK_OUT, DATA_IN, DATA_OUT = 1, 2, 4, 8
MODULE_ADDRESS = 0xA0


def module_memory() -> bytes:
    """The serial ID of a passive direct attach cable."""
    memory = bytearray(256)
    memory[0] = 0x03  # SFP or SFP+
    memory[1] = 0x04  # serial ID only
    memory[2] = 0x21  # copper pigtail
    memory[8] = 0x04  # SFP+ cable technology: passive
    memory[11] = 0x06  # 64B/66B
    memory[12] = 103  # 10.3 Gbit/s
    memory[18] = 1  # metres
    memory[20:36] = b"SIMULATED       "
    memory[37:40] = bytes((0x02, 0x82, 0x59))
    memory[40:56] = b"DIRECT-ATTACH-1M"
    memory[56:60] = b"A   "
    memory[68:84] = b"0000000000000001"
    memory[84:92] = b"260101  "
    memory[63] = sum(memory[0:63]) & 0xFF
    memory[95] = sum(memory[64:95]) & 0xFF
    return bytes(memory)


class TwoWireMemory:
    """A two-wire memory: START, device address, word address; or START, device address with read, data.

    `line(clock, data)` is told the levels that the master drives, and returns the level of the data line (wired and).
    """

    def __init__(self, memory: bytes) -> None:
        self.memory = memory
        self._clock = self._data = 1
        self._drive = 1  # what this side puts on the data line
        self._phase = self._next = "idle"  # idle, address, word, write, read
        self._bits = 0
        self._shift = 0
        self._at = 0

    def line(self, clock: int, data: int) -> int:
        """Advance by one change of the lines."""
        if self._clock and clock and data != self._data:
            self._bits = self._shift = 0
            self._drive = 1
            self._phase = "idle" if data else "address"  # data rises: STOP; falls: START
        elif clock and not self._clock:
            self._rise(data)
        elif self._clock and not clock:
            self._fall()
        self._clock, self._data = clock, data
        return data & self._drive

    def _rise(self, data: int) -> None:
        if self._phase == "idle":
            return
        if self._phase == "read" and self._bits == 8:
            if data:  # the master wants no more
                self._phase = "idle"
        elif self._phase != "read" and self._bits < 8:
            self._shift = self._shift << 1 | data
        self._bits += 1

    def _fall(self) -> None:
        """The clock has fallen: the time to change the data line."""
        self._drive = 1
        if self._phase == "idle":
            return
        if self._phase == "read":
            if self._bits >= 9:
                self._bits = 0
                self._at = (self._at + 1) % 256
            if self._bits < 8:
                self._drive = self.memory[self._at] >> (7 - self._bits) & 1
        elif self._bits == 8:
            self._drive = 0 if self._byte(self._shift) else 1  # acknowledge
        elif self._bits >= 9:
            self._bits = self._shift = 0
            if self._next == "read":
                self._drive = self.memory[self._at] >> 7
            self._phase = self._next

    def _byte(self, value: int) -> bool:
        """A byte from the master; whether it is acknowledged. `_next` is the phase after the acknowledge bit."""
        self._next = "idle"
        if self._phase == "address":
            if value & 0xFE != MODULE_ADDRESS:
                return False
            self._next = "read" if value & 1 else "word"
        elif self._phase == "word":
            self._at = value
            self._next = "write"
        else:  # a serial ID is read-only
            return False
        return True


class Sfp:
    """I2CCTL, with the module behind it."""

    def __init__(self, bar: Bar0) -> None:
        self._bar = bar
        self._module = TwoWireMemory(module_memory())
        bar.on_write(ixgbe.I2CCTL, self._write)

    def _write(self, _: int, value: int) -> None:
        clock, data = bool(value & CLOCK_OUT), bool(value & DATA_OUT)
        level = self._module.line(int(clock), int(data))
        held = value & (CLOCK_OUT | DATA_OUT)
        self._bar.set(ixgbe.I2CCTL, held | (CLOCK_IN if clock else 0) | (DATA_IN if level else 0))
