"""What registers of a hostile port answer, and what else it does to its driver without touching memory.

Lies are decided by a seed and the number of the access, where polls of one register count once: a driver that waits
longer on a slower machine is told the same.
"""

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.transport import wire

if TYPE_CHECKING:
    from ixy_vfio.sim.nic import Nic

KINDS = ("ones", "garbage", "reset", "stuck", "eeprom", "link", "storm", "counters")
ALL_ONES = 0xFFFF_FFFF
RATES = (20, 200, 2000)  # one access in so many is a lie; the seed chooses
FLAP = 0.005  # seconds

Offsets = frozenset[int]


def _offsets(*rows: Register) -> Offsets:
    return frozenset(row.offset(index) for row in rows for index in range(row.count))


RESET = _offsets(ixgbe.CTRL)
RESET_BITS = 0x0400_0008  # CTRL.RST, CTRL.LRST
# What a driver waits for: ready bits, enable bits, heads.
STUCK = _offsets(
    *(ixgbe.STATUS, ixgbe.RDRXCTL, ixgbe.SECRXSTAT, ixgbe.SECTXSTAT, ixgbe.RXDCTL, ixgbe.TXDCTL),
    *(ixgbe.TDH, ixgbe.RDH, ixgbe.EEMNGCTL),
)
EEPROM = _offsets(ixgbe.EEC, ixgbe.EERD, ixgbe.SWSM, ixgbe.SW_FW_SYNC, ixgbe.EEMNGCTL, ixgbe.RAL, ixgbe.RAH)
LINK = _offsets(ixgbe.LINKS, ixgbe.LINKS2, ixgbe.AUTOC, ixgbe.AUTOC2, ixgbe.ANLP1, ixgbe.ESDP)
COUNTERS = _offsets(*(row for row in ixgbe.ALL if row.section == "8.2.3.23"))


class Lies:
    """The register side of one hostile port. `Nic` asks it at every read, and at every tick of its clock."""

    def __init__(self, seed: int, kinds: tuple[str, ...], nic: "Nic") -> None:
        self._random = Random(f"{seed}:{nic.number}")
        self._flaps = Random(f"{seed}:{nic.number}:flaps")  # by the clock, and so apart
        self._nic = nic
        self._kinds = frozenset(kinds)
        self._last = (-1, -1)
        self._lie: int | None = None  # what the register that was read last is said to hold
        self._rate = self._random.choice(RATES)
        self._gone_after = self._random.choice((0, 0, self._random.randrange(2000)))  # "ones" for ever; 0: never
        self._high = self._random.getrandbits(31)  # where counters run backwards from
        self._flap_at = 0.0
        self._count = 0
        self.told: Counter[str] = Counter()

    def end(self) -> None:
        """Leave nothing behind."""
        self._nic.link.allowed = True

    def answer(self, region: int, offset: int, size: int, value: bytes) -> bytes:
        """What a read of `size` bytes brings, in the place of `value`."""
        if (region, offset) != self._last:
            self._last = (region, offset)
            self._count += 1
            self._lie = self._decide(region, offset, int.from_bytes(value, "little"))
        if self._lie is None:
            return value
        return (self._lie & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _decide(self, region: int, offset: int, value: int) -> int | None:
        """The lie about a register, or None for the truth."""
        random = self._random
        gone = 0 < self._gone_after < self._count
        if "ones" in self._kinds and (random.randrange(self._rate) == 0 or gone):
            self.told["ones"] += 1
            return (1 << 64) - 1
        if region != wire.BAR0_REGION:
            return None
        for kind, offsets, lie in (
            ("reset", RESET, value | RESET_BITS),
            ("stuck", STUCK, value ^ (1 << random.randrange(32) | 1 << 25)),
            ("eeprom", EEPROM, random.choice((0, ALL_ONES - 1, random.getrandbits(32), value ^ 0x300))),
            ("link", LINK, random.getrandbits(32)),
            ("counters", COUNTERS, self._backwards(random)),
        ):
            if kind in self._kinds and offset in offsets and random.randrange(2 if kind != "counters" else 1) == 0:
                self.told[kind] += 1
                return lie
        if "garbage" in self._kinds and random.randrange(self._rate) == 0:
            self.told["garbage"] += 1
            return random.choice((0, random.getrandbits(32), value ^ 1 << random.randrange(32)))
        return None

    def _backwards(self, random: Random) -> int:
        """Less at every read."""
        self._high = self._high - random.randrange(1 << 16) if self._high > 1 << 16 else ALL_ONES - 1
        return self._high

    def tick(self, now: float) -> None:
        """At every turn of the simulator."""
        if "storm" in self._kinds:
            self._nic.signals.storm()
            self.told["storm"] += 1
        if "link" in self._kinds and now >= self._flap_at:
            self._flap_at = now + self._flaps.random() * 2 * FLAP
            self._nic.link.allowed = self._flaps.random() < 0.7
            self.told["flaps"] += 1
