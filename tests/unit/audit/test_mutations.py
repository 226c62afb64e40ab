"""Each single thing that is broken on a sound machine flips its own check, and no other."""

import pytest

from ixy_vfio.audit.model import CHECKS, Scope
from tests.unit.audit import (  # they register themselves  # noqa: F401
    mutations_devices,
    mutations_helper,
    mutations_machine,
    mutations_options,
    mutations_plain,
    mutations_processes,
)
from tests.unit.audit.audit_support import look, machine, statuses
from tests.unit.audit.mutating import FAIL, MUTATIONS, PASS, SKIP, WARN, Mutation

LOOKS = {name for name, check in CHECKS.items() if check.scope is not Scope.ATTACK}


def test_the_sound_machine_passes_every_check() -> None:
    report = look(machine("sound"))
    assert statuses(report, PASS) == LOOKS
    assert report.counts == {"FAIL": 0, "WARN": 0, "SKIP": 0, "PASS": 58}


@pytest.mark.parametrize("case", MUTATIONS, ids=lambda case: case.name)
def test_a_mutation_flips_its_own_check_and_no_other(case: Mutation) -> None:
    broken = machine("sound")
    case.mutate(broken)
    report = look(broken)
    bad = statuses(report, WARN) | statuses(report, FAIL)
    if case.status is SKIP:
        assert bad == set()
        assert statuses(report, SKIP) == case.blind | {case.check}
    else:
        assert bad == {case.check}
        assert max(one.status for one in report.results) is case.status
        assert statuses(report, SKIP) == case.blind


def test_every_check_is_flipped_by_some_mutation() -> None:
    # On an old kernel other checks fail too; session.iommu only ever skips. Tested elsewhere.
    assert {case.check for case in MUTATIONS} == LOOKS - {"kernel.version", "session.iommu"}
    assert len({case.name for case in MUTATIONS}) == len(MUTATIONS) > 240
