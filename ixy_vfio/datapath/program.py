"""What an application runs in its workers, described once.

A program is a compiled loop over queue pairs, one of each port, and all that others have to know of it. Control,
worker, table, summary and JSON read this description. None of them knows an application.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ixy_vfio.datapath.queue import QueuePair

RUN = (  # what the record of every program begins with: what a worker asks of a call, and is told by it
    ("rounds", "<u8"),  # how often to poll each queue before returning
    ("patience", "<u8"),  # return after this many rounds in a row without a packet
    ("limit", "<u8"),  # return when so many packets have been received in all; 0: no limit
    ("received", "<u8"),  # packets received so far
)

Loop = Callable[[NDArray[Any]], int]  # of an array of one record; returns the packets received in this call
Record = Callable[[Sequence[QueuePair], int], tuple[NDArray[Any], Any]]


class Way(NamedTuple):
    """Where packets come from, and where they go: places in a program's list of ports."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Program:
    """An application's part in a worker."""

    name: str  # of its kernel, for messages and the summary
    ports: int
    ways: tuple[Way, ...]  # each port is the source of one way at most, and the target of one at most
    loop: Loop  # compiled already: a sealed worker can compile nothing
    record: Record
    """record(pairs, widest): an array of one record for these queue pairs, and what must live as long as it does. The
    longest packet takes `widest` descriptors."""
    batch: int  # packets a step at most
    slow: str = ""  # where its kernel spends its time, should it take too much; "" of one that cannot
