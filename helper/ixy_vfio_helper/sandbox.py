"""How the process of a lease gives up what root has, in two steps. Numbers: linux/{seccomp,audit,filter,landlock}.h.

    Sandbox.begin   before the client's first byte is read: what ATTACH and MEMORY need, and no more
    Sandbox.finish  when the client seals its lease: what the end of a lease needs; no path, no capability, and
                    no ioctl that would let a device reach more memory

Without capabilities, user id 0 still owns files: it may write what root may write, which is as good as root. So it is
Landlock that matters in the first step, and that there is no open() in the second. What is refused is answered EPERM,
and kills nobody: a process that is dead could not take the device back.
"""

import contextlib
import errno
import os
import platform
import resource
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ixy_vfio_helper.libc import address_of, call
from ixy_vfio_helper.memory import PUNCH_HOLE

Rule = tuple[int, int, int, tuple[int, ...]]  # call, argument, mask, values: allowed if argument & mask is a value

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 23, 24, 22, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPABILITY_VERSION_3 = 0x2008_0522
CAP_SYSLOG = 1 << 34  # to open /dev/kmsg where kernel.dmesg_restrict is set

# Rights of Landlock on files, and since which version all of them are known.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, MAKE_REG, TRUNCATE, IOCTL_DEV = (1 << bit for bit in (0, 1, 2, 3, 8, 14, 15))
READ = READ_FILE | READ_DIR
DEVICE = READ | WRITE_FILE | IOCTL_DEV
RECORDS = READ | WRITE_FILE | MAKE_REG | TRUNCATE
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_KNOWN = {1: 13, 2: 14, 3: 15, 5: 16}
_PATH_BENEATH = 1

_ALLOW, _DENY, _MODE_FILTER = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 2
_X86_64 = 0xC000_003E
_LOAD, _AND, _RETURN, _EQUAL = 0x20, 0x54, 0x06, 0x15
_ALL_BITS, _PROT_EXEC = 0xFFFF_FFFF, 4
VFIO = 0x3B00
FIONBIO, FIOCLEX = 0x5421, 0x5451  # of sockets, and of what is passed on
UNDO_IOCTLS = (VFIO + 0x72, VFIO + 0x86)  # what the end of a lease needs: unmap, of type1 and of iommufd

# System calls of x86-64 that stay until the end. Of mmap and mprotect nothing executable; of fcntl flags, copies, locks
# and seals: F_SETOWN and F_SETSIG would let a process of root's send any signal to anybody, without a capability.
LAST: tuple[Rule, ...] = (
    *((number, 0, 0, ()) for number in (
        0, 1, 3, 5, 7, 8, 11, 12, 13, 14, 15, 17, 18, 24, 25, 28,  # read ... pread64, pwrite64, mremap, madvise
        39, 44, 45, 46, 47, 60, 131, 186, 202, 219,  # getpid, sending and receiving, exit, gettid, futex
        228, 230, 231, 271, 318, 334,  # clocks, exit_group, ppoll, getrandom, rseq
    )),
    *((number, 2, _PROT_EXEC, (0,)) for number in (9, 10)),
    (72, 1, _ALL_BITS, (1, 2, 3, 4, 36, 37, 1030, 1033)),
    (16, 1, _ALL_BITS, (*UNDO_IOCTLS, FIONBIO)),
    (285, 1, _ALL_BITS, (PUNCH_HOLE,)),  # fallocate: gives pages back, and makes none
)  # fmt: skip
# Those until the client seals its lease: stat and its kin, open, directories, memfds, eventfds, all ioctls of VFIO;
# and what `finish` calls.
FIRST: tuple[Rule, ...] = (
    *LAST,
    *((number, 0, 0, ()) for number in (4, 6, 21, 32, 77, 89, 126, 217, 257, 262, 267, 285, 290, 319, 332)),
    (16, 1, 0xFFFF_FF00, (VFIO,)),
    (16, 1, _ALL_BITS, (FIOCLEX,)),
    (157, 0, _ALL_BITS, (_PR_SET_SECCOMP,)),
)
# socket (Unix), connect, getsockopt: a simulated device is at the end of a socket.
SIMULATED: tuple[Rule, ...] = ((41, 0, _ALL_BITS, (1,)), (42, 0, 0, ()), (55, 0, 0, ()))


