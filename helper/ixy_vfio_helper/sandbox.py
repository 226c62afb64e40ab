"""How the process of a lease gives up what root has, in two steps. Numbers: linux/{seccomp,audit,filter,landlock}.h.

    Sandbox.begin   before the client's first byte is read: what ATTACH and MEMORY need, and no more
    Sandbox.finish  when the client seals its lease: what the end of a lease needs; no path, no capability, and
                    no ioctl that would let a device reach more memory

Without capabilities, user id 0 still owns files: it may write what root may write, which is as good as root. So it is
Landlock that matters in the first step, and that there is no open() in the second. What is refused is answered EPERM,
and kills nobody: a process that is dead could not take the device back.
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Rule = tuple[int, int, int, tuple[int, ...]]  # call, argument, mask, values: allowed if argument & mask is a value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 23, 24, 22, 38
_CAPSET, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 126, 444, 445, 446
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
_PROT_EXEC = 4
VFIO = 0x3B00
FIONBIO, FIOCLEX = 0x5421, 0x5451  # of sockets, and of what is passed on
# What the end of a lease needs: region info, interrupts, reset, unmap (type1, iommufd).
UNDO_IOCTLS = tuple(VFIO + number for number in (0x6C, 0x6E, 0x6F, 0x72, 0x86))

# System calls of x86-64 that stay until the end.
_LAST = (
    0, 1, 3, 5, 7, 8, 11, 12, 13, 14, 15, 17, 18, 24, 25, 28,  # read ... pread64, pwrite64, mremap, madvise
    39, 44, 45, 46, 47, 60, 131, 186, 202, 219,  # getpid, sending and receiving, exit, gettid, futex
    228, 230, 231, 271, 318, 334,  # clocks, exit_group, ppoll, getrandom, rseq
)  # fmt: skip
# Of mmap and mprotect nothing executable; of fcntl flags, copies, locks and seals. F_SETOWN and F_SETSIG would let a
# process of root's send any signal to anybody, without a capability.
_HARMLESS: tuple[Rule, ...] = (
    *((number, 2, _PROT_EXEC, (0,)) for number in (9, 10)),
    (72, 1, 0xFFFF_FFFF, (1, 2, 3, 4, 36, 37, 1030, 1033)),
)
# Those that are needed before: stat and its kin, open, directories, memfds, eventfds; and what `finish` calls.
_FIRST = (4, 6, 21, 32, 77, 89, 217, 257, 262, 267, 285, 290, 319, 332, _CAPSET)
# socket (Unix), connect, getsockopt: a simulated device is at the end of a socket.
SIMULATED: tuple[Rule, ...] = ((41, 0, 0xFFFF_FFFF, (1,)), (42, 0, 0, ()), (55, 0, 0, ()))


def _rules(calls: Iterable[int]) -> list[Rule]:
    return [(number, 0, 0, ()) for number in calls]


def first_rules() -> list[Rule]:
    """Until the client seals its lease."""
    ioctls: list[Rule] = [(16, 1, 0xFFFF_FF00, (VFIO,)), (16, 1, 0xFFFF_FFFF, (FIONBIO, FIOCLEX))]
    seccomp: Rule = (157, 0, 0xFFFF_FFFF, (_PR_SET_SECCOMP,))
    return [*_rules((*_LAST, *_FIRST)), *_HARMLESS, *ioctls, seccomp]


def last_rules() -> list[Rule]:
    """From then on."""
    return [*_rules(_LAST), *_HARMLESS, (16, 1, 0xFFFF_FFFF, (*UNDO_IOCTLS, FIONBIO))]


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


def _call(what: str, *words: int | bytes | None) -> int:
    """A system call by number; bytes stand for their address. Raises OSError."""
    result = int(_libc.syscall(*(ctypes.c_ulong(word) if isinstance(word, int) else word for word in words)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, first: int, second: int | ctypes.Array[ctypes.c_char] = 0) -> int:
    word = ctypes.c_ulong(second) if isinstance(second, int) else second
    result = int(_libc.prctl(option, ctypes.c_ulong(first), word, ctypes.c_ulong(0), ctypes.c_ulong(0)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
    return result


def filter_calls(rules: Sequence[Rule]) -> None:
    """Put a filter on this process, for good. Raises OSError."""
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOTSUP, f"the filter is for x86-64, this is {platform.machine()}")
    code = ctypes.create_string_buffer(program(rules))
    descriptor = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))  # struct sock_fprog
    _prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(descriptor))


def keep_capabilities(mask: int) -> None:
    """Give up all capabilities but those in `mask`, and of these what this process does not have. Raises OSError."""
    with open("/proc/self/status") as file:
        (now,) = (int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    set_capabilities(now & mask)


def lower() -> None:
    """What every process of the helper that serves does without: all capabilities but one, and new ones.

    Raises OSError when something around the helper forbids it to give them up.
    """
    with contextlib.suppress(OSError, ValueError):  # mapping for DMA is charged, without CAP_IPC_LOCK
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError):  # takes CAP_SETPCAP
        for capability in range(64):
            if 1 << capability != CAP_SYSLOG and _prctl(_PR_CAPBSET_READ, capability):
                _prctl(_PR_CAPBSET_DROP, capability)
    keep_capabilities(CAP_SYSLOG)


def set_capabilities(mask: int) -> None:
    """Exactly these. Raises OSError."""
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    header, data = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), struct.pack("<6I", low, low, 0, high, high, 0)
    _call("capset", _CAPSET, header, data)


def ruleset_for(paths: Mapping[Path, int]) -> int:
    """Landlock: a file descriptor that stands for these rights below these paths, as far as they are there.

    No TCP, no abstract sockets, no signals to others. Raises OSError where there is no Landlock; an older version
    restricts what it knows.
    """
    version = _call("landlock", _CREATE_RULESET, None, 0, 1)
    handled = (1 << max(count for since, count in _KNOWN.items() if since <= version)) - 1
    words = [handled, *([0b11] if version >= 4 else []), *([0b11] if version >= 6 else [])]
    data = struct.pack(f"<{len(words)}Q", *words)
    ruleset = _call("landlock", _CREATE_RULESET, data, len(data), 0)
    try:
        for path, rights in paths.items():
            with contextlib.suppress(FileNotFoundError):
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    allowed = rights & handled & (-1 if path.is_dir() else _OF_FILES)
                    _call("landlock", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", allowed, beneath), 0)
                finally:
                    os.close(beneath)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


@dataclass(slots=True)
class Sandbox:
    """Of the lease processes of one helper: the paths that they need, and system calls beside the usual ones."""

    paths: Mapping[Path, int]
    more: tuple[Rule, ...] = ()
    missing: list[str] = field(default_factory=list)
    _ruleset: int = -1

    def prepare(self) -> None:
        """Look the paths up once, before there is a lease: so a lease that is refused has touched none of them.

        What is missing then is looked up when a lease begins, but for /dev/iommu, which not every kernel has.
        """
        with contextlib.suppress(OSError):
            if all(path.exists() for path in self.paths if path.name != "iommu"):
                self._ruleset = ruleset_for(self.paths)

    def begin(self) -> list[str]:
        """The first step; returns what could not be had, as `layer: why`."""
        self._attempt("capabilities", lower)
        self._attempt("landlock", self._restrict_files)
        self._attempt("seccomp", lambda: filter_calls([*first_rules(), *self.more]))
        return self.missing

    def _restrict_files(self) -> None:
        if self._ruleset < 0:
            self._ruleset = ruleset_for(self.paths)
        _call("landlock", _RESTRICT_SELF, self._ruleset, 0)
        os.close(self._ruleset)

    def finish(self) -> None:
        """The second step. Raises OSError when it cannot be done although the first one was."""
        missing = {text.partition(":")[0] for text in self.missing}
        if "capabilities" not in missing:
            set_capabilities(0)
        if "seccomp" not in missing:
            filter_calls(last_rules())

    def _attempt(self, layer: str, apply: Callable[[], None]) -> None:
        try:
            apply()
        except OSError as error:
            self.missing.append(f"{layer}: {error.strerror or error}")
