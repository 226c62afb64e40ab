"""How the process of a lease gives up what root has, in two steps.

    Sandbox.begin   before the client's first byte is read: what ATTACH and MEMORY need, and no more
    Sandbox.finish  when the client seals its lease: what the end of a lease needs; no path, no capability, and
                    no ioctl that would let a device reach more memory

Without capabilities, user id 0 still owns files: it may write what root may write, which is as good as root. So it is
Landlock that matters in the first step, and that there is no open() in the second. What is refused is answered EPERM,
and kills nobody: a process that is dead could not take the device back.
"""

import contextlib
import errno
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ixy_vfio_locks import landlock, rights, seccomp
from ixy_vfio_locks.calls import PR_SET_SECCOMP
from ixy_vfio_locks.seccomp import WORD, Check, Rule

from ixy_vfio_helper.memory import PUNCH_HOLE

CAP_SYSLOG = 1 << 34  # to open /dev/kmsg where kernel.dmesg_restrict is set

READ = landlock.READ
DEVICE = READ | landlock.WRITE_FILE | landlock.IOCTL_DEV
RECORDS = READ | landlock.WRITE_FILE | landlock.MAKE_REG | landlock.TRUNCATE

_REFUSE = seccomp.ERRNO | errno.EPERM
_PROT_EXEC = 4
VFIO = 0x3B00
FIONBIO, FIOCLEX = 0x5421, 0x5451  # of sockets, and of what is passed on
UNDO_IOCTLS = (VFIO + 0x72, VFIO + 0x86)  # what the end of a lease needs: unmap, of type1 and of iommufd


def _if(number: int, argument: int, *values: int, mask: int = WORD) -> tuple[Rule, ...]:
    """A system call, if the argument is one of these values under the mask."""
    return tuple(Rule(number, (Check(argument, mask, value),)) for value in values)


# System calls of x86-64 that stay until the end. Of mmap and mprotect nothing executable; of fcntl flags, copies, locks
# and seals: F_SETOWN and F_SETSIG would let a process of root's send any signal to anybody, without a capability.
LAST: tuple[Rule, ...] = (
    *map(Rule, (
        0, 1, 3, 5, 7, 8, 11, 12, 13, 14, 15, 17, 18, 24, 25, 28,  # read ... pread64, pwrite64, mremap, madvise
        39, 44, 45, 46, 47, 60, 131, 186, 202, 219,  # getpid, sending and receiving, exit, gettid, futex
        228, 230, 231, 271, 318, 334,  # clocks, exit_group, ppoll, getrandom, rseq
    )),
    *_if(9, 2, 0, mask=_PROT_EXEC), *_if(10, 2, 0, mask=_PROT_EXEC),
    *_if(72, 1, 1, 2, 3, 4, 36, 37, 1030, 1033),
    *_if(16, 1, *UNDO_IOCTLS, FIONBIO),
    *_if(285, 1, PUNCH_HOLE),  # fallocate: gives pages back, and makes none
)  # fmt: skip
# Those until the client seals its lease: stat and its kin, open, directories, memfds, eventfds, all ioctls of VFIO;
# and what `finish` calls.
FIRST: tuple[Rule, ...] = (
    *LAST,
    *map(Rule, (4, 6, 21, 32, 77, 89, 126, 217, 257, 262, 267, 285, 290, 319, 332)),
    *_if(16, 1, VFIO, mask=0xFFFF_FF00), *_if(16, 1, FIOCLEX),
    *_if(157, 0, PR_SET_SECCOMP),
)  # fmt: skip
# socket (Unix), connect, getsockopt: a simulated device is at the end of a socket.
SIMULATED: tuple[Rule, ...] = (*_if(41, 0, 1), *map(Rule, (42, 55)))


def program(rules: Sequence[Rule]) -> bytes:
    """The filter. A call of another ABI is refused, as is one without a rule."""
    return seccomp.program(rules, _REFUSE, _REFUSE)


def lower() -> None:
    """What every process of the helper that serves does without: all capabilities but one, and new ones.

    Raises OSError when something around the helper forbids it to give them up.
    """
    # Mapping for DMA is charged, without CAP_IPC_LOCK; a core would hold other users' packets; a lease keeps a
    # descriptor of each piece of memory, to give it back.
    limits = {resource.RLIMIT_MEMLOCK: resource.RLIM_INFINITY, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 4096}
    for limit, value in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
    rights.no_new_privileges()
    with contextlib.suppress(OSError):  # takes CAP_SETPCAP
        rights.bound_capabilities(CAP_SYSLOG)
    try:
        rights.set_capabilities(CAP_SYSLOG)
    except PermissionError:
        rights.set_capabilities(0)


def _filter(rules: Sequence[Rule]) -> None:
    seccomp.install(program(rules))


@dataclass(slots=True)
class Sandbox:
    """Of the lease processes of one helper: the paths that they need, and system calls beside the usual ones."""

    paths: Mapping[Path, int]
    more: tuple[Rule, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)  # layer -> why it could not be had

    def begin(self) -> list[str]:
        """The first step; returns what could not be had, as `layer: why`."""
        layers: dict[str, Callable[[], object]] = {
            "capabilities": lower,
            "landlock": lambda: landlock.restrict(self.paths),  # an older version restricts what it knows
            "seccomp": lambda: _filter((*FIRST, *self.more)),
        }
        for layer, apply in layers.items():
            try:
                apply()
            except OSError as error:
                self.missing[layer] = error.strerror or str(error)
        return [f"{layer}: {why}" for layer, why in self.missing.items()]

    def finish(self) -> None:
        """The second step. Raises OSError when it cannot be done although the first one was."""
        if "capabilities" not in self.missing:
            rights.set_capabilities(0)
        if "seccomp" not in self.missing:
            _filter(LAST)
