"""What reads and writes do, by the access kinds of the datasheet; and what counts as a violation."""

from collections.abc import Iterator

import pytest

from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim.registers import ALIASES, RULES, Access
from tests.sim.nic_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_every_row_of_the_fact_table_has_a_rule_a_counter_or_an_alias(rig: Rig) -> None:
    known = set(rig.nic.bar._cells)
    missing = [f"{row.name}[{i}]" for row in ixgbe.ALL for i in range(row.count) if row.offset(i) not in known]
    assert missing == []


def test_no_two_rows_share_an_offset_but_the_aliases() -> None:
    seen: dict[int, str] = {}
    for rule in RULES:
        for index in range(rule.row.count):
            offset = rule.row.offset(index)
            assert offset not in seen, f"{rule.row.name} and {seen[offset]} at {offset:#x}"
            seen[offset] = rule.row.name
    assert not {alias.offset(i) for alias, _ in ALIASES for i in range(alias.count)} & set(seen)


def test_reset_values_lie_inside_32_bits_and_masks_of_read_only_rows_are_empty() -> None:
    for rule in RULES:
        assert 0 <= rule.reset < 1 << 32
        if rule.access is Access.RO:
            assert rule.mask == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STATUS", 0x0008_0000),
        ("HLREG0", 0x0801_0403),
        ("MAXFRS", 0x05EE_0000),
        ("DTXMXSZRQ", 0x10),
        ("RXPBSIZE", 0x80000),
        ("TXPBSIZE", 0x28000),
        ("RDRXCTL", 0x0010_0008),
        ("SRRCTL", 0x402),
        ("RXDCTL", 0),
        ("VLNCTRL", 0x8100),
        ("DCA_RXCTRL", 0xB200),
        ("EIMS", 0),
        ("FWSM", 0x8000),
    ],
)
def test_values_after_reset(rig: Rig, name: str, value: int) -> None:
    assert rig.read(ixgbe.BY_NAME[name]) == value
    assert rig.violations == []


def test_writable_bits_change_and_others_are_kept_and_reported(rig: Rig) -> None:
    rig.write(ixgbe.DTXMXSZRQ, 0x0FFF)
    assert rig.violations == []
    rig.write(ixgbe.DTXMXSZRQ, 0xFFFF)
    assert rig.read(ixgbe.DTXMXSZRQ) == 0x0FFF
    assert rig.violations == ["port 0: DTXMXSZRQ: write of 0x0000ffff changes reserved or read-only bits 0x0000f000"]


def test_read_modify_write_of_reserved_bits_is_no_violation(rig: Rig) -> None:
    rig.write(ixgbe.RDRXCTL, rig.read(ixgbe.RDRXCTL) & ~0x003E_0000 | 0x0600_0002)
    assert rig.read(ixgbe.RDRXCTL) == 0x0600_000A
    assert rig.violations == []


def test_a_read_only_register_keeps_its_value(rig: Rig) -> None:
    rig.write(ixgbe.FWSM, 0)
    assert rig.read(ixgbe.FWSM) == 0x8000
    assert rig.violations == ["port 0: FWSM: write of 0x00000000 to a read-only register"]


def test_what_linux_writes_against_the_book_is_tolerated(rig: Rig) -> None:
    rig.write(ixgbe.STATUS, 0x7FFF_F30F)
    rig.write(ixgbe.RAH, 0x800C_FFFF, 5)
    rig.write(ixgbe.FCTRL, 0x3702)
    assert rig.read(ixgbe.STATUS) == 0x0008_0000
    assert rig.read(ixgbe.RAH, 5) == 0x8000_FFFF
    assert rig.read(ixgbe.FCTRL) == 0x0702
    assert rig.violations == []


def test_an_unknown_register_reads_zero_and_is_reported(rig: Rig) -> None:
    assert rig.nic.bar.read(0x7FFFC) == 0
    rig.nic.bar.write(0x7FFFC, 1)
    assert rig.violations == [
        "port 0: read of 0x7fffc: no such register",
        "port 0: write of 0x00000001 to 0x7fffc: no such register",
    ]


@pytest.mark.parametrize(("offset", "size"), [(8, 1), (8, 2), (8, 8), (10, 4), (9, 1)])
def test_only_aligned_32_bit_accesses_are_served(rig: Rig, offset: int, size: int) -> None:
    assert rig.nic.region_read(0, offset, size) == bytes(size)
    rig.nic.region_write(0, offset, b"\xff" * size)
    assert len(rig.violations) == 2
    assert f"{size} bytes" in rig.violations[0]


@pytest.mark.parametrize(("alias", "row"), ALIASES, ids=lambda row: row.name)
def test_both_places_of_a_register_are_one(rig: Rig, alias: Register, row: Register) -> None:
    last = alias.count - 1
    rig.write(alias, 0x0000_0300, last)
    stored = rig.nic.bar.get(row, last)
    assert stored == rig.read(alias, last) == rig.read(row, last) != rig.read(row, last - 1)


def test_counters_are_cleared_by_the_read_and_stick_at_their_maximum(rig: Rig) -> None:
    rig.port.statistics["GPRC"] = 7
    assert (rig.read(ixgbe.GPRC), rig.read(ixgbe.GPRC)) == (7, 0)
    rig.port.statistics["GPRC"] = 1 << 40
    assert rig.read(ixgbe.GPRC) == 0xFFFF_FFFF
    rig.write(ixgbe.GPRC, 1)
    assert rig.violations == ["port 0: GPRC: write of 0x00000001 to a read-only register"]


