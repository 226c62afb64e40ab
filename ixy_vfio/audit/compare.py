"""Two reports of one machine, before and after."""

from collections.abc import Iterator
from dataclasses import dataclass

from ixy_vfio_helper.shown import shown

from ixy_vfio.audit.report import Report, Result


@dataclass(frozen=True, slots=True)
class Change:
    """One result that differs; None where a report has no such result."""

    before: Result | None
    after: Result | None

    @property
    def worse(self) -> bool:
        """Whether it got worse. A new result counts by itself, one that is gone is not worse."""
        if self.after is None:
            return False
        return self.before is None or self.after.status > self.before.status

    def __str__(self) -> str:
        one = self.after or self.before
        assert one is not None
        before, after = (result.status.name if result else "-" for result in (self.before, self.after))
        where = f"{one.subject}: " if one.subject else ""
        word = "worse" if self.worse else "better"
        if self.before is None or self.after is None:
            word = "new" if self.before is None else "gone"
        return f"{word:<6}  {before:>4} -> {after:<4}  {one.check}  {where}{one.findings[0].text}"


def compare(before: Report, after: Report) -> list[Change]:
    """Every result whose status differs; what got worse first."""
    old = {result.key: result for result in before.results}
    new = {result.key: result for result in after.results}
    changes = [
        Change(old.get(key), new.get(key))
        for key in [*new, *(key for key in old if key not in new)]
        if key not in old or key not in new or old[key].status is not new[key].status
    ]
    return sorted(changes, key=lambda change: (not change.worse, -(change.after.status if change.after else 0)))


def render(before: Report, after: Report) -> Iterator[str]:
    """The lines."""
    changes = compare(before, after)
    yield shown(f"{before.target} {before.time} (uid {before.uid}) -> {after.target} {after.time} (uid {after.uid})")
    yield from (shown(str(change)) for change in changes)
    same = len(after.results) - sum(change.after is not None for change in changes)
    yield f"{len(changes)} changed, {same} the same"


def exit_status(before: Report, after: Report, fail_on: str) -> int:
    """1 when something got worse, and is now at or above the level."""
    return int(any(one.worse and one.after and one.after.at_or_above(fail_on) for one in compare(before, after)))
