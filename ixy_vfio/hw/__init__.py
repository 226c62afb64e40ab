"""Register facts: name, offset, stride, count, datasheet section. No meaning.

What a field means, how it may be accessed and what it resets to is *not* here: the driver and the
simulated NIC each read that from the datasheet on their own, so that a misreading on one side is caught
by the other.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Register:
    """One row of the register table: where a register, or an array of registers, lies in BAR0.

    `banks` holds (offset, stride, count) triples in index order: most registers have one bank, the queue
    registers have two (0-63 and 64-127).
    """

    name: str
    section: str
    banks: tuple[tuple[int, int, int], ...]

    @property
    def count(self) -> int:
        """How many registers the row stands for."""
        return sum(count for _, _, count in self.banks)

    def offset(self, index: int = 0) -> int:
        """Byte offset of register `index` in BAR0. Raises IndexError outside 0..count-1."""
        left = index
        for offset, stride, count in self.banks:
            if 0 <= left < count:
                return offset + left * stride
            left -= count
        raise IndexError(f"{self.name} has {self.count} registers, no index {index}")


def register(
    name: str, section: str, offset: int, stride: int = 4, count: int = 1, high: int | None = None
) -> Register:
    """A row; `high` is the offset of a second bank of as many registers again with the same stride."""
    banks: tuple[tuple[int, int, int], ...] = ((offset, stride, count),)
    if high is not None:
        banks += ((high, stride, count),)
    return Register(name, section, banks)
