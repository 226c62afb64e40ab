"""Counts the instructions of a function by single-stepping it in a child process (ptrace).

Exact, without tools, on the very machine code that runs, and fast enough for some hundred thousand instructions.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from cffi import FFI

from ixy_vfio.core.errors import IxyError

TRACEME, PEEKTEXT, PEEKUSER, POKETEXT, POKEUSER, CONT, KILL, SINGLESTEP = 0, 1, 3, 4, 6, 7, 8, 9  # linux/ptrace.h
RIP, RSP = 8 * 16, 8 * 19  # sys/user.h: offsets in user_regs_struct of x86-64
BREAKPOINT = 0xCC  # int3
MASK = (1 << 64) - 1
MOST = 5_000_000  # instructions of one call, before something is wrong

ffi = FFI()
ffi.cdef("long ptrace(long request, int pid, unsigned long address, unsigned long data);")


class CannotStep(IxyError):
    """Where ptrace is not permitted, or the child did something unexpected."""


class _Child:
    def __init__(self, body: Callable[[], None]) -> None:
        self._libc: Any = ffi.dlopen(None)
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                if self._libc.ptrace(TRACEME, 0, 0, 0) == 0:
                    os.kill(os.getpid(), signal.SIGSTOP)
                    body()
                    status = 0
            finally:
                os._exit(status)
        self.wait(signal.SIGSTOP)

    def call(self, request: int, address: int = 0, data: int = 0) -> int:
        ffi.errno = 0
        result = int(self._libc.ptrace(request, self.pid, address, data))
        if result == -1 and ffi.errno:
            raise CannotStep(f"ptrace: {os.strerror(ffi.errno)}")
        return result & MASK

    def wait(self, wanted: signal.Signals) -> bool:
        """Until it stops; False when it has ended well."""
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == wanted:
            return True
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return False
        if os.WIFSTOPPED(status):
            self.call(KILL)
        raise CannotStep(f"the child that is stepped through ended with status {status:#x}: is ptrace permitted here?")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def count(address: int, body: Callable[[], None], skip: int, calls: int) -> int:
    """Instructions of `calls` calls of the function at `address`, after `skip` calls, while a child runs `body`."""
    child = _Child(body)
    try:
        original = child.call(PEEKTEXT, address)
        trap = original & ~0xFF | BREAKPOINT
        child.call(POKETEXT, address, trap)
        total = 0
        for number in range(skip + calls):
            child.call(CONT)
            if not child.wait(signal.SIGTRAP):
                raise CannotStep("the function was not called often enough")
            child.call(POKETEXT, address, original)
            child.call(POKEUSER, RIP, address)
            if number >= skip:
                total += _step_over(child)
            else:
                child.call(SINGLESTEP)
                child.wait(signal.SIGTRAP)
            child.call(POKETEXT, address, trap)
        return total
    finally:
        child.kill()


def _step_over(child: _Child) -> int:
    """Step until the function has returned; how many instructions that was."""
    back = child.call(PEEKTEXT, child.call(PEEKUSER, RSP))
    for done in range(1, MOST):
        child.call(SINGLESTEP)
        child.wait(signal.SIGTRAP)
        if child.call(PEEKUSER, RIP) == back:
            return done
    raise CannotStep("the function did not return")
