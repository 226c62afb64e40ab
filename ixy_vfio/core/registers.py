"""Registers as classes: a row of the register table, an access kind, and fields with their meaning.

    class HLREG0(Register, row=hw.HLREG0, access=RW):
        "MAC core control 0."

        txcrcen: int = bit(0, "append the CRC to transmitted packets")
        rxcrcstrp: int = bit(1, "strip the CRC of received packets")

    HLREG0.read(bar).txcrcen                        # 0 or 1
    HLREG0(txcrcen=1, rxcrcstrp=1).write(bar)       # fields that are not named are 0
    HLREG0.modify(bar, rxcrcstrp=0)                 # read, change, write: all other bits stay
    RXDCTL.modify(bar, 3, enable=1)                 # register 3 of an array
    RXDCTL.wait(bar, 3, enable=1, within=0.1)       # poll, with a deadline

The class is the register, an instance is a value of it: immutable, and an `int` by `int(value)`. Nothing is masked
or dropped: a value too wide for its field, an index outside the array, a write to a read-only register all raise,
before the device is touched.
"""

import operator
from enum import Enum, IntEnum
from typing import Any, ClassVar, Protocol, Self, dataclass_transform

from ixy_vfio.core.errors import DeadlineError, DeviceGone
from ixy_vfio.core.mmio import ALL_ONES, Mmio, current_section, polls


class Row(Protocol):
    """A row of the register table (`hw.Register`): where a register, or an array of them, lies."""

    @property
    def name(self) -> str:
        """The datasheet's name."""

    @property
    def section(self) -> str:
        """The datasheet's section."""

    @property
    def count(self) -> int:
        """How many registers the row stands for."""

    def offset(self, index: int = 0) -> int:
        """Byte offset of register `index`. IndexError outside 0..count-1."""


class AccessError(TypeError):
    """A register was used against its access kind."""


class Access(Enum):
    """How software may use a register: whether it may be read, whether written, whether a read changes it."""

    RW = (True, True, False)  # read and write
    RO = (True, False, False)  # read-only
    WO = (False, True, False)  # write-only: a read is undefined
    RC = (True, False, True)  # read-only, cleared by the read
    W1S = (True, True, False)  # write 1 to set; a 0 has no effect
    W1C = (True, True, False)  # write 1 to clear; a 0 has no effect
    RC_W1C = (True, True, True)  # cleared by a read, or bit by bit by writing 1
    RS = (True, True, True)  # read and write, and a read sets a bit: a semaphore

    def __init__(self, readable: bool, writable: bool, read_changes: bool) -> None:
        self.readable = readable
        self.writable = writable
        self.read_changes = read_changes

    def __new__(cls, *values: bool) -> Self:
        """Give each kind a number of its own: members with equal properties would be aliases."""
        member = object.__new__(cls)
        member._value_ = len(cls.__members__)
        return member


RW, RO, WO, RC, W1S, W1C, RC_W1C, RS = Access


