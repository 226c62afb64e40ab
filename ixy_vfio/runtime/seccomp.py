"""The system calls that a sealed worker may make, as a program for the kernel (seccomp, classic BPF).

Everything else kills the process: a call that is not on the list is not a mistake, it is an intruder. What a worker
needs was found with strace, over packets, statistics, sleep, failing kernels and the end; it is only this:

    recvfrom, sendto        its one socket, without addresses (and so without file descriptors)
    sched_yield, clock_gettime, and epoll_wait on its one epoll
    brk, mmap, munmap       the allocators of C and Python: private anonymous memory that is never executable
    exit_group
"""

import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ixy_vfio.core import libc

# linux/seccomp.h, linux/audit.h, linux/bpf_common.h
KILL, ALLOW, ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000
_MODE_FILTER = 2
_SECCOMP, _SET_MODE_FILTER = 317, 1
_AUDIT_ARCH_X86_64 = 0xC000_003E
_X32 = 0x4000_0000  # bit of a system call's number: the x32 table, which has calls of its own
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_WORD = 0xFFFF_FFFF
_ALL = 2**64 - 1
_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS = 0x22
_MSG_DONTWAIT = 0x40


class Check(NamedTuple):
    """The argument `number` is as it must be when it is `value` under `mask`."""

    number: int
    mask: int
    value: int


class Rule(NamedTuple):
    """A system call of x86-64, what its arguments must be, and what happens then."""

    number: int
    checks: tuple[Check, ...] = ()
    action: int = ALLOW


def worker_rules(fd: int, waker: int | None = None) -> list[Rule]:
    """What a worker may do, whose socket is `fd`, and which sleeps on the epoll `waker`."""
    socket = (Check(0, _WORD, fd), Check(4, _ALL, 0))
    wait = [] if waker is None else [Rule(232, (Check(0, _WORD, waker),))]  # epoll_wait
    return [
        *wait,
        Rule(24),  # sched_yield
        Rule(45, (*socket, Check(3, _WORD & ~_MSG_DONTWAIT, 0))),  # recvfrom
        Rule(44, (*socket, Check(3, _WORD & ~_MSG_DONTWAIT, 0))),  # sendto
        Rule(228),  # clock_gettime: where the vDSO cannot read the clock
        Rule(12),  # brk
        Rule(9, (Check(2, _ALL & ~_PROT_READ_WRITE, 0), Check(3, _ALL, _MAP_PRIVATE_ANONYMOUS))),  # mmap
        Rule(11),  # munmap
        # mremap would grow a mapping of shared memory. realloc() tries it, and copies when it is told no.
        Rule(25, (), ERRNO | errno.ENOMEM),
        Rule(231),  # exit_group
    ]


# What control may do beside: it has files, messages with descriptors, signals and the processes of its workers.
_CONTROL = (
    0, 1, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24, 25, 28,  # read ... select, madvise
    32, 35, 39, 44, 45, 46, 47, 48, 54, 55,  # dup, nanosleep, getpid, sending and receiving, socket options
    60, 61, 63, 79, 89, 96, 98, 99, 100, 102, 104, 107, 108, 110,  # exit, wait4, uname, who am I
    131, 186, 202, 204, 217, 219, 228, 229, 230, 231, 232, 233, 247,  # futex, clocks, epoll, waitid
    262, 267, 270, 271, 281, 291, 318, 332, 334, 439,  # newfstatat, pselect6, ppoll, epoll, getrandom, statx
)  # fmt: skip
# Device information, regions, interrupts, reset: no memory, no attaching, no hot reset. No SET_IRQS: a filter
# cannot see which interrupt it sets, and one of them tells the helper that the kernel wants the device back.
_VFIO_DEVICE = (0x3B6B, 0x3B6C, 0x3B6D, 0x3B6F)
_TERMINAL = (0x5401, 0x5413, 0x5421, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIOCLEX
_DESCRIPTORS = (1, 2, 3, 4, 1030)  # fcntl: flags, and F_DUPFD_CLOEXEC; F_SETOWN and F_SETSIG would send signals
_PROT_EXEC = 4
_OPEN_TO_WRITE = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC


def control_rules(workers: Sequence[int]) -> list[Rule]:
    """What control may do from the first packet on, whose workers have these process ids."""
    return [
        *(Rule(number) for number in _CONTROL),
        *(Rule(number, (Check(2, _PROT_EXEC, 0),)) for number in (9, 10)),  # mmap, mprotect
        *(Rule(72, (Check(1, _WORD, number),)) for number in _DESCRIPTORS),
        Rule(257, (Check(2, _OPEN_TO_WRITE, 0),)),  # openat
        *(Rule(62, (Check(0, _WORD, pid),)) for pid in workers),  # kill
        *(Rule(16, (Check(1, _WORD, number),)) for number in (*_VFIO_DEVICE, *_TERMINAL)),
    ]


def program(rules: Sequence[Rule], otherwise: int = KILL) -> bytes:
    """The rules as an array of struct sock_filter; `otherwise` for calls without a rule."""
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, KILL),
    ]
    for rule in rules:
        body = _body(rule)
        code += [(_JUMP_EQUAL, 0, len(body), rule.number), *body]
    code.append((_RETURN, 0, 0, otherwise))
    return b"".join(struct.pack("<HBBI", *step) for step in code)


def _body(rule: Rule) -> list[tuple[int, int, int, int]]:
    """The action if every check holds; else on with the next rule, which may be for the same call."""
    steps: list[tuple[int, int, int, int]] = []
    for check in rule.checks:
        for half in range(2):
            mask, value = (word >> 32 * half & _WORD for word in (check.mask, check.value))
            if mask:
                steps.append((_LOAD, 0, 0, _ARGUMENTS + 8 * check.number + 4 * half))
                steps += [(_AND, 0, 0, mask), (_JUMP_EQUAL, 0, 0, value)]
    steps.append((_RETURN, 0, 0, rule.action))
    last = len(steps) - 1
    forward = [(code, yes, last - i if code == _JUMP_EQUAL else no, k) for i, (code, yes, no, k) in enumerate(steps)]
    return [*forward, (_LOAD, 0, 0, _NUMBER)] if rule.checks else forward


def install(code: bytes) -> None:
    """Put the filter on this process, for good. Raises OSError. Needs no_new_privs, and one of two system calls."""
    if os.uname().machine != "x86_64":
        raise OSError(errno.ENOTSUP, f"the filter is for x86-64, this is {os.uname().machine}")
    descriptor = struct.pack("@HP", len(code) // 8, libc.address_of(code))  # struct sock_fprog
    try:
        libc.prctl(libc.PR_SET_SECCOMP, _MODE_FILTER, descriptor)
    except OSError:
        libc.syscall("seccomp", _SECCOMP, _SET_MODE_FILTER, 0, descriptor)
