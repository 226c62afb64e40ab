"""Attacks on the life of a session, and on its helper. Run by `--attack`."""

from types import ModuleType
from typing import TYPE_CHECKING

from ixy_vfio.audit.attack.check import attack_check
from ixy_vfio.audit.model import Findings, Severity

if TYPE_CHECKING:
    from ixy_vfio.audit.attack.field import Field


def session() -> ModuleType:
    """What only an attack needs: a look at the machine shall not wait for it."""
    from ixy_vfio.audit.attack import session as module

    return module


@attack_check("attack.driver_killed", Severity.HIGH)
def driver_killed(field: "Field") -> Findings:
    """DMA ends when a driver is killed, even if another process kept the device.

    One process has the lease; a second one, as a worker or a program that was taken over, has the device and keeps it
    writing into memory: the control. The first is killed (SIGKILL). The last write must come soon, bus mastering must
    be off; then the second process turns it on again and tries to go on, and a canary must stay. Says how many
    milliseconds after the kill the last write came.

    Why: the kernel stops a device at the last close of its descriptor, and a duplicate keeps it from that. The memory
    is somebody else's soon.

    Fix: look into the helper's log. Without a helper, nobody does this: a driver of another kind must be the only one
    that has the descriptor.
    """
    yield session().driver_killed(field)


@attack_check("attack.helper_killed", Severity.HIGH)
def helper_killed(field: "Field") -> Findings:
    """When the helper is killed, a device reaches no more than before.

    When its driver is gone too, it is at rest.

    Kills the helper's process of one lease (root, or whoever runs a simulated one). The driver must be told. Where
    nothing is mapped the device must still reach nothing. When the driver has closed the device, bus mastering must be
    off, and the device must be there for the next lease.

    Why: the helper owns the mappings; a crash of it must leave no device that runs without an owner.

    Fix: look who has the device open (device.holders).
    """
    yield from session().helper_killed(field)


@attack_check("attack.refused", Severity.HIGH)
def refused(field: "Field") -> Findings:
    """A driver's user cannot step around the helper.

    As the user who runs it, tries to open what gives power over devices (nodes of VFIO, registers and configuration in
    sysfs, physical memory, the helper's memory, its policy; nothing is written), and asks the helper for what it must
    refuse: a device that is leased, or nobody's, more memory than was granted, anything after the seal. Tries to attach
    the device to other address spaces.

    Why: each of these is the whole device, or all of memory, without the helper's checks.

    Fix: see nodes.vfio, nodes.sysfs, nodes.memory and helper.policy.
    """
    yield from session().refused(field)
