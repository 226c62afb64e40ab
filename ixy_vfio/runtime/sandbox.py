"""How a worker gives up what it inherited, before the first packet: the one place where rights are dropped.

What is left: its memory, the mappings it was told to keep, one socket. A system-call filter (seccomp), Landlock
and sealed mappings belong at the end of `seal`.
"""

import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from ixy_vfio.core import libc
from ixy_vfio.core.errors import WorkerError

PAGE = 4096
_MAX_FD = 2**31 - 1


def seal(keep_fd: int, keep: Sequence[tuple[int, int]], parent: int, core: int | None) -> None:
    """Keep the file descriptor `keep_fd` and, of all shared mappings, the ranges (address, size) in `keep`."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        raise WorkerError("control is gone")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # control decides when to stop
    signal.set_wakeup_fd(-1)
    if core is not None:
        os.sched_setaffinity(0, {core})
    unmap_all_but(keep)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    os.closerange(0, keep_fd)
    os.closerange(keep_fd + 1, _MAX_FD)


def shared_mappings() -> Iterable[tuple[int, int]]:
    """(begin, end) of every shared mapping of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_ = line.split(maxsplit=2)
        if rights[3] == "s":
            begin, end = addresses.split("-")
            yield int(begin, 16), int(end, 16)


def unmap_all_but(keep: Sequence[tuple[int, int]]) -> None:
    """Unmap every page of every shared mapping that no range of `keep` touches."""
    kept = sorted((address // PAGE * PAGE, -(-(address + size) // PAGE) * PAGE) for address, size in keep)
    for begin, end in shared_mappings():
        for first, last in kept:
            if first >= end or last <= begin:
                continue
            if first > begin:
                libc.munmap(begin, first - begin)
            begin = last
        if begin < end:
            libc.munmap(begin, end - begin)
