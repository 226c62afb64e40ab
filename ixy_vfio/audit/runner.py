"""Runs the checks on a machine, or on one device of it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from ixy_vfio.audit import checks as _checks  # registers them  # noqa: F401
from ixy_vfio.audit.host import SIMULATED_DOMAIN, Host, PciDevice
from ixy_vfio.audit.model import CHECKS, Check, Finding, Scope, Status, skip
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.report import Report, Result
from ixy_vfio.audit.scene import Scene, draw
from ixy_vfio.audit.sessions import Kind, Session, parse_address, sessions_of
from ixy_vfio.audit.system import Denied, Unknown
from ixy_vfio.core.errors import UsageError


def audit(host: Host, target: str | None = None) -> Report:
    """Run every check. `target`: a PCI address, /dev/vfio/GROUP, or a process id; None: the whole machine.

    Raises UsageError when there is no such device, or nothing to look at.
    """
    if not any(host.is_mounted(place) for place in ("/proc", "/sys")):
        raise UsageError("neither /proc nor /sys is mounted; the audit cannot look at this machine")
    devices, sessions = _subjects(host, target)
    results = []
    for check in CHECKS.values():
        if check.scope is Scope.HOST:
            results.append(_run(check, "", host))
        elif check.scope is Scope.DEVICE:
            results += [_run(check, device.address, host, device) for device in devices]
        elif check.scope is Scope.SESSION:
            results += [_run(check, session.name, host, session) for session in sessions]
    return make_report(host, target or "host", results, draw(host, devices, sessions))


def make_report(host: Host, target: str, results: Sequence[Result], scene: Scene) -> Report:
    """A report of now."""
    return Report(
        target=target,
        kernel=host.release.value or "unknown",
        uid=host.system.uid,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        results=results,
        scene=scene,
    )


def _subjects(host: Host, target: str | None) -> tuple[Sequence[PciDevice], Sequence[Session]]:
    """The devices and sessions under audit."""
    every: Sequence[Session] = sessions_of(host).sessions
    if target is None:
        # Anybody can make a process that looks like a session on simulated devices: one of another user is theirs to
        # audit, and says nothing of the machine.
        every = [one for one in every if one.kind is not Kind.SIMULATED or host.system.uid in one.holders[0].uids]
        used = {address for session in every for address in session.devices}
        return [one for one in host.devices.values() if one.in_user_space or one.address in used], every
    if re.fullmatch(r"[0-9]{1,9}", target):
        sessions = [session for session in every if int(target) in {one.pid for one in session.processes}]
        if not sessions:
            raise UsageError(f"process {target}: uses no device that you may see; name a device, or run as root")
        used = {address for session in sessions for address in session.devices}
        return [one for one in host.devices.values() if one.address in used], sessions
    if target.startswith("/dev/vfio/"):
        devices = [one for one in host.group(target.removeprefix("/dev/vfio/")) if not one.is_bridge]
        if not devices:
            raise UsageError(f"{target}: no such group; /sys/kernel/iommu_groups has all of them")
        return devices, [session for one in devices for session in sessions_of(host).of(one.address)][:1]
    address = parse_address(target)
    if address is None:
        raise UsageError(f"{target}: not a PCI address like 0000:03:00.0, a group like /dev/vfio/12, or a process id")
    if address.startswith(SIMULATED_DOMAIN) and address not in host.devices:
        if not (sessions := sessions_of(host).of(address)):
            raise UsageError(f"{address}: a simulated port, and no session that you may see uses it")
        return [], sessions
    if address not in host.devices:
        raise UsageError(f"{address}: there is no such PCI device; `lspci -D` lists them")
    return [host.devices[address]], sessions_of(host).of(address)


def _run(check: Check, subject: str, host: Host, *more: PciDevice | Session) -> Result:
    """One check on one subject; what cannot be read or understood is a SKIP."""
    findings: list[Finding] = []
    try:
        for place in check.needs:
            if not host.is_mounted(place):
                raise Unknown(f"{place} is not mounted here")
        findings += check.function(host, *more)
    except Denied as denied:
        path = str(denied)
        findings.append(skip(f"{path} may not be read by you; run as root", Reading(path, None)))
    except Unknown as unknown:
        findings.append(skip(str(unknown)))
    except (ValueError, LookupError, OSError) as error:
        findings.append(skip(f"could not be judged: {type(error).__name__}: {error}"))
    return conclude(check, subject, findings)


def conclude(check: Check, subject: str, findings: list[Finding]) -> Result:
    """The result that findings add up to."""
    findings = findings or [skip("nothing to look at")]
    # A part that was fine says nothing beside one that was not.
    worst = max(finding.status for finding in findings)
    if worst > Status.SKIP:
        findings = [finding for finding in findings if finding.status is not Status.PASS]
    return Result(check.name, check.title, check.severity, subject, sorted(findings, key=lambda one: -one.status))
