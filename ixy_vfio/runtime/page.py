"""What a worker has counted: a page of its own, which others read at any time, and only it can write.

The worker copies its numbers into the page once a look-up. So nobody has to ask it for them, and the last ones survive
a worker that was killed. The loop's live record, which is made of addresses and indices, is never shared.

The page has two copies, and before them a word: the number of copies made. Copy n lies in half n % 2. A reader who
finds the same number before and after has read a whole copy, as the worker writes the other half meanwhile. What is
read are a stranger's numbers: they are shown, and nothing else.
"""

import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core import libc
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.memory import Mapping
from ixy_vfio.datapath.queue import PortCounters, QueuePair

SIZE = 4096
PORT = len(PortCounters.__slots__)  # words
_HALF = SIZE // 8 // 2  # words; the first of half 0 is the number of copies, that of half 1 is not used
_FIRST = 4  # where the first port's words begin in a half
MOST_PORTS = (_HALF - _FIRST) // PORT
TRIES = 100  # a worker copies once a millisecond, a copy takes a microsecond to read
_F_ADD_SEALS, _F_SEAL_FUTURE_WRITE = 1033, 0x10  # include/uapi/linux/fcntl.h
_SEALS = 0x1 | 0x2 | 0x4 | _F_SEAL_FUTURE_WRITE  # no more seals, shrinking, growing, and no new way to write


@dataclass(frozen=True, slots=True)
class Counted:
    """One copy of a worker's numbers. Times are CLOCK_MONOTONIC in nanoseconds."""

    at: int = 0  # when it was made; 0: never
    waiting: bool = False  # for more packets to be granted: no newer copy comes before
    first_packet: int = 0  # when the first one was seen; 0: none was
    ports: tuple[PortCounters, ...] = ()


class Page:
    """The page of one worker. Made by control before the fork."""

    def __init__(self, ports: int) -> None:
        """UsageError for too many ports, SystemRefused for what the kernel refuses."""
        if ports > MOST_PORTS:
            raise UsageError(f"{ports} ports in one run: {MOST_PORTS} at most")
        self._ports = ports
        with libc.needed("memfd_create"):
            fd = os.memfd_create("ixy_counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SIZE)
            self._mine = Mapping(fd, SIZE)
            with libc.needed("fcntl(F_ADD_SEALS)"):
                fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
            self._theirs = Mapping(fd, SIZE, write=False)
        finally:
            os.close(fd)
        self._words: NDArray[np.uint64] = np.frombuffer(self._mine.view, np.uint64)
        self._number = 0

    @property
    def range(self) -> tuple[int, int]:
        """Address and size of what the worker writes."""
        return self._mine.address, SIZE

    def publish(self, pairs: Sequence[QueuePair], first_packet: int, waiting: bool) -> None:
        """The worker's: make a copy of what was counted."""
        number = self._number + 1
        start = number % 2 * _HALF
        words = self._words
        words[start + 1 : start + _FIRST] = time.monotonic_ns(), waiting, first_packet
        for place, pair in enumerate(pairs):
            begin = start + _FIRST + place * PORT
            pair.count(words[begin : begin + PORT])
        words[0] = self._number = number  # after the copy: x86-64 keeps the order of stores

    def hand_over(self) -> None:
        """Control's: the worker alone writes from here on."""
        self._words = np.zeros(0, np.uint64)
        self._mine.close()

    def read(self) -> Counted:
        """The newest whole copy. Of a page that never holds still, the last try: its numbers are made up anyway."""
        words = np.frombuffer(self._theirs.view, np.uint64)
        for _ in range(TRIES):
            number = int(words[0])
            start = number % 2 * _HALF
            at, waiting, first, *counted = map(int, words[start + 1 : start + _FIRST + self._ports * PORT])
            if int(words[0]) == number:
                break
        ports = (PortCounters(*counted[place : place + PORT]) for place in range(0, len(counted), PORT))
        return Counted(at, bool(waiting), first, tuple(ports))

    def close(self) -> None:
        """Control's: nobody reads it any more."""
        self._theirs.close()
