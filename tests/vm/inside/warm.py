"""Compiles what `ixy-vfio forward` and the Python API run, or loads it: for guests, or in one before a fork."""

from typing import Any

import numpy as np
from numba import typeof

from ixy_vfio.datapath import batch, kernels
from ixy_vfio.datapath import compile as compiler
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.queue import calls_for
from ixy_vfio.datapath.rings import QUEUE
from ixy_vfio.drivers.igb.format import FORMAT as IGB
from ixy_vfio.drivers.ixgbe.format import FORMAT as IXGBE


def main() -> None:
    """The loop, what fills a receive ring, what counts, and what receives and sends a batch; for each format."""
    queue, numbers = (typeof(one) for one in (np.zeros(1, QUEUE), np.zeros(9, np.uint64)))  # type: ignore[no-untyped-call]
    for descriptors in (IXGBE, IGB):
        compiler.forwarding_loop(Formats(descriptors, descriptors), kernels.load("none"))
        batch.calls(descriptors)
        calls: Any = calls_for(descriptors)
        calls.fill.compile((queue,))
        calls.counted.compile((queue, numbers))
    batch.free()


if __name__ == "__main__":
    main()
