"""How a worker gives up what it inherited, before the first packet: the one place where rights are dropped.

What is left: its memory, the mappings it was told to keep, one socket, what it sleeps on, and the system calls listed
in `seccomp`.
The layers, in this order; the names are those in the forwarder's summary:

    memory                  every shared mapping is gone but its own (of BAR0, the pages with its doorbells)
    (code)                  no page stays writable and executable
    no-new-privs            no program that it could ever run would have more rights
    capabilities            none, even for root
    not-dumpable            no other process of the user may trace it or read its memory; no core file
    landlock, -network, -scope      nothing that has a path, a port or a process id (`landlock`)
    descriptors             every file descriptor is closed but its socket and its epoll (`worker._waker`)
    limits                  no new descriptor, file, process or locked page; address space may grow by GROWTH
    mseal                   its own mappings can be neither moved, remapped nor unmapped
    seccomp                 few system calls; any other one ends the process (`seccomp`)

A layer that this kernel lacks is reported, and the others hold.
"""

import itertools
import mmap
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ixy_vfio.core import libc
from ixy_vfio.core.errors import WorkerError
from ixy_vfio.runtime import landlock, seccomp

PAGE = 4096
GROWTH = 64 << 20  # bytes for the allocators; a worker's loop allocates next to nothing
_MAX_FD = 2**31 - 1
_MSEAL = 462  # on every architecture
_CAPABILITY_VERSION_3 = 0x2008_0522  # linux/capability.h
_NONE_OF = (
    resource.RLIMIT_CORE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_MSGQUEUE,
)


@dataclass(slots=True)
class Seal:
    """What holds of this process from now on."""

    applied: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # "name: why"

    def attempt(self, name: str, apply: Callable[[], object]) -> None:
        """Apply a layer that not every kernel has."""
        try:
            apply()
            self.applied.append(name)
        except OSError as error:
            self.missing.append(f"{name}: {error.strerror or error}")

    def landlock(self, readable: Iterable[Path] = (), scope: int = landlock.ABSTRACT | landlock.SIGNAL) -> None:
        """`landlock.restrict`, as far as this kernel has it."""
        try:
            applied, lacks = landlock.restrict(readable, scope)
            self.applied += applied
            self.missing += lacks
        except OSError as error:
            self.missing.append(f"landlock: {error.strerror or error}")

    def pack(self) -> bytes:
        """As a message's payload."""
        return "\n".join((" ".join(self.applied), *self.missing)).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> "Seal":
        """From a message's payload."""
        applied, *missing = payload.decode(errors="replace").split("\n")
        return cls(applied.split(), missing)


def seal(keep_fds: Sequence[int], keep: Sequence[tuple[int, int]], parent: int, core: int | None) -> Seal:
    """Keep a socket, an epoll if there is one, and of all shared mappings the ranges (address, size) in `keep`."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        raise WorkerError("control is gone")
    _reset_signals()
    if core is not None:
        os.sched_setaffinity(0, {core})
    result = Seal(["memory", "no-new-privs", "capabilities", "not-dumpable"])
    unmap_all_but(keep)
    freeze_code()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    give_up_privileges()
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    result.landlock()
    for below, above in itertools.pairwise([-1, *sorted(keep_fds), _MAX_FD]):
        os.closerange(below + 1, above)
    _limit(in_use + GROWTH)
    result.applied += ["descriptors", "limits"]
    result.attempt("mseal", lambda: _seal_mappings(keep))
    _forbid_compilation()
    result.attempt("seccomp", lambda: seccomp.install(seccomp.program(seccomp.worker_rules(*keep_fds))))
    return result


def give_up_privileges() -> None:
    """No capabilities, and no way to more of anything."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.capset(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def _reset_signals() -> None:
    """No handler of control's runs here; control decides when to stop."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def _limit(address_space: int) -> None:
    for limited in _NONE_OF:
        resource.setrlimit(limited, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = address_space if hard == resource.RLIM_INFINITY else min(address_space, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _seal_mappings(keep: Sequence[tuple[int, int]]) -> None:
    for begin, end in pages(keep):
        libc.syscall("mseal", _MSEAL, begin, end - begin, 0)


def _forbid_compilation() -> None:
    """The compiler would be killed at its first executable page; an error message is better."""
    from numba.core import dispatcher

    def refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        name = getattr(self, "__name__", "a function")
        raise WorkerError(f"{name} was not compiled before the worker was sealed, and cannot be any more")

    for name in ("compile", "_compile_for_args"):  # called by name, and by a call with new types
        setattr(dispatcher.Dispatcher, name, refuse)


def freeze_code() -> None:
    """No page stays writable and executable. libffi makes one for the compiler's callbacks, and writes it no more.

    (It would when a callback is freed, as at the end of an interpreter, so this is for a process that leaves by _exit.)
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_ = line.split(maxsplit=2)
        if rights.startswith("rwx"):
            begin, end = (int(word, 16) for word in addresses.split("-"))
            libc.mprotect(begin, end - begin, mmap.PROT_READ | mmap.PROT_EXEC)


def pages(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges (address, size), by address and rounded to whole pages: (begin, end)."""
    return sorted((address // PAGE * PAGE, -(-(address + size) // PAGE) * PAGE) for address, size in ranges)


def shared_mappings() -> Iterable[tuple[int, int]]:
    """(begin, end) of every shared mapping of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_ = line.split(maxsplit=2)
        if rights[3] == "s":
            begin, end = addresses.split("-")
            yield int(begin, 16), int(end, 16)


def unmap_all_but(keep: Sequence[tuple[int, int]]) -> None:
    """Unmap every page of every shared mapping that no range of `keep` touches."""
    kept = pages(keep)
    for begin, end in shared_mappings():
        for first, last in kept:
            if first >= end or last <= begin:
                continue
            if first > begin:
                libc.munmap(begin, first - begin)
            begin = last
        if begin < end:
            libc.munmap(begin, end - begin)
