"""The page that a worker counts in: whole copies, read by anybody who has it, written by the worker alone."""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath.queue import PortCounters
from ixy_vfio.runtime.page import MOST_PORTS, PORT, SIZE, TRIES, Page


class Pair:
    """A queue pair of which every counter has the same value."""

    def __init__(self) -> None:
        self.value = 0

    def count(self, into: Any) -> None:
        into[:] = self.value


def pairs(number: int) -> Any:
    return tuple(Pair() for _ in range(number))


def test_what_is_published_is_read() -> None:
    page, both = Page(2), pairs(2)
    assert page.read().ports == (PortCounters(), PortCounters())
    assert page.read().at == 0
    for value in (3, 2**64 - 1, 5):
        both[0].value, both[1].value = value, 7
        begun = time.monotonic_ns()
        page.publish(both, first_packet=11, waiting=value == 5)
        seen = page.read()
        assert begun <= seen.at <= time.monotonic_ns()
        assert (seen.first_packet, seen.waiting) == (11, value == 5)
        assert seen.ports == (PortCounters(*[value] * PORT), PortCounters(*[7] * PORT))


def test_a_copy_that_was_never_finished_is_not_read() -> None:
    """The worker was killed in the middle of one."""
    page, both = Page(1), pairs(1)
    both[0].value = 4
    page.publish(both, 0, waiting=False)
    both[0].count = lambda into: into.__setitem__(slice(0, 3), 9) or 1 / 0
    with pytest.raises(ZeroDivisionError):
        page.publish(both, 0, waiting=False)
    assert page.read().ports == (PortCounters(*[4] * PORT),)


def test_no_copy_is_torn() -> None:
    """From a process that makes ten times as many as a worker."""
    page, both = Page(2), pairs(2)
    pid = os.fork()
    if pid == 0:
        while True:
            both[0].value = both[1].value = both[0].value + 1
            page.publish(both, both[0].value, waiting=False)
            time.sleep(0.0001)
    seen: set[int] = set()
    try:
        end = time.monotonic() + 60
        while len(seen) < 500 and time.monotonic() < end:
            one = page.read()
            values = {getattr(port, name) for port in one.ports for name in PortCounters.__slots__}
            assert values == {one.first_packet}
            seen |= values
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(seen) == 500


def test_a_page_that_never_holds_still_is_read_all_the_same() -> None:
    page = Page(1)
    reads = 0

    class Restless:
        """Its first word is another each time."""

        def __getitem__(self, place: Any) -> Any:
            nonlocal reads
            reads += place == 0
            return reads if place == 0 else [0] * (place.stop - place.start)

    real = np.frombuffer
    try:
        np.frombuffer = lambda *_: Restless()  # type: ignore[assignment]
        assert page.read().ports == (PortCounters(),)
    finally:
        np.frombuffer = real
    assert reads == 2 * TRIES


def killed_by(child: Any) -> int:
    """The signal that ends a process which does this."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        try:
            child()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def test_only_the_worker_can_write() -> None:
    """Control has it mapped to be read, and nobody can map it to be written any more, nor make it writable."""
    import ctypes

    from ixy_vfio.core import libc

    page = Page(1)
    address, size = page.range
    mine = libc.ffi.cast("char *", address)
    theirs = page._theirs.address
    assert killed_by(lambda: ctypes.memset(address, 1, 8)) == 0  # the control: where the worker writes
    assert libc.ffi.buffer(mine, 8)[:] == b"\x01" * 8
    assert killed_by(lambda: ctypes.memset(theirs, 2, 8)) == signal.SIGSEGV
    with pytest.raises(PermissionError):
        libc.mprotect(theirs, size, 3)
    page.hand_over()
    assert page.read().ports == (PortCounters(),)


def test_too_many_ports_are_refused() -> None:
    assert Page(MOST_PORTS).read().ports == (PortCounters(),) * MOST_PORTS
    assert SIZE == 4096
    with pytest.raises(UsageError, match=f"{MOST_PORTS} at most"):
        Page(MOST_PORTS + 1)
