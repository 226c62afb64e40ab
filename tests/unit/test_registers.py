"""Registers as classes: fields, access kinds, and every misuse that must raise before the device is touched."""

import numpy as np
import pytest

from ixy_vfio.core.errors import DeadlineError, DeviceGone
from ixy_vfio.core.mmio import current_section, section
from ixy_vfio.core.registers import RC, RC_W1C, RO, RS, RW, W1S, WO, Access, AccessError, Register, bit, bits
from ixy_vfio.hw import register


class Words:
    """Registers as plain words; keeps every access."""

    def __init__(self, **values: int) -> None:
        self.values = {int(offset[1:], 16): value for offset, value in values.items()}
        self.accesses: list[tuple[str, int, int]] = []

    def read32(self, offset: int) -> int:
        value = self.values.get(offset, 0)
        self.accesses.append(("read", offset, value))
        return value

    def write32(self, offset: int, value: int) -> None:
        self.accesses.append(("write", offset, value))
        self.values[offset] = value


ONE = register("ONE", "1.2.3", 0x40)
MANY = register("MANY", "1.2.4", 0x1000, 0x40, 4, high=0xD000)


class One(Register, row=ONE, access=RW):
    """A single register."""

    flag: int = bit(0, "a flag")
    size: int = bits(4, 7, "a size")
    top: int = bit(31)


class Many(Register, row=MANY, access=RW):
    """An array in two banks."""

    enable: int = bit(25)


class Whole(Register, row=ONE, access=RW):
    """Every bit is in use."""

    value: int = bits(0, 32)


def of_kind(kind: Access) -> type[Register]:
    class Kind(Register, row=ONE, access=kind):
        """A register of this kind."""

        flag: int = bit(0)

    return Kind


def test_fields_of_a_read_value() -> None:
    value = One.read(Words(x40=0x8000_0551))
    assert (value.flag, value.size, value.top, int(value)) == (1, 0x55, 1, 0x8000_0551)


def test_write_sets_fields_that_are_not_named_to_0() -> None:
    bar = Words(x40=0xFFFF_FFFE)
    One(size=127).write(bar)
    assert bar.accesses == [("write", 0x40, 0x7F0)]


def test_modify_keeps_all_other_bits_also_unnamed_ones() -> None:
    bar = Words(x40=0xFFFF_FFFE)
    One.modify(bar, size=0, flag=1)
    assert bar.accesses == [("read", 0x40, 0xFFFF_FFFE), ("write", 0x40, 0xFFFF_F80F)]


@pytest.mark.parametrize(("index", "offset"), [(0, 0x1000), (3, 0x10C0), (4, 0xD000), (7, 0xD0C0)])
def test_an_array_has_an_address_for_each_index(index: int, offset: int) -> None:
    bar = Words()
    Many(enable=1).write(bar, index)
    assert bar.accesses == [("write", offset, 1 << 25)]


@pytest.mark.parametrize("index", [-1, 8])
def test_an_index_outside_the_array_is_refused(index: int) -> None:
    bar = Words()
    with pytest.raises(IndexError, match="MANY has 8 registers"):
        Many(enable=1).write(bar, index)
    with pytest.raises(IndexError):
        Many.read(bar, index)
    assert bar.accesses == []


@pytest.mark.parametrize("size", [128, -1, 1 << 40])
def test_a_value_too_wide_raises_and_is_never_masked(size: int) -> None:
    bar = Words()
    with pytest.raises(ValueError, match=r"One\.size has 7 bits"):
        One(size=size)
    with pytest.raises(ValueError, match=r"One\.size has 7 bits"):
        One.modify(bar, size=size)
    assert bar.accesses == []


@pytest.mark.parametrize("value", [np.uint32(1), np.int64(1), 1.0, "1"])
def test_only_python_ints_are_values(value: int) -> None:
    with pytest.raises(TypeError, match="takes a Python int"):
        One(size=value)
    with pytest.raises(TypeError, match="takes a Python int"):
        One.of(value)


