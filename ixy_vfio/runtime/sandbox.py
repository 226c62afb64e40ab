"""How a worker gives up what it inherited, before the first packet: the one place where rights are dropped.

What is left: its memory, the mappings it was told to keep, one socket, what it sleeps on, and the system calls listed
in `seccomp`.
The layers, in this order; the names are those in the forwarder's summary:

    memory                  every shared mapping is gone but its own (of BAR0, the pages with its doorbells)
    (code)                  no page stays writable and executable
    no-new-privs            no program that it could ever run would have more rights
    capabilities            none, even for root
    not-dumpable            no other process of the user may trace it or read its memory; no core file
    descriptors             every file descriptor is closed but its socket and its epoll (`worker._waker`)
    landlock, -network, -scope      nothing that has a path, a port or a process id; the filter refuses all of it, too
    limits                  no new descriptor, file, process or locked page; address space may grow by GROWTH
    mseal                   its own mappings can be neither moved, remapped nor unmapped
    seccomp                 few system calls; any other one ends the process (`seccomp`)

It has one thread: most of this is each thread's own.

Of the layers from Landlock on, one that this kernel lacks, or that whatever started this process forbids, is reported,
and the others hold. Without the layers before, there is no worker: SealError names the call that was refused. A call
that is refused does no harm where what it asks for holds already.
"""

import contextlib
import errno
import mmap
import os
import resource
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ixy_vfio_locks import calls, landlock, rights, seccomp

from ixy_vfio.core import libc, threads
from ixy_vfio.core.errors import SealError, WorkerError
from ixy_vfio.runtime.seccomp import worker_rules

LAYERS = (
    *("memory", "no-new-privs", "capabilities", "not-dumpable", "descriptors"),
    *("landlock", "landlock-network", "landlock-scope", "limits", "mseal", "seccomp"),
)
PAGE = 4096
GROWTH = 64 << 20  # bytes for the allocators; a worker's loop allocates next to nothing
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
            self.missing.append(f"{name}: {libc.said(error)}")

    def landlock(self, readable: Iterable[Path] = (), scope: int = landlock.ABSTRACT | landlock.SIGNAL) -> None:
        """Let this process read below these paths, and use no others, as far as this kernel has Landlock."""
        try:
            applied, lacks = landlock.restrict(dict.fromkeys(readable, landlock.READ), scope)
            self.applied += applied
            self.missing += lacks
        except OSError as error:
            self.missing.append(f"landlock: {libc.said(error)}")

    def pack(self) -> bytes:
        """As a message's payload."""
        return "\n".join((" ".join(self.applied), *self.missing)).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> "Seal":
        """From a message's payload."""
        applied, *missing = payload.decode(errors="replace").split("\n")
        return cls(applied.split(), missing)


def seal(keep_fds: Sequence[int], keep: Sequence[tuple[int, int]], parent: int, core: int | None) -> Seal:
    """Keep a socket, an epoll if there is one, and of all shared mappings the ranges (address, size) in `keep`.

    SealError when a layer that every kernel has is refused, or this process has other threads.
    """
    threads.require_one("a worker")
    _reset_signals()
    if core is not None:
        with libc.needed("--cores: sched_setaffinity", SealError):
            os.sched_setaffinity(0, {core})
    with libc.needed(error=SealError):
        calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            raise WorkerError("control is gone")
        unmap_all_but(keep)
        freeze_code()
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        give_up_privileges()
        _forbid_dumps()
    _close_all_but(keep_fds)
    result = Seal(["memory", "no-new-privs", "capabilities", "not-dumpable", "descriptors"])
    result.landlock()
    result.attempt("limits", lambda: _limit(in_use + GROWTH))
    result.attempt("mseal", lambda: _seal_mappings(keep))
    _forbid_compilation()
    result.attempt("seccomp", lambda: seccomp.install(seccomp.program(worker_rules(*keep_fds))))
    return result


def give_up_privileges() -> None:
    """No capabilities, and no way to more of anything. Raises OSError unless that holds afterwards."""
    try:
        rights.no_new_privileges()
    except OSError:
        if _status()["NoNewPrivs"] != "1":
            raise
    try:
        rights.set_capabilities(0)
    except OSError:
        if any(int(_status()[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")):
            raise


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _forbid_dumps() -> None:
    try:
        calls.prctl(calls.PR_SET_DUMPABLE, 0)
    except OSError:
        if calls.prctl(calls.PR_GET_DUMPABLE) == 1:
            raise


def _close_all_but(keep: Sequence[int]) -> None:
    """Those that there are, one by one: not every kernel and container runtime in use knows close_range()."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in keep:
            with contextlib.suppress(OSError):  # that of the listing itself is closed already
                os.close(fd)


def _reset_signals() -> None:
    """No handler of control's runs here; control decides when to stop."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def _limit(address_space: int) -> None:
    try:
        for limited in _NONE_OF:
            resource.setrlimit(limited, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = address_space if hard == resource.RLIM_INFINITY else min(address_space, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except ValueError:  # Python's word for EPERM
        raise OSError(errno.EPERM, f"prlimit64: {os.strerror(errno.EPERM)}") from None
    except OSError as error:
        raise OSError(error.errno, f"prlimit64: {error.strerror}") from None


def _seal_mappings(keep: Sequence[tuple[int, int]]) -> None:
    for begin, end in pages(keep):
        rights.seal_mapping(begin, end - begin)


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
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        addresses, rights, *_ = line.split(maxsplit=2)
        if rights.startswith("rwx"):
            begin, end = (int(word, 16) for word in addresses.split("-"))
            libc.mprotect(begin, end - begin, mmap.PROT_READ | mmap.PROT_EXEC)


def pages(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges (address, size), by address and rounded to whole pages: (begin, end)."""
    return sorted((address // PAGE * PAGE, -(-(address + size) // PAGE) * PAGE) for address, size in ranges)


def shared_mappings() -> Iterable[tuple[int, int]]:
    """(begin, end) of every shared mapping of this process."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
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
