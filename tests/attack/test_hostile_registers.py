"""Registers that lie: every call of the driver ends in its time, with a result or an error of one line, never else.

Anything but an `IxyError` fails the test, as does a call that takes longer than its deadlines allow. Afterwards the
device is honest again, and the same port starts without a note.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from ixy_vfio.apps import info
from ixy_vfio.core import mmio
from ixy_vfio.core.errors import IxyError
from ixy_vfio.core.mmio import Mmio
from ixy_vfio.drivers.contract import Link, PortConfig
from ixy_vfio.drivers.ixgbe import link
from ixy_vfio.drivers.ixgbe.regs.mac import LINKS
from ixy_vfio.sim.hostile_registers import KINDS
from tests.attack.hostile_device import Life

SEEDS = range(40)
CONFIGS = (PortConfig(), PortConfig(queues=3, mtu=9000, promiscuous=True))
WANTED = {  # what each kind must have led to at least once, or it shows nothing
    "ones": ("DeviceGone", "done"),
    "garbage": ("DeadlineError", "done"),
    "reset": ("DeadlineError: CTRL",),
    "stuck": ("DeadlineError", "DeviceError"),
    "eeprom": ("DeviceError: the device has no EEPROM", "DeadlineError: EEC"),
    "link": ("LinkDown", "done"),
    "storm": ("done",),
    "counters": ("done",),
}


def lives(seeds: range, kinds: tuple[str, ...]) -> Iterator[Life]:
    for seed in seeds:
        life = Life(seed, kinds, CONFIGS[seed % len(CONFIGS)])
        try:
            life.hostile()
            life.honest()
            yield life
        except BaseException as error:
            error.add_note(f"seed {seed}, {', '.join(kinds)}: {life.told}")
            raise
        finally:
            life.close()


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_lie(kind: str) -> None:
    told: Counter[str] = Counter()
    for life in lives(SEEDS, (kind,)):
        told.update(text for name, text in life.told if name != "lies")
    for wanted in WANTED[kind]:
        assert any(text.startswith(wanted) for text in told), (wanted, told.most_common(10))


def test_all_lies_together() -> None:
    told: Counter[str] = Counter()
    for life in lives(range(1000, 1150), KINDS):
        told.update(text.partition(":")[0] for name, text in life.told if name != "lies")
    assert {"done", "DeviceGone", "DeadlineError"} <= set(told)


@pytest.mark.parametrize("kind", ["ones", "garbage", "eeprom", "link", "counters"])
def test_what_info_shows_of_lies(kind: str) -> None:
    """`ixy-vfio info` decodes every register: whatever it reads, it shows lines, or raises an error of ours."""
    shown = 0
    for seed in SEEDS:
        life = Life(seed, (kind,), CONFIGS[0])
        try:
            with contextlib.suppress(IxyError):
                life.lie()
                shown += len(list(info.render(info.inspect(life.device))))
        finally:
            life.close()
    assert shown > 300


def test_a_life_replays_exactly() -> None:
    first, second, other = (next(lives(range(seed, seed + 1), KINDS)).told for seed in (82599, 82599, 82600))
    assert first == second
    assert first != other


def test_an_error_that_is_not_ours_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a driver that trusts what it reads to be a key of a table."""

    def trusting(bar: Mmio) -> Link:
        return {0: Link(False, 0), 0x7000_0080: Link(True, 10_000)}[int(LINKS.read(bar))]

    monkeypatch.setattr(link, "read", trusting)
    with pytest.raises(KeyError):
        list(lives(SEEDS, ("link",)))


def test_a_wait_without_a_deadline_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a driver that waits a minute for a reset."""
    polls = mmio.polls
    monkeypatch.setattr("ixy_vfio.core.registers.polls", lambda within: polls(60.0))
    with pytest.raises(AssertionError, match="initialise: "):
        list(lives(SEEDS, ("reset",)))
