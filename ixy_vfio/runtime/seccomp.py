"""The system calls that a sealed worker may make, and those of control.

Everything else kills the process: a call that is not on the list is not a mistake, it is an intruder. What a worker
needs was found with strace, over packets, statistics, sleep, failing kernels and the end; it is only this:

    recvfrom, sendto        its one socket, without addresses (and so without file descriptors)
    sched_yield, clock_gettime, and epoll_wait on its one epoll
    brk, mmap, munmap       the allocators of C and Python: private anonymous memory that is never executable
    exit_group
"""

import errno
import os
from collections.abc import Sequence

from ixy_vfio_locks.seccomp import ALL, ERRNO, WORD, Check, Rule

_PROT_READ_WRITE = 3
_MAP_PRIVATE_ANONYMOUS = 0x22
_MSG_DONTWAIT = 0x40


def worker_rules(fd: int, waker: int | None = None) -> list[Rule]:
    """What a worker may do, whose socket is `fd`, and which sleeps on the epoll `waker`."""
    socket = (Check(0, WORD, fd), Check(4, ALL, 0))
    wait = [] if waker is None else [Rule(232, (Check(0, WORD, waker),))]  # epoll_wait
    return [
        *wait,
        Rule(24),  # sched_yield
        Rule(45, (*socket, Check(3, WORD & ~_MSG_DONTWAIT, 0))),  # recvfrom
        Rule(44, (*socket, Check(3, WORD & ~_MSG_DONTWAIT, 0))),  # sendto
        Rule(228),  # clock_gettime: where the vDSO cannot read the clock
        Rule(12),  # brk
        Rule(9, (Check(2, ALL & ~_PROT_READ_WRITE, 0), Check(3, ALL, _MAP_PRIVATE_ANONYMOUS))),  # mmap
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
        *(Rule(72, (Check(1, WORD, number),)) for number in _DESCRIPTORS),
        Rule(257, (Check(2, _OPEN_TO_WRITE, 0),)),  # openat
        *(Rule(62, (Check(0, WORD, pid),)) for pid in workers),  # kill
        *(Rule(16, (Check(1, WORD, number),)) for number in (*_VFIO_DEVICE, *_TERMINAL)),
    ]
