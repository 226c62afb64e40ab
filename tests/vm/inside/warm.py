"""Compiles what `ixy-vfio forward` and the Python API run, or loads it: for guests, or in one before a fork."""

from typing import Any

import numpy as np
from numba import typeof

from ixy_vfio.datapath import batch, kernels
from ixy_vfio.datapath import compile as compiler
from ixy_vfio.datapath.queue import calls_for
from ixy_vfio.datapath.rings import QUEUE
from ixy_vfio.drivers.ixgbe.format import FORMAT


def main() -> None:
    """The loop, what fills a receive ring, what counts bytes, and what receives and sends a batch."""
    compiler.forwarding_loop(FORMAT, kernels.load("none"))
    batch.calls(FORMAT)
    batch.free()
    queue = (typeof(np.zeros(1, QUEUE)),)  # type: ignore[no-untyped-call]
    function: Any
    for function in calls_for(FORMAT):
        function.compile(queue)


if __name__ == "__main__":
    main()
