"""How control gives up rights when its devices are attached and its workers run, before the first packet.

Control never looks at a packet, so its sandbox is wider than a worker's (`sandbox`), and what is refused is answered
EPERM: it must live to stop its devices. Its layers; the names are those in the forwarder's summary:

    no-new-privs, capabilities      as a worker's
    landlock, -network, -scope      it may read its own program, /proc and /sys, and nothing else that has a path
    seccomp         no program, process, trace, socket, mount, namespace, module, executable page or file opened to be
                    written; signals to its workers alone; of ioctl what drives a VFIO device, not what maps memory
"""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ixy_vfio_helper import protocol
from ixy_vfio_locks import landlock, seccomp

from ixy_vfio.core import libc, threads
from ixy_vfio.core.errors import SealError
from ixy_vfio.runtime.sandbox import Seal, give_up_privileges
from ixy_vfio.runtime.seccomp import control_rules

LAYERS = ("no-new-privs", "capabilities", "landlock", "landlock-network", "landlock-scope", "seccomp")
_REFUSE = seccomp.ERRNO | errno.EPERM


def seal(workers: Sequence[int]) -> Seal:
    """Seal this process, for good; `workers` are the process ids that it may end.

    SealError when it has other threads, which would keep all rights, or cannot give up its privileges.
    """
    threads.require_one("control")
    result = Seal(["no-new-privs", "capabilities"])
    with libc.needed(error=SealError):
        give_up_privileges()
    # Workers are in a domain of their own: signals to outside must stay allowed here.
    result.landlock(_readable(), landlock.ABSTRACT)
    program = seccomp.program(control_rules(workers), _REFUSE)
    result.attempt("seccomp", lambda: seccomp.install(program))
    return result


def _readable() -> set[Path]:
    """Directories that Python may still import from, and print the lines of a traceback of."""
    packages = {Path(__file__).parents[1], Path(protocol.__file__).parent, Path(seccomp.__file__).parent}
    path = {Path(entry) for entry in sys.path if entry} - {Path.cwd()}
    python = {Path(sys.prefix), Path(sys.base_prefix) / "lib"}
    return {one for one in {Path("/proc"), Path("/sys")} | python | packages | path if os.path.isdir(one)}
