"""What a check is, and what it says.

    @host_check("kernel.lockdown", Severity.LOW)
    def lockdown(host: Host) -> Findings:
        "The kernel is locked down. ... Why: ... Fix: ..."      (a docstring; see `Check.text`)
        reading = host.read("/sys/kernel/security/lockdown")
        yield passed("locked down", reading) if "[none]" not in reading else warn("not locked down", reading)

A file that may not be read ends the check with SKIP (system.Denied); a check need not care. What cannot be known is
SKIP, too (system.Unknown), never PASS. A page says by `Holds unless: ` what would make the title false.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeVar

from ixy_vfio.audit.host import Host, PciDevice
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.sessions import Session


class Status(IntEnum):
    """Of a finding; the higher, the worse."""

    PASS = 0
    SKIP = 1  # could not be judged, or does not apply
    WARN = 2
    FAIL = 3


class Severity(IntEnum):
    """What it means for the isolation when the check fails."""

    LOW = 0  # one layer of several is missing, or an attack needs root first
    MEDIUM = 1  # weakens the isolation, or will hinder its use
    HIGH = 2  # a device, or who holds it, can reach what is not theirs


class Scope(Enum):
    """What a check is run on."""

    HOST = "host"
    DEVICE = "device"
    SESSION = "session"
    ATTACK = "attack"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    status: Status
    text: str
    evidence: tuple[Reading, ...] = ()


Findings = Iterator[Finding]


def passed(text: str, *evidence: Reading) -> Finding:
    """It is as it should be."""
    return Finding(Status.PASS, text, evidence)


def skip(text: str, *evidence: Reading) -> Finding:
    """It does not apply, or cannot be judged; the text says why."""
    return Finding(Status.SKIP, text, evidence)


def warn(text: str, *evidence: Reading) -> Finding:
    """It could be better; isolation holds."""
    return Finding(Status.WARN, text, evidence)


def fail(text: str, *evidence: Reading) -> Finding:
    """It is broken."""
    return Finding(Status.FAIL, text, evidence)


@dataclass(frozen=True, slots=True)
class Check:
    """A check. Its texts are the docstring of its function."""

    name: str
    scope: Scope
    severity: Severity
    needs_root: bool
    function: Callable[..., Findings]
    needs: tuple[str, ...] = ("/proc", "/sys")  # file systems without which it can tell nothing

    @property
    def title(self) -> str:
        """What holds when it passes: one line."""
        return self.text.partition("\n")[0].rstrip(".")

    @property
    def text(self) -> str:
        """The whole page: a title, paragraphs, one that begins with `Why: `, and one that begins with `Fix: `."""
        return inspect.getdoc(self.function) or ""

    @property
    def why(self) -> str:
        """Why it matters."""
        return self._paragraph("Why")

    @property
    def remedy(self) -> str:
        """What to do."""
        return self._paragraph("Fix")

    def _paragraph(self, name: str) -> str:
        found = re.search(rf"^{name}: (.*?)(?:\n\n|\Z)", self.text, re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split()) if found else ""


CHECKS: dict[str, Check] = {}  # by name; filled by the decorators below

_Function = TypeVar("_Function", bound=Callable[..., Findings])


def register(
    scope: Scope, name: str, severity: Severity, needs_root: bool, needs: tuple[str, ...] = ("/proc", "/sys")
) -> Callable[[_Function], _Function]:
    """Make a function a check; the decorators of the scopes do it by this."""

    def add(function: _Function) -> _Function:
        if name in CHECKS:
            raise ValueError(f"two checks are named {name}")
        CHECKS[name] = Check(name, scope, severity, needs_root, function, needs)
        return function

    return add


def host_check(
    name: str, severity: Severity, *, needs_root: bool = False, needs: tuple[str, ...] = ("/proc", "/sys")
) -> Callable[[Callable[[Host], Findings]], Callable[[Host], Findings]]:
    """Make a function a check that runs once."""
    return register(Scope.HOST, name, severity, needs_root, needs)


def device_check(
    name: str, severity: Severity, *, needs_root: bool = False
) -> Callable[[Callable[[Host, PciDevice], Findings]], Callable[[Host, PciDevice], Findings]]:
    """Make a function a check that runs on each device under audit."""
    return register(Scope.DEVICE, name, severity, needs_root)


def session_check(
    name: str, severity: Severity, *, needs_root: bool = False
) -> Callable[[Callable[[Host, Session], Findings]], Callable[[Host, Session], Findings]]:
    """Make a function a check that runs on each session: the processes that use devices together."""
    return register(Scope.SESSION, name, severity, needs_root)
