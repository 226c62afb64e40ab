"""Filters of system calls, as the kernel's machine reads them."""

import pytest
from ixy_vfio_locks import seccomp
from ixy_vfio_locks.seccomp import ALL, ALLOW, KILL, WORD, Check, Rule

from tests.filters import run_filter

I386, X32 = 0x4000_0003, 0x4000_0000
REFUSE = seccomp.ERRNO | 1
NONE = (0,) * 6


@pytest.mark.parametrize("otherwise", [ALLOW, REFUSE, KILL])
@pytest.mark.parametrize("foreign", [REFUSE, KILL])
def test_a_call_of_another_abi_is_foreign_whatever_the_rules_say(otherwise: int, foreign: int) -> None:
    """Its number means another call; a list of what is forbidden would let it through."""
    program = seccomp.program([Rule(5), Rule(7, (), REFUSE)], otherwise, foreign)
    assert [run_filter(program, number, NONE) for number in (5, 7, 6)] == [ALLOW, REFUSE, otherwise]
    for number in (5, 6, 7):
        assert run_filter(program, number, NONE, I386) == foreign
        assert run_filter(program, number | X32, NONE) == foreign


@pytest.mark.parametrize("number", range(6))
def test_an_argument_is_looked_at_in_both_halves(number: int) -> None:
    """The lower one alone would let 1 << 32 | 3 pass for 3. Where the call takes a word, the upper one is nothing."""

    def says(mask: int, value: int) -> int:
        words = [0] * 6
        words[number] = value
        return run_filter(seccomp.program([Rule(5, (Check(number, mask, 3),))]), 5, tuple(words))

    assert (says(ALL, 3), says(ALL, 1 << 32 | 3), says(ALL, 3 << 32), says(ALL, 2)) == (ALLOW, KILL, KILL, KILL)
    assert (says(WORD, 3), says(WORD, 1 << 32 | 3), says(WORD, 2)) == (ALLOW, ALLOW, KILL)


def test_the_first_rule_whose_checks_hold_decides() -> None:
    program = seccomp.program([Rule(5, (Check(0, ALL, 1), Check(1, ALL, 2))), Rule(5, (Check(0, ALL, 1),), REFUSE)])
    calls = [(1, 2), (1, 3), (2, 2)]
    assert [run_filter(program, 5, (*two, 0, 0, 0, 0)) for two in calls] == [ALLOW, REFUSE, KILL]