def program(rules: Sequence[Rule]) -> bytes:
    """The rules as an array of struct sock_filter. A call of another ABI is denied, as is one without a rule."""
    load_number = (_LOAD, 0, 0, 0)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _DENY), load_number]
    for number, argument, mask, values in rules:
        body = [(_RETURN, 0, 0, _ALLOW)]
        if mask:
            body = [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, mask)]
            body += [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
            body.append(load_number)
        code += [(_EQUAL, 0, len(body), number), *body]
    return b"".join(struct.pack("<HBBI", *step) for step in (*code, (_RETURN, 0, 0, _DENY)))


def filter_calls(rules: Sequence[Rule]) -> None:
    """Put a filter on this process, for good. Raises OSError."""
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOTSUP, f"the filter is for x86-64, this is {platform.machine()}")
    code = bytearray(program(rules))
    call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, struct.pack("@HP", len(code) // 8, address_of(code)), 0, 0)


def set_capabilities(mask: int) -> None:
    """Exactly these. Raises OSError, also where this process lacks one of them."""
    low, high = mask & _ALL_BITS, mask >> 32
    header, data = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), struct.pack("<6I", low, low, 0, high, high, 0)
    call("capset", header, data)


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
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError):  # takes CAP_SETPCAP
        for capability in range(64):
            if 1 << capability != CAP_SYSLOG and call("prctl", _PR_CAPBSET_READ, capability, 0, 0, 0):
                call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    try:
        set_capabilities(CAP_SYSLOG)
    except PermissionError:
        set_capabilities(0)


def restrict_files(paths: Mapping[Path, int]) -> None:
    """Landlock: these rights below these paths, as far as they are there, and no others.

    No TCP, no abstract sockets, no signals to others. Raises OSError where there is no Landlock; an older version
    restricts what it knows.
    """
    version = call("syscall", _CREATE_RULESET, None, 0, 1)
    handled = (1 << max(count for since, count in _KNOWN.items() if since <= version)) - 1
    words = [handled, *([0b11] if version >= 4 else []), *([0b11] if version >= 6 else [])]
    data = struct.pack(f"<{len(words)}Q", *words)
    with contextlib.ExitStack() as fds:
        ruleset = call("syscall", _CREATE_RULESET, data, len(data), 0)
        fds.callback(os.close, ruleset)
        for path, rights in paths.items():
            with contextlib.suppress(FileNotFoundError):
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
                fds.callback(os.close, beneath)
                allowed = rights & handled & (-1 if path.is_dir() else _OF_FILES)
                call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", allowed, beneath), 0)
        call("syscall", _RESTRICT_SELF, ruleset, 0)


@dataclass(slots=True)
class Sandbox:
    """Of the lease processes of one helper: the paths that they need, and system calls beside the usual ones."""

    paths: Mapping[Path, int]
    more: tuple[Rule, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)  # layer -> why it could not be had

    def begin(self) -> list[str]:
        """The first step; returns what could not be had, as `layer: why`."""
        files, calls = partial(restrict_files, self.paths), partial(filter_calls, (*FIRST, *self.more))
        for layer, apply in (("capabilities", lower), ("landlock", files), ("seccomp", calls)):
            try:
                apply()
            except OSError as error:
                self.missing[layer] = error.strerror or str(error)
        return [f"{layer}: {why}" for layer, why in self.missing.items()]

    def finish(self) -> None:
        """The second step. Raises OSError when it cannot be done although the first one was."""
        if "capabilities" not in self.missing:
            set_capabilities(0)
        if "seccomp" not in self.missing:
            filter_calls(LAST)
