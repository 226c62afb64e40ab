"""Statistics registers of all families: a read clears them, and two of 32 bits may be the halves of one of 64."""

from ixy_vfio.core.mmio import Mmio
from ixy_vfio.core.registers import RC, Register, bits
from ixy_vfio.hw import Register as Row


def counter(row: Row) -> type[Register]:
    """The register class of a 32-bit counter (or one half of a 64-bit counter) that a read clears."""

    class Counter(Register, row=row, access=RC):
        """See the datasheet section of its row."""

        count: int = bits(0, 32)

    return Counter


def wide(bar: Mmio, halves: tuple[type[Register], type[Register]], index: int = 0) -> int:
    """A counter of 64 bits: the low half is read first, as the books want it."""
    low = int(halves[0].read(bar, index))
    return int(halves[1].read(bar, index)) << 32 | low
