"""The fuzzer of the data path: its kept corpus is replayed, and it finds what blind chance does not.

IXY_VFIO_FUZZ_HOSTILE is the number of mutated inputs (300 unless set).
"""

import os

import pytest

from tests.attack.hostile_fuzz import Fuzzer, corpus

RUNS = int(os.environ.get("IXY_VFIO_FUZZ_HOSTILE", "300"))
REACHED = 360  # items that the kept corpus reaches, at least; the run of its making told them


@pytest.fixture(scope="module")
def replayed() -> Fuzzer:
    fuzzer = Fuzzer(82599)
    for path in corpus():
        fuzzer.consider(path.read_bytes())
    return fuzzer


def test_the_corpus_breaks_no_rule_and_reaches_what_it_is_kept_for(replayed: Fuzzer) -> None:
    assert replayed.runs == len(corpus()) > 20
    assert len(replayed.reached) >= REACHED
    moved = {name for item in replayed.reached for name in item if isinstance(name, str)}
    assert {"rx.errors", "rx.oversize", "rx.refused", "rx.packets", "tx.packets"} <= moved


def test_an_input_replays_exactly(replayed: Fuzzer) -> None:
    for path in corpus()[:10]:
        first, digest = replayed.run(path.read_bytes()), replayed.world.digest
        assert (replayed.run(path.read_bytes()), replayed.world.digest) == (first, digest)


def test_mutated_inputs_break_no_rule(replayed: Fuzzer) -> None:
    for _ in range(RUNS):
        replayed.consider(replayed.mutated())


def test_what_is_kept_leads_to_more_than_chance_does() -> None:
    """The feedback works: as many inputs, from the same seed, reach less when none is kept."""
    guided, blind = Fuzzer(7), Fuzzer(7)
    for number in range(250):
        blind.consider(blind.fresh())
        guided.consider(guided.fresh() if number % 5 == 0 else guided.mutated())
    assert len(guided.reached) > len(blind.reached)
