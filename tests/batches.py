"""Receive, send and free by arrays: uint32[2, count], indices and lengths, as tests hold a batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.datapath.batch import BATCH, calls, free
from ixy_vfio.drivers.ixgbe.format import FORMAT

Words = NDArray[np.uint32]


def batch_record(pool: int, batch: Words, count: int) -> NDArray[Any]:
    """The record of a batch that holds the first `count` packets of the arrays."""
    return np.array([(pool, batch.ctypes.data, batch.shape[1], count)], BATCH)


def receive_batch(queue: NDArray[Any], batch: Words) -> int:
    return calls(FORMAT).receive(queue.ctypes.data, batch_record(int(queue["pool"][0]), batch, 0).ctypes.data)


def send_batch(queue: NDArray[Any], batch: Words, count: int) -> int:
    return calls(FORMAT).send(queue.ctypes.data, batch_record(int(queue["pool"][0]), batch, count).ctypes.data)


def free_batch(queue: NDArray[Any], batch: Words, count: int) -> int:
    return free()(batch_record(int(queue["pool"][0]), batch, count).ctypes.data)
