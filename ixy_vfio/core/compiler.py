"""What Numba needs of its surroundings, looked at before it is imported. Its own words are a traceback, or a signal.

Modules that import Numba import this one first.
"""

import mmap
import resource

from ixy_vfio.core import libc
from ixy_vfio.core.errors import UsageError

ROOM = 768 << 20  # bytes of address space: LLVM ends the process when it gets none. Empirical: 600 MiB are too little


def _check_memory() -> None:
    for name, limited in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA)):
        limit = resource.getrlimit(limited)[0]
        if limit != resource.RLIM_INFINITY and limit < ROOM:
            raise UsageError(
                f"this process may have {limit >> 20} MiB of memory, and its compiler needs {ROOM >> 20}: "
                f"allow more (ulimit {name})"
            )


def _check_executable() -> None:
    """Make a page executable that was writable, as compilers do."""
    address = libc.mmap(
        0, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    try:
        libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
    except PermissionError:
        raise UsageError(
            "this process may not make memory executable, and its compiler, Numba, must: start it without "
            "MemoryDenyWriteExecute= (systemd), or allow execmem (SELinux)"
        ) from None
    finally:
        libc.munmap(address, mmap.PAGESIZE)


_check_memory()
_check_executable()

import numba  # noqa: E402

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # Numba defines it at run time
    raise UsageError("NUMBA_DISABLE_JIT is set, and packets are handled by compiled code only: unset it")
