"""Receive, send and free by arrays: uint32[2, count], indices and lengths, as tests hold a batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.ixgbe.batch import calls

Words = NDArray[np.uint32]


def receive_batch(queue: NDArray[Any], batch: Words) -> int:
    return calls().receive(queue.ctypes.data, batch.ctypes.data, batch.shape[1])


def send_batch(queue: NDArray[Any], batch: Words, count: int) -> int:
    return calls().send(queue.ctypes.data, batch.ctypes.data, batch.shape[1], count)


def free_batch(queue: NDArray[Any], batch: Words, count: int) -> int:
    return calls().free(int(queue["pool"][0]), batch.ctypes.data, batch.shape[1], count)
