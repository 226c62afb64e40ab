"""A minute of the quarrel of two users; `python -m tests.quarrel` is ten."""

import pytest

from tests.quarrel import Quarrel, lab
from tests.vm.harness import Guest

pytestmark = pytest.mark.vm

SECONDS = 60.0


@pytest.mark.parametrize("guest", [lab("iommufd", SECONDS)], indirect=True, ids=["quarrel"], scope="session")
def test_one_user_does_all_it_can_and_the_other_does_not_notice(guest: Guest) -> None:
    verdict = Quarrel(guest, "cdev").run(SECONDS, 2000, print)
    print(verdict.numbers)
    assert verdict.wrong == []
    assert verdict.numbers["frames"]["received"] == verdict.numbers["frames"]["sent"]