def test_an_unknown_field_names_those_that_there_are() -> None:
    with pytest.raises(TypeError, match="One has no field sise; it has flag, size, top"):
        One.modify(Words(), sise=1)


@pytest.mark.parametrize(
    ("kind", "reads", "writes", "modifies"),
    [
        (RW, True, True, True),
        (RO, True, False, False),
        (WO, False, True, False),
        (RC, True, False, False),
        (W1S, True, True, False),
        (RC_W1C, True, True, False),
        (RS, True, True, False),
    ],
)
def test_what_each_access_kind_allows(kind: Access, reads: bool, writes: bool, modifies: bool) -> None:
    cls, bar = of_kind(kind), Words()
    for allowed, act in (
        (reads, lambda: cls.read(bar)),
        (writes, lambda: cls(flag=1).write(bar)),
        (modifies, lambda: cls.modify(bar, flag=1)),
    ):
        bar.accesses.clear()
        if allowed:
            act()
            assert bar.accesses
        else:
            with pytest.raises(AccessError):
                act()
            assert bar.accesses == []


def test_access_kinds_with_the_same_properties_stay_apart() -> None:
    assert len({kind.name for kind in Access}) == 8
    assert [kind.name for kind in Access if kind.read_changes] == ["RC", "RC_W1C", "RS"]


def test_wait_returns_the_value_that_fits() -> None:
    values = iter([0, 0, 1 << 25])

    class Slow(Words):
        def read32(self, offset: int) -> int:
            return next(values)

    assert Many.wait(Slow(), 2, enable=1, within=5.0).enable == 1


def test_wait_gives_up_and_says_what_it_saw() -> None:
    @section("4.6.7")
    def work() -> None:
        One.wait(Words(x40=0x20), flag=1, size=3, within=0.002)

    with pytest.raises(DeadlineError) as error:
        work()
    assert str(error.value) == (
        "ONE: flag is not 1, size is not 3 after 0.002 s (datasheet section 4.6.7): "
        "mask 0x000007f1, wanted 0x00000031, last value 0x00000020"
    )
    assert current_section() == ""


def test_wait_looks_once_even_without_time() -> None:
    assert One.wait(Words(x40=1), flag=1, within=0.0).flag == 1


def test_all_ones_is_a_device_that_is_gone_unless_every_bit_is_in_use() -> None:
    bar = Words(x40=0xFFFF_FFFF)
    with pytest.raises(DeviceGone, match="ONE reads all ones"):
        One.read(bar)
    with pytest.raises(DeviceGone):
        One.wait(bar, flag=0, within=5.0)
    assert Whole.read(bar).value == 0xFFFF_FFFF


def test_a_value_is_immutable_and_compares_by_register_and_bits() -> None:
    value = One(size=5)
    with pytest.raises(AttributeError, match="does not change"):
        value.size = 6  # type: ignore[misc]
    assert value == One.of(0x50)
    assert value != Whole.of(0x50)
    assert len({value, One.of(0x50)}) == 1
    assert repr(value) == "One(flag=0, size=5, top=0) = 0x00000050"
    assert repr(One(size=127)) == "One(flag=0, size=127 (0x7f), top=0) = 0x000007f0"


def test_fields_must_not_overlap_or_leave_the_register() -> None:
    with pytest.raises(TypeError, match="overlaps"):

        class Overlap(Register, row=ONE, access=RW):
            """Two fields on bit 4."""

            low: int = bits(0, 5)
            high: int = bit(4)

    with pytest.raises(ValueError, match="do not lie in a 32-bit register"):
        bits(30, 3)


def test_a_field_must_not_hide_a_method() -> None:
    with pytest.raises(TypeError, match="hides a method"):

        class Hidden(Register, row=ONE, access=RW):
            """A field called like a method."""

            read: int = bit(0)  # type: ignore[assignment]
