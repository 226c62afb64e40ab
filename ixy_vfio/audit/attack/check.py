"""Makes a function a check that attacks."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ixy_vfio.audit.model import Findings, Scope, Severity, register

if TYPE_CHECKING:  # what attacks need is imported when one is run
    from ixy_vfio.audit.attack.field import Field


def attack_check(
    name: str, severity: Severity = Severity.HIGH, *, needs_root: bool = False
) -> Callable[[Callable[["Field"], Findings]], Callable[["Field"], Findings]]:
    """Make a function a check that lets a device try what must not succeed; run by --attack only."""
    return register(Scope.ATTACK, name, severity, needs_root)
