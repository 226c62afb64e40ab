"""A report for the terminal."""

import textwrap
from collections.abc import Iterator

from ixy_vfio_helper.shown import shown, shown_lines

from ixy_vfio.audit.model import CHECKS, Status
from ixy_vfio.audit.report import Report, Result

COLOURS = {Status.FAIL: "31;1", Status.WARN: "33", Status.SKIP: "2", Status.PASS: "32"}
EVIDENCE_LINES = 12  # of one file


def render(report: Report, width: int = 100, colour: bool = False, verbose: bool = False) -> Iterator[str]:
    """The lines: a check a line, worst first; with `verbose` each with its evidence, why it matters, what to do.

    Names of processes, devices and files stand in them: each line is `shown`, and has no end of a line in it.
    """
    subjects = [result.subject for result in report.results if result.subject]
    names = max(len(result.check) for result in report.results)
    in_short = {subject: _short(subject) for subject in subjects}
    who = "root" if report.uid == 0 else f"uid {report.uid}"
    yield shown(f"Audit of {report.target}, Linux {report.kernel}, as {who}")
    yield from (f"  {shown(line)}" for line in sessions(report))
    yield ""
    for result in report.worst_first:
        head = f"{result.status.name}  {result.check:<{names}}  "
        text = (f"{in_short[result.subject]}: " if result.subject else "") + summary(result)
        line = shown(head + text)
        if len(line) > width and not verbose:
            line = line[: width - 3].rstrip() + "..."
        yield _paint(line, result.status, colour)
        if verbose:
            yield from _details(result, width)
    yield ""
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    yield f"{counts}. More: -v, or --explain CHECK." + (
        "" if report.uid == 0 else " Some need root: what is SKIP says so."
    )


def sessions(report: Report) -> Iterator[str]:
    """A line for each session, and one for all devices that nobody uses."""
    for box in report.scene.sessions:
        level = f", {box.level}" if box.level and "simulated" not in box.kind else ""
        pids = ", ".join(f"{process.role} {process.pid}" for process in box.processes)
        yield f"{box.name} ({box.kind}{level}): {pids}"
    used = {address for box in report.scene.sessions for address in box.devices}
    idle = [device.address for device in report.scene.devices if device.address not in used]
    if idle:
        yield f"in no session: {', '.join(idle)}"


def _short(subject: str) -> str:
    """A session of several devices by the first of them."""
    first, *more = subject.split(",")
    return f"{first}+{len(more)}" if more else first


def summary(result: Result) -> str:
    """The worst finding in a line; of what passed, also what that means."""
    fine = result.status is Status.PASS
    more = f" (and {len(result.findings) - 1} more)" if len(result.findings) > 1 and not fine else ""
    return (f"{result.title}: {result.findings[0].text}" if fine else result.findings[0].text) + more


def _paint(line: str, status: Status, colour: bool) -> str:
    return f"\033[{COLOURS[status]}m{line[:4]}\033[0m{line[4:]}" if colour else line


def _details(result: Result, width: int) -> Iterator[str]:
    for finding in result.findings:
        if len(result.findings) > 1:
            yield shown(f"      - {finding.status.name}: {finding.text}")
        for reading in finding.evidence:
            lines = ["(not there)"] if reading.value is None else shown_lines(reading.value or "(empty)")
            yield f"      {shown(reading.path)}: {lines[0] if len(lines) == 1 else ''}".rstrip()
            if len(lines) > 1:
                yield from (f"        {line}" for line in lines[:EVIDENCE_LINES])
                if len(lines) > EVIDENCE_LINES:
                    yield f"        ... {len(lines) - EVIDENCE_LINES} lines more"
    check = CHECKS.get(result.check)
    if check is not None and result.status >= Status.WARN:
        for label, text in (("Why", check.why), ("Fix", check.remedy)):
            yield from textwrap.wrap(
                f"{label}: {text}", width, initial_indent="      ", subsequent_indent="           "
            )
