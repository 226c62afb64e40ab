"""A scripted 82599: registers in a dictionary, with only those answers that a driver waits for."""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence

from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import DmaMemory, Mapping
from ixy_vfio.core.mmio import current_section
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe.device import Ixgbe
from ixy_vfio.drivers.ixgbe.device import ring_memory as ring_memory_needed
from ixy_vfio.hw import Register
from ixy_vfio.hw import ixgbe as hw

DEVICE_ID_SFP, DEVICE_ID_KX4, DEVICE_ID_X540 = 0x10FB, 0x10F7, 0x1528
ENABLE = 1 << 25

Access = tuple[str, str, str, int]  # section, "read" or "write", register, value


class FakeBar:
    """Registers that read what was written to them; `on_write` and `on_read` override single ones by name."""

    size = hw.BAR0_SIZE

    def __init__(self, rows: Sequence[Register] = hw.ALL) -> None:
        self._rows = {row.name: row for row in rows}
        self._names = {row.offset(i): row.name if row.count == 1 else f"{row.name}[{i}]"
                       for row in rows for i in range(row.count)}  # fmt: skip
        self.values: dict[int, int] = {}
        self.trace: list[Access] = []
        self.on_write: dict[str, Callable[[int], int]] = {}
        self.on_read: dict[str, Callable[[], int]] = {}
        self.gone = False

    def read32(self, offset: int) -> int:
        register = self._names[offset]
        override = self.on_read.get(register)
        value = 0xFFFFFFFF if self.gone else override() if override else self.values.get(offset, 0)
        self.trace.append((current_section(), "read", register, value))
        return value

    def write32(self, offset: int, value: int) -> None:
        register = self._names[offset]
        self.trace.append((current_section(), "write", register, value))
        override = self.on_write.get(register)
        self.values[offset] = override(value) if override else value

    def map(self, offset: int, size: int) -> Mapping:
        fd = os.memfd_create("bar")
        os.ftruncate(fd, size)
        mapping = Mapping(fd, size)
        os.close(fd)
        return mapping

    def __getitem__(self, register: str) -> int:
        """What a register holds, without an access."""
        return self.values.get(self._offset(register), 0)

    def __setitem__(self, register: str, value: int) -> None:
        self.values[self._offset(register)] = value

    def _offset(self, register: str) -> int:
        row, _, index = register.rstrip("]").partition("[")
        return self._rows[row].offset(int(index or 0))

    def written(self, register: str) -> list[int]:
        return [value for _, op, where, value in self.trace if op == "write" and where == register]

    def read_names(self) -> set[str]:
        return {where for _, op, where, _ in self.trace if op == "read"}


class FakeDevice:
    """The device around it: configuration space and interrupts."""

    address = "8259:00:00.0"
    msix_vectors = 64

    def __init__(self, device_id: int = DEVICE_ID_SFP) -> None:
        self.bar0 = FakeBar()
        self.config = {0: 0x8086, 2: device_id, 4: 0}
        self.events: list[tuple[str, object]] = []
        bar = self.bar0
        bar["EEC"] = 0x300
        bar["EEMNGCTL"] = 0x000C0000
        bar["RDRXCTL"] = 0x8 | 0x8 << 17
        bar["SECRXSTAT"] = 1
        bar["CTRL_EXT"] = 0x4000
        bar["RAL[0]"], bar["RAH[0]"] = 0x04030252, 0x80000605
        bar["DMATXCTL"] = 0x81000000
        bar["MAXFRS"] = 1518 << 16
        bar["AUTOC"] = 3 << 13
        bar["LINKS"] = 0x70000000
        bar["HLREG0"] = 0x00010403
        for queue in range(hw.RX_QUEUES):
            bar[f"DCA_RXCTRL[{queue}]"] = 0xB200
            bar[f"DCA_TXCTRL[{queue}]"] = 0x2A00
        bar.on_write["CTRL"] = lambda value: 0 if value & 1 << 26 else value
        bar.on_write["AUTOC"] = lambda value: value & ~(1 << 12)

    def config_read(self, offset: int, size: int) -> int:
        return self.config[offset]

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.events.append(("config", value))
        self.config[offset] = value

    def set_interrupts(self, eventfds: Sequence[int]) -> None:
        self.events.append(("interrupts", tuple(eventfds)))

    def reset(self) -> None:
        raise UsageError("a driver of this package resets by CTRL")

    def close(self) -> None:
        pass


def ring_memory(size: int) -> DmaMemory:
    """Anonymous memory in the place of the helper's; filled, so that a test sees who zeroes it."""
    fd = os.memfd_create("rings")
    os.ftruncate(fd, size)
    mapping = Mapping(fd, size)
    os.close(fd)
    mapping.view[:] = b"\xa5" * size
    return DmaMemory(mapping, 0x1_2340_0000, size, mmap.PAGESIZE)


def compact(trace: Sequence[Access]) -> Iterator[str]:
    """One line an access; a run over an array (same section, same value) is one line, as is a table behind a window."""
    i = 0
    while i < len(trace):
        section, op, register, value = trace[i]
        array, _, index = register.rstrip("]").partition("[")
        count = 1
        while index and i + count < len(trace):
            if trace[i + count] != (section, op, f"{array}[{int(index) + count}]", value):
                break
            count += 1
        shown = f"{array}[{index}..{int(index) + count - 1}]" if count > 1 else register
        if register == "RTTDQSEL":
            while trace[i + 2 * count : i + 2 * count + 1] == [(section, op, register, value + count)]:
                assert trace[i + 2 * count + 1] == trace[i + 1]
                count += 1
            yield f"{section:<12} {op:<5} {count} times RTTDQSEL from {value}, each RTTBCNRC {trace[i + 1][3]:#010x}"
            i += 2 * count
            continue
        yield f"{section:<12} {op:<5} {shown:<18} {value:#010x}"
        i += count


def make_port(config: PortConfig | None = None, device_id: int = DEVICE_ID_SFP) -> tuple[Ixgbe, FakeDevice]:
    """A port that was not initialised yet, and the device below it."""
    config = config or PortConfig()
    device = FakeDevice(device_id)
    return Ixgbe(device, config, ring_memory(ring_memory_needed(config))), device
