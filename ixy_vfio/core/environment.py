"""The environment of a command: what is known to be harmless, and needed, and nothing else.

A worker is a fork of control, so it has all of control's memory, and there the environment: tokens and passwords of
other programs among it. So a command that finds more than is allowed starts itself again without it: to forget a
variable is not enough, since the memory that a process begins with keeps it.
"""

import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence

from ixy_vfio.core import signals
from ixy_vfio.core.errors import SystemRefused

KEEP = "IXY_VFIO_KEEP"  # names of more variables that shall stay, for the imports of a kernel's file
_NAMES = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    *("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PAGER"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES"),
    *("SUDO_UID", "SUDO_GID", "SSH_CONNECTION", "CC", "CFLAGS", "MPLBACKEND", "MPLCONFIGDIR"),
}
_PREFIXES = ("LC_", "PYTHON", "NUMBA_", "IXY_VFIO_")
# A process that is sealed has one thread: these keep libraries from starting more of them when they are imported.
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def allowed(environment: Mapping[str, str], arguments: Sequence[str] = ()) -> dict[str, str]:
    """What stays of it; of a kernel's file among the arguments, FILE.py:FUNCTION, also the variables that it names."""
    names = _NAMES | set(environment.get(KEEP, "").replace(",", " ").split())
    for word in arguments:
        names |= _named_in(word.removeprefix("--kernel=").rpartition(":")[0])
    kept = {name: value for name, value in environment.items() if name in names or name.startswith(_PREFIXES)}
    return kept | _ONE_THREAD


def start_clean() -> None:
    """Go on with an environment of the allowed variables alone: at once, or as a new program in this process."""
    environment = allowed(os.environ, sys.argv[1:])
    if environment == dict(os.environ):
        return
    signals.hold()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError as error:
        signals.leave()
        text = f"cannot start {sys.executable or 'Python'} again without the variables that are not for it"
        raise SystemRefused(f"{text}: execve: {error.strerror}") from None


def _named_in(path: str) -> set[str]:
    """The texts of one word in a kernel's file: NAME of os.environ["NAME"]."""
    try:
        if not path.endswith(".py") or not stat.S_ISREG(os.stat(path).st_mode):
            return set()
        with open(path, encoding="utf-8", errors="replace") as file:
            return set(re.findall(r"""["'](\w+)["']""", file.read()))
    except OSError:
        return set()  # the command says why
