"""Which layers of the workers' sandbox this kernel lacks, found by asking it; nothing is applied.

The names are those of `runtime/sandbox.py`, without the layers that every kernel has. For whoever is not sealed
himself: the audit counts what is missing, the forwarder says what its own processes could not get.
"""

import errno
import os

from ixy_vfio_locks import calls

_SECCOMP, _GET_ACTION_AVAIL, _KILL_PROCESS = 317, 2, b"\0\0\0\x80"  # x86-64; linux/seccomp.h
_LANDLOCK_CREATE_RULESET, _VERSION = 444, 1
_MSEAL = 462
_LANDLOCK = {"landlock": 1, "landlock-network": 4, "landlock-scope": 6}  # since which version of its interface


def missing() -> dict[str, str]:
    """Layer -> why it cannot be had. Empty where a worker is sealed fully."""
    lacks: dict[str, str] = {}
    if os.uname().machine != "x86_64":
        lacks["seccomp"] = f"the filter is for x86-64, this is {os.uname().machine}"
    elif (why := _refusal(_SECCOMP, _GET_ACTION_AVAIL, 0, _KILL_PROCESS)) and not _filters_by_prctl():
        lacks["seccomp"] = why
    if why := _refusal(_LANDLOCK_CREATE_RULESET, 0, 0, _VERSION):
        lacks["landlock"] = why
    else:
        version = calls.syscall("landlock", _LANDLOCK_CREATE_RULESET, 0, 0, _VERSION)
        for name, since in _LANDLOCK.items():
            if version < since:
                lacks[name] = f"needs Landlock {since}, this kernel has {version}"
    if why := _refusal(_MSEAL, 0, 0, 0):
        lacks["mseal"] = why
    return lacks


def _filters_by_prctl() -> bool:
    """Whether a filter could be installed by the older of the two calls: it looks for the filter, and there is none."""
    try:
        calls.prctl(calls.PR_SET_SECCOMP, 2, 0)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False


def _refusal(number: int, *arguments: int | bytes) -> str:
    """Why a system call that changes nothing cannot be made; "" when it can."""
    try:
        calls.syscall("", number, *arguments)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""
