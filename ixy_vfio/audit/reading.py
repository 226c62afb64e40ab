"""A file of the machine and what it said: what findings show as evidence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A file and what it said; None: it is not there. Serves as evidence."""

    path: str
    value: str | None

    def __contains__(self, text: str) -> bool:
        return text in (self.value or "")
