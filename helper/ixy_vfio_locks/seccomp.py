"""Filters of system calls: rules as a program for the kernel (seccomp, classic BPF).

Numbers: linux/seccomp.h, linux/audit.h, linux/bpf_common.h.
"""

import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ixy_vfio_locks.calls import PR_SET_SECCOMP, address_of, prctl, syscall

KILL, ALLOW, ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000  # to ERRNO the number of the error is added
WORD = 0xFFFF_FFFF
ALL = 2**64 - 1
_MACHINE = os.uname().machine  # asked now: a filter may not let it be asked
_MODE_FILTER = 2
_SECCOMP, _SET_MODE_FILTER, _GET_ACTION_AVAIL = 317, 1, 2
_AUDIT_ARCH_X86_64 = 0xC000_003E
_X32 = 0x4000_0000  # bit of a system call's number: the x32 table, which has calls of its own
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


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


def program(rules: Sequence[Rule], otherwise: int = KILL, foreign: int = KILL) -> bytes:
    """The rules as an array of struct sock_filter. The first rule whose checks hold decides.

    `otherwise` is for calls without such a rule, `foreign` for calls of another ABI (i386, x32).
    """
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, foreign),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, foreign),
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
            mask, value = (word >> 32 * half & WORD for word in (check.mask, check.value))
            if mask:
                steps.append((_LOAD, 0, 0, _ARGUMENTS + 8 * check.number + 4 * half))
                steps += [(_AND, 0, 0, mask), (_JUMP_EQUAL, 0, 0, value)]
    steps.append((_RETURN, 0, 0, rule.action))
    last = len(steps) - 1
    forward = [(code, yes, last - i if code == _JUMP_EQUAL else no, k) for i, (code, yes, no, k) in enumerate(steps)]
    return [*forward, (_LOAD, 0, 0, _NUMBER)] if rule.checks else forward


def _require_x86() -> None:
    if _MACHINE != "x86_64":
        raise OSError(errno.ENOTSUP, f"the filter is for x86-64, this is {_MACHINE}")


def ask() -> None:
    """Raise OSError if no filter can be installed here, by either of the two system calls. Changes nothing."""
    _require_x86()
    try:
        syscall("seccomp", _SECCOMP, _GET_ACTION_AVAIL, 0, struct.pack("=I", KILL))
    except OSError:
        try:
            prctl(PR_SET_SECCOMP, _MODE_FILTER)  # it looks for the filter at address 0
        except OSError as error:
            if error.errno == errno.EFAULT:
                return
        raise


def install(code: bytes) -> None:
    """Put the filter on this process, for good. Raises OSError. Needs no_new_privs, and one of two system calls."""
    _require_x86()
    kept = bytearray(code)
    descriptor = struct.pack("@HP", len(kept) // 8, address_of(kept))  # struct sock_fprog
    try:
        prctl(PR_SET_SECCOMP, _MODE_FILTER, descriptor)
    except OSError:
        syscall("seccomp", _SECCOMP, _SET_MODE_FILTER, 0, descriptor)