class Field:
    """Bits `low` to `low + width - 1` of a register; reads as an int on a value."""

    def __init__(self, low: int, width: int, text: str, names: type[IntEnum] | None) -> None:
        if low < 0 or width < 1 or low + width > 32:
            raise ValueError(f"bits {low} to {low + width - 1} do not lie in a 32-bit register")
        self.name = ""
        self.low = low
        self.width = width
        self.text = text
        self.names = names

    @property
    def mask(self) -> int:
        """Its bits, in place."""
        return (1 << self.width) - 1 << self.low

    def encode(self, register: str, value: int) -> int:
        """`value` in place. ValueError when it is too wide, TypeError when it is no Python int."""
        if not isinstance(value, int):  # a NumPy integer would wrap silently when shifted
            raise TypeError(f"{register}.{self.name} takes a Python int, not {type(value).__name__}")
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{register}.{self.name} has {self.width} bits, {value:#x} does not fit")
        return int(value) << self.low

    def show(self, value: int) -> str:
        """A value of the field for people: its name if it has one, else decimal, and hexadecimal where that helps."""
        if self.names is not None and value in self.names._value2member_map_:
            return f"{self.names(value).name.lower()} ({value})"
        return f"{value}" if value < 10 else f"{value} ({value:#x})"

    def __get__(self, value: "Register | None", owner: type) -> Any:
        if value is None:
            return self
        return (int(value) & self.mask) >> self.low


def bits(low: int, width: int, text: str = "", names: type[IntEnum] | None = None) -> Any:
    """A field of `width` bits from bit `low`. On a value it is an int; the checker is told so by the annotation."""
    return Field(low, width, text, names)


def bit(low: int, text: str = "") -> Any:
    """A field of one bit."""
    return Field(low, 1, text, None)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Register:
    """Base class of all registers. See the top of the file."""

    __slots__ = ("_raw",)
    row: ClassVar[Row]
    access: ClassVar[Access]
    fields: ClassVar[dict[str, Field]] = {}

    _raw: int

    def __init_subclass__(cls, *, row: Row, access: Access) -> None:
        cls.row = row
        cls.access = access
        cls.fields = {}
        used = 0
        for name, field in vars(cls).items():
            if isinstance(field, Field):
                if used & field.mask or hasattr(Register, name):
                    raise TypeError(f"{cls.__name__}.{name} overlaps another field or hides a method")
                used |= field.mask
                field.name = name
                cls.fields[name] = field

    def __init__(self, **values: int) -> None:
        object.__setattr__(self, "_raw", self._encode(values)[1])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a register value does not change; use {type(self).__name__}.modify, or replace")

    @classmethod
    def _encode(cls, values: dict[str, int]) -> tuple[int, int]:
        """(mask, bits in place) of the named fields."""
        mask = raw = 0
        for name, value in values.items():
            if name not in cls.fields:
                raise TypeError(f"{cls.__name__} has no field {name}; it has {', '.join(cls.fields)}")
            mask |= cls.fields[name].mask
            raw |= cls.fields[name].encode(cls.__name__, value)
        return mask, raw

    @classmethod
    def of(cls, raw: int) -> Self:
        """The value with these 32 bits."""
        if not isinstance(raw, int):
            raise TypeError(f"{cls.__name__} takes a Python int, not {type(raw).__name__}")
        if not 0 <= raw <= ALL_ONES:
            raise ValueError(f"{cls.__name__} has 32 bits, {raw:#x} does not fit")
        value = cls()
        object.__setattr__(value, "_raw", int(raw))
        return value

    def replace(self, **values: int) -> Self:
        """A copy with some fields changed; every other bit stays, also those that no field names."""
        mask, raw = self._encode(values)
        return self.of(self._raw & ~mask | raw)

    @classmethod
    def label(cls, index: int = 0) -> str:
        """Its name, with the index if it is one of several."""
        return f"{cls.row.name}[{index}]" if cls.row.count > 1 else cls.row.name

    @classmethod
    def offset(cls, index: int = 0) -> int:
        """Byte offset of register `index` in the BAR. IndexError outside the array."""
        return cls.row.offset(operator.index(index))

    @classmethod
    def _may_be_all_ones(cls) -> bool:
        """Whether every bit is in use: only then can all ones be a value, and not a device that is gone."""
        return sum(field.mask for field in cls.fields.values()) == ALL_ONES

    @classmethod
    def read(cls, bar: Mmio, index: int = 0) -> Self:
        """Read it. DeviceGone when all ones come back from a register that has unused bits."""
        if not cls.access.readable:
            raise AccessError(f"{cls.__name__} is write-only")
        raw = bar.read32(cls.offset(index))
        if raw == ALL_ONES and not cls._may_be_all_ones():
            raise DeviceGone(f"{cls.label(index)} reads all ones; the device was removed, or its power is off")
        return cls.of(raw)

    def write(self, bar: Mmio, index: int = 0) -> None:
        """Write this value: all 32 bits, in one access."""
        if not self.access.writable:
            raise AccessError(f"{type(self).__name__} is read-only ({self.access.name})")
        bar.write32(self.offset(index), self._raw)

    @classmethod
    def modify(cls, bar: Mmio, index: int = 0, **values: int) -> None:
        """Read, change the named fields, write. For RW registers only."""
        if cls.access is not RW:
            raise AccessError(f"{cls.__name__} is {cls.access.name}: read and write are not each other's inverse")
        cls._encode(values)
        cls.read(bar, index).replace(**values).write(bar, index)

    @classmethod
    def wait(cls, bar: Mmio, index: int = 0, *, within: float, **values: int) -> Self:
        """Read until the named fields have these values; DeadlineError after `within` seconds."""
        mask, wanted = cls._encode(values)
        for _ in polls(within):
            value = cls.read(bar, index)
            if int(value) & mask == wanted:
                return value
        where = f" (datasheet section {current_section()})" if current_section() else ""
        raise DeadlineError(
            f"{cls.label(index)}: {', '.join(f'{name} is not {want}' for name, want in values.items())} after "
            f"{within:g} s{where}: mask {mask:#010x}, wanted {wanted:#010x}, last value {int(value):#010x}"
        )

    def __int__(self) -> int:
        return self._raw

    def __index__(self) -> int:
        return self._raw

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._raw == int(other)

    def __hash__(self) -> int:
        return hash((type(self), self._raw))

    def __repr__(self) -> str:
        shown = (f"{name}={field.show(getattr(self, name))}" for name, field in self.fields.items())
        return f"{type(self).__name__}({', '.join(shown)}) = {self._raw:#010x}"
