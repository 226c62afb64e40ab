"""Which layers of the workers' sandbox this kernel lacks, found by asking it; nothing is applied.

The names are those of `runtime/sandbox.py`, without the layers that every kernel has. For whoever is not sealed
himself: the audit counts what is missing, the forwarder says what its own processes could not get.
"""

from collections.abc import Callable

from ixy_vfio_locks import landlock, rights, seccomp


def missing() -> dict[str, str]:
    """Layer -> why it cannot be had. Empty where a worker is sealed fully."""
    lacks: dict[str, str] = {}
    if why := _refusal(seccomp.ask):
        lacks["seccomp"] = why
    if why := _refusal(landlock.version):
        lacks["landlock"] = why
    else:
        known = landlock.version()
        lacks |= {
            name: f"needs Landlock {since}, this kernel has {known}"
            for name, since in landlock.SINCE.items()
            if known < since
        }
    if why := _refusal(lambda: rights.seal_mapping(0, 0)):
        lacks["mseal"] = why
    return lacks


def _refusal(ask: Callable[[], object]) -> str:
    """Why a system call that changes nothing cannot be made; "" when it can."""
    try:
        ask()
    except OSError as error:
        return error.strerror or str(error)
    return ""
