"""What sealing costs: the same measurement in a forked process that gave up its rights, and in one that did not."""

# mypy: disable-error-code="type-arg"

import mmap
import os
import socket

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.bench import measure
from ixy_vfio.bench.clock import frequency
from ixy_vfio.bench.sides import Product
from ixy_vfio.core.errors import IxyError
from ixy_vfio.runtime import sandbox


def _child(side: Product, sealed: bool, shared: mmap.mmap) -> int:
    """ns a packet, measured in a child; it writes the number to shared memory, for it has no other way out."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            out: NDArray[np.float64] = np.frombuffer(shared, np.float64)
            if sealed:
                sandbox.seal([theirs.fileno()], [(int(out.ctypes.data), 4096), _memory(side)], parent, None)
            measure.sample(side)
            for i in range(len(out)):
                out[i] = measure.sample(side)
            status = 0
        finally:
            os._exit(status)
    ours.close()
    theirs.close()
    return os.waitpid(pid, 0)[1]


def _memory(side: Product) -> tuple[int, int]:
    return side.memory.address, side.memory.size


def compare(side: Product, rounds: int) -> NDArray[np.float64]:
    """ns a packet [round, (not sealed, sealed)]; a pair of children a round."""
    frequency()
    result = np.zeros((rounds, 2))
    with mmap.mmap(-1, 4096) as shared:
        for i in range(rounds):
            for sealed in (i % 2, 1 - i % 2):
                if _child(side, bool(sealed), shared) != 0:
                    raise IxyError("the measurement in a sealed process failed")
                values = np.frombuffer(shared, np.float64, 25).copy()
                result[i, sealed] = np.median(values)
    return result
