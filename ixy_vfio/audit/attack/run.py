"""Runs attacks: each in a process of its own, which takes a lease, attacks, and tells; none may take for ever."""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from ixy_vfio_locks import calls

from ixy_vfio.audit.attack.field import Field, supported
from ixy_vfio.audit.model import CHECKS, Check, Finding, Scope, Status, skip
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.report import Result
from ixy_vfio.audit.runner import conclude
from ixy_vfio.audit.system import Denied
from ixy_vfio.core.errors import IxyError, RefusedError, UsageError
from ixy_vfio.transport.lease import Lease, State

DEADLINE = 180.0  # seconds for one attack, on an emulated processor that others use as well
UNJUDGED = "could not be judged"


def attacks() -> list[Check]:
    """All of them, in the order in which they are run."""
    return [check for check in CHECKS.values() if check.scope is Scope.ATTACK]


def require_idle(address: str, helper: str | None) -> None:
    """UsageError, RefusedError unless the helper would lease the device to this user now."""
    with Lease(helper) as lease:
        for info in lease.devices():
            if info.address == address:
                if info.state is not State.FREE:
                    says = {State.UNBOUND: f"its driver is {info.driver or 'none'}; bind it first"}
                    raise UsageError(f"{address}: {says.get(info.state, 'it is leased; end that session first')}")
                if not supported(info.vendor, info.device):
                    kind = f"{info.vendor:04x}:{info.device:04x}"
                    raise UsageError(f"{address}: {kind} is no device that the audit can attack with")
                return
    raise RefusedError(f"{address}: the helper does not offer it to you; only a device of your own can be attacked")


def unjudged(results: Sequence[Result]) -> bool:
    """Whether an attack, or a part of one, came to nothing: that is not a clean bill."""
    return any(finding.text.startswith(UNJUDGED) for result in results for finding in result.findings)


def run(
    field: Field, chosen: Sequence[Check], progress: Callable[[str], None], deadline: float = DEADLINE
) -> list[Result]:
    """Run these attacks, one after the other. `progress` is given a line before each."""
    results = []
    for number, check in enumerate(chosen, 1):
        progress(f"[{number}/{len(chosen)}] {check.name}: {check.title}")
        results.append(conclude(check, field.address, _in_a_process(check, field, deadline)))
    return results


def _in_a_process(check: Check, field: Field, deadline: float) -> list[Finding]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        status = 1
        try:
            calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setpgid(0, 0)  # so that its children can be ended with it
            data = json.dumps([_plain(one) for one in perform(check, field)]).encode()
            with open(writer, "wb") as file:
                file.write(data)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    try:
        data, late = _read(reader, time.monotonic() + deadline)
    finally:
        os.close(reader)
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.waitpid(pid, 0)
    if late:
        return [skip(f"{UNJUDGED}: it took longer than {deadline:.0f} s")]
    return [_finding(one) for one in json.loads(data)] if data else [skip(f"{UNJUDGED}: its process died")]


def _read(fd: int, end: float) -> tuple[bytes, bool]:
    """All that comes, and whether it came too late."""
    data = b""
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            piece = os.read(fd, 65536)
            if not piece:
                return data, False
            data += piece
    return data, True


def perform(check: Check, field: Field) -> list[Finding]:
    """One attack, in this process; what could not be tried is a SKIP."""
    findings: list[Finding] = []
    try:
        findings += check.function(field)
    except Denied as denied:
        findings.append(skip(f"{denied} may not be read by you; run as root", Reading(str(denied), None)))
    except (IxyError, OSError, ValueError) as error:
        findings.append(skip(f"{UNJUDGED}: {error}"))
    return findings


def _plain(finding: Finding) -> dict[str, Any]:
    evidence = [(reading.path, reading.value) for reading in finding.evidence]
    return {"status": finding.status.name, "text": finding.text, "evidence": evidence}


def _finding(data: Any) -> Finding:
    return Finding(Status[data["status"]], data["text"], tuple(Reading(*pair) for pair in data["evidence"]))