def test_the_high_part_of_an_octet_counter_is_latched_by_the_low_one(rig: Rig) -> None:
    rig.port.statistics["GORC"] = 0x3_8000_0001
    assert rig.read(ixgbe.GORCL) == 0x8000_0001
    rig.port.statistics["GORC"] = 5  # counted between the two reads
    assert rig.read(ixgbe.GORCH) == 3
    assert (rig.read(ixgbe.GORCL), rig.read(ixgbe.GORCH)) == (5, 0)


def test_a_queue_counter_stands_at_two_places(rig: Rig) -> None:
    rig.port.statistics["QPTC3"] = 9
    assert rig.read(ixgbe.QPTC_82599, 3) == 9
    assert rig.read(ixgbe.QPTC, 3) == 0


def test_queue_enable_reads_as_the_data_plane_has_seen_it(rig: Rig) -> None:
    rig.write(ixgbe.RXDCTL, 0x0200_0000, 7)
    assert rig.nic.bar.get(ixgbe.RXDCTL, 7) == 0x0200_0000  # what the data plane looks at
    assert rig.read(ixgbe.RXDCTL, 7) == 0
    rig.nic.tick(rig.now)
    assert rig.read(ixgbe.RXDCTL, 7) == 0x0200_0000
    rig.write(ixgbe.RXDCTL, 0, 7)
    assert rig.read(ixgbe.RXDCTL, 7) == 0x0200_0000
    rig.nic.tick(rig.now)
    assert rig.read(ixgbe.RXDCTL, 7) == 0


def test_trace_holds_every_access_in_order(rig: Rig) -> None:
    rig.nic.bar.trace = []
    rig.write(ixgbe.LEDCTL, 0xE)
    rig.read(ixgbe.LEDCTL)
    assert rig.nic.bar.trace == [("write", 0x200, 0xE), ("read", 0x200, 0xE)]


# Register, how many, mask of what must come back, mask of what is written: the register test of Linux's ethtool.
PATTERNS = [
    (ixgbe.FCRTL, 1, 0x8007_FFF0, 0x8007_FFF0),
    (ixgbe.FCRTH, 1, 0x8007_FFF0, 0x8007_FFF0),
    (ixgbe.PFCTOP, 1, 0xFFFF_FFFF, 0xFFFF_FFFF),
    (ixgbe.VLNCTRL, 1, 0, 0),
    (ixgbe.RDBAL, 4, 0xFFFF_FF80, 0xFFFF_FF80),
    (ixgbe.RDBAH, 4, 0xFFFF_FFFF, 0xFFFF_FFFF),
    (ixgbe.RDLEN, 4, 0x000F_FF80, 0x000F_FFFF),
    (ixgbe.RDT, 4, 0x0000_FFFF, 0x0000_FFFF),
    (ixgbe.FCTTV, 1, 0xFFFF_FFFF, 0xFFFF_FFFF),
    (ixgbe.TDBAL, 4, 0xFFFF_FF80, 0xFFFF_FFFF),
    (ixgbe.TDBAH, 4, 0xFFFF_FFFF, 0xFFFF_FFFF),
    (ixgbe.TDLEN, 4, 0x000F_FF80, 0x000F_FF80),
    (ixgbe.RAL_82598, 16, 0xFFFF_FFFF, 0xFFFF_FFFF),
    (ixgbe.RAH_82598, 16, 0x8001_FFFF, 0x800C_FFFF),
    (ixgbe.MTA, 128, 0xFFFF_FFFF, 0xFFFF_FFFF),
]


@pytest.mark.parametrize(("row", "count", "mask", "write"), PATTERNS, ids=lambda value: getattr(value, "name", None))
def test_patterns_of_the_linux_register_test(rig: Rig, row: Register, count: int, mask: int, write: int) -> None:
    for index in range(count):
        for pattern in (0x5A5A_5A5A, 0xA5A5_A5A5, 0, 0xFFFF_FFFF):
            before = rig.read(row, index)
            rig.write(row, pattern & write, index)
            assert rig.read(row, index) == pattern & write & mask
            rig.write(row, before, index)
    assert rig.violations == []


def test_counters_of_macsec_are_there_and_read_0(rig: Rig) -> None:
    for offset in (*range(0x8A3C, 0x8A50, 4), *range(0x8F40, 0x8F84, 4)):
        assert rig.nic.region_read(0, offset, 4) == bytes(4)
    assert rig.violations == []


def test_what_is_not_simulated_is_told_once_when_it_is_switched_on(rig: Rig) -> None:
    told: list[str] = []
    rig.nic.bar.tell = told.append
    rig.write(ixgbe.FTQF, 0, 5)
    rig.write(ixgbe.MRQC, 1)  # RSS is simulated
    assert told == []
    for index in (5, 6):
        rig.write(ixgbe.FTQF, 1 << 31, index)
    rig.write(ixgbe.FDIRCTRL, 1)
    rig.write(ixgbe.MRQC, 8)
    off = "are switched on, and not simulated: packets pass as if they were off"
    assert told == [
        f"5-tuple filters (FTQF) {off}",
        f"flow director filters (FDIRCTRL) {off}",
        f"queues by pool or traffic class (MRQC) {off}",
    ]
    assert rig.violations == []
