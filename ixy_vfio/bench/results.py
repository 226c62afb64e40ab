"""What a run of the benchmark found: rows of numbers, and sections for what is not a row."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Of the rounds of one measurement."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Quartiles":
        """First quartile, median, third quartile."""
        return cls(*(float(value) for value in np.percentile(values, (25, 50, 75))))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Row:
    """One side in one setting. `ratio` is to `base` in the same rounds, `best` to the reference's fastest build."""

    experiment: str
    setting: str
    batch: int
    side: str
    ns: Quartiles  # a packet, the driver's part alone
    base: str = ""
    ratio: Quartiles | None = None
    best_base: str = ""
    best: Quartiles | None = None


@dataclass(slots=True)
class Results:
    """All of a run."""

    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, Any] = field(default_factory=dict)
    instructions: dict[str, Any] = field(default_factory=dict)
    hand_offs: list[list[float]] = field(default_factory=list)  # cold: batch, ns of a hand-off, ns a packet: C, ours
    goals: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    published: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        experiment: str,
        setting: str,
        batch: int,
        names: Sequence[str],
        samples: NDArray[np.float64],
        base: str,
    ) -> None:
        """Rows from samples [round, side]. `base` is a side's name; the builds of the reference have "-O" in theirs."""
        medians = np.median(samples, axis=0)
        builds = [i for i, name in enumerate(names) if "-O" in name]
        best = min(builds, key=lambda i: float(medians[i])) if builds else None
        for i, name in enumerate(names):
            ratio = Quartiles.of(samples[:, i] / samples[:, names.index(base)]) if base in names else None
            self.rows.append(
                Row(
                    experiment,
                    setting,
                    batch,
                    name,
                    Quartiles.of(samples[:, i]),
                    base if ratio else "",
                    ratio,
                    names[best] if best is not None else "",
                    Quartiles.of(samples[:, i] / samples[:, best]) if best is not None else None,
                )
            )

    def row(self, experiment: str, side: str, batch: int, setting: str | None = None) -> Row | None:
        """The row, or None when it was not measured."""
        for row in self.rows:
            if (row.experiment, row.side, row.batch) == (experiment, side, batch) and setting in (None, row.setting):
                return row
        return None

    def of(self, experiment: str) -> list[Row]:
        """All rows of an experiment."""
        return [row for row in self.rows if row.experiment == experiment]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Results":
        """What `as_dict` has made."""
        rows = []
        for row in values["rows"]:
            fields: dict[str, Any] = {k: Quartiles(**v) if isinstance(v, dict) else v for k, v in row.items()}
            rows.append(Row(**fields))
        return cls(**{**values, "rows": rows})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
