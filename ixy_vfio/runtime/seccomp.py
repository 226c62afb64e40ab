"""The system calls that a sealed worker may make, as a program for the kernel (seccomp, classic BPF).

Everything else kills the process: a call that is not on the list is not a mistake, it is an intruder. What a worker
needs was found with strace, over packets, statistics, naps, failing kernels and the end; it is only this:

    recvfrom, sendto        its one socket, without addresses (and so without file descriptors)
    sched_yield, clock_nanosleep, clock_gettime
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


def worker_rules(fd: int) -> list[Rule]:
    """What a worker may do, whose socket is `fd`."""
    socket = (Check(0, _WORD, fd), Check(4, _ALL, 0))
    return [
        Rule(24),  # sched_yield
        Rule(45, (*socket, Check(3, _WORD & ~_MSG_DONTWAIT, 0))),  # recvfrom
        Rule(44, (*socket, Check(3, _WORD, 0))),  # sendto
        Rule(230),  # clock_nanosleep
        Rule(228),  # clock_gettime: where the vDSO cannot read the clock
        Rule(12),  # brk
        Rule(9, (Check(2, _ALL & ~_PROT_READ_WRITE, 0), Check(3, _ALL, _MAP_PRIVATE_ANONYMOUS))),  # mmap
        Rule(11),  # munmap
        # mremap would grow a mapping of shared memory. realloc() tries it, and copies when it is told no.
        Rule(25, (), ERRNO | errno.ENOMEM),
        Rule(231),  # exit_group
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
        body = [step for check in rule.checks for step in _compare(check)]
        body.append((_RETURN, 0, 0, rule.action))
        code += [(_JUMP_EQUAL, 0, len(body), rule.number), *body]
    code.append((_RETURN, 0, 0, otherwise))
    return b"".join(struct.pack("<HBBI", *step) for step in code)


def _compare(check: Check) -> list[tuple[int, int, int, int]]:
    """Kill unless it holds: a comparison for each half of the argument that the mask touches."""
    steps = []
    for half in range(2):
        mask, value = (word >> 32 * half & _WORD for word in (check.mask, check.value))
        if mask:
            steps += [
                (_LOAD, 0, 0, _ARGUMENTS + 8 * check.number + 4 * half),
                (_AND, 0, 0, mask),
                (_JUMP_EQUAL, 1, 0, value),
                (_RETURN, 0, 0, KILL),
            ]
    return steps


def install(code: bytes) -> None:
    """Put the filter on this process, for good. Raises OSError. Needs no_new_privs."""
    if os.uname().machine != "x86_64":
        raise OSError(errno.ENOTSUP, f"the filter is for x86-64, this is {os.uname().machine}")
    descriptor = struct.pack("@HP", len(code) // 8, libc.address_of(code))  # struct sock_fprog
    libc.prctl(libc.PR_SET_SECCOMP, _MODE_FILTER, descriptor)
