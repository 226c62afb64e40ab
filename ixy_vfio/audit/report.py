"""What an audit found, and its JSON (docs/audit/schema.md)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ixy_vfio.audit.model import CHECKS, Finding, Severity, Status
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.scene import DeviceBox, ProcessBox, Scene, SessionBox
from ixy_vfio.core.errors import UsageError

SCHEMA = 1
LEVELS = ("high", "fail", "warn")  # of --fail-on


@dataclass(frozen=True, slots=True)
class Result:
    """What a check says of a subject (a device, a session; empty: the host). The worst finding is the first."""

    check: str
    title: str
    severity: Severity
    subject: str
    findings: Sequence[Finding]

    @property
    def status(self) -> Status:
        """The worst."""
        return self.findings[0].status

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same result in another report."""
        return self.check, self.subject

    def at_or_above(self, level: str) -> bool:
        """Whether it counts as a finding at `--fail-on LEVEL`."""
        if level == "warn":
            return self.status >= Status.WARN
        return self.status is Status.FAIL and (level == "fail" or self.severity is Severity.HIGH)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole audit."""

    target: str
    kernel: str
    uid: int
    time: str
    results: Sequence[Result]
    scene: Scene

    @property
    def worst_first(self) -> list[Result]:
        """By status, then by severity, else in the order of the checks."""
        return sorted(self.results, key=lambda one: (-one.status, -one.severity))

    @property
    def counts(self) -> dict[str, int]:
        """Status -> how many results."""
        found = Counter(result.status for result in self.results)
        return {status.name: found[status] for status in sorted(Status, reverse=True)}

    def exit_status(self, fail_on: str) -> int:
        """0 clean, 1 when there is a finding at or above the level."""
        return int(any(result.at_or_above(fail_on) for result in self.results))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "kernel": self.kernel,
            "uid": self.uid,
            "time": self.time,
            "summary": self.counts,
            "results": [_result(result) for result in self.worst_first],
            "scene": asdict(self.scene),
        }


def _result(result: Result) -> dict[str, Any]:
    check = CHECKS.get(result.check)
    return {
        "check": result.check,
        "title": result.title,
        "severity": result.severity.name,
        "subject": result.subject,
        "status": result.status.name,
        "findings": [
            {
                "status": finding.status.name,
                "text": finding.text,
                "evidence": [{"file": reading.path, "value": reading.value} for reading in finding.evidence],
            }
            for finding in result.findings
        ],
        "why": check.why if check else "",
        "remedy": check.remedy if check else "",
    }


def from_json(data: Any) -> Report:
    """A report from its plain data. Raises UsageError when it is none, or of another schema."""
    try:
        if data["schema"] != SCHEMA:
            raise UsageError(f"a report of schema {data['schema']}; this version reads {SCHEMA}")
        return Report(
            data["target"],
            data["kernel"],
            data["uid"],
            data["time"],
            [_parse_result(result) for result in data["results"]],
            _parse_scene(data["scene"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(f"not a report of ixy-vfio audit --json ({type(error).__name__}: {error})") from None


def _parse_result(data: Any) -> Result:
    findings = [
        Finding(
            Status[finding["status"]],
            finding["text"],
            tuple(Reading(entry["file"], entry["value"]) for entry in finding["evidence"]),
        )
        for finding in data["findings"]
    ]
    return Result(data["check"], data["title"], Severity[data["severity"]], data["subject"], findings)


def _parse_scene(data: Any) -> Scene:
    sessions = [
        SessionBox(**{**box, "processes": [ProcessBox(**process) for process in box["processes"]]})
        for box in data["sessions"]
    ]
    return Scene(data["iommus"], [DeviceBox(**box) for box in data["devices"]], sessions)
