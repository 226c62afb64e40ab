"""Compiles what `ixy-vfio forward` and the Python API run, or loads it: for guests, or in one before a fork."""

import numpy as np
from numba import typeof

from ixy_vfio.datapath import batch, kernels
from ixy_vfio.datapath import compile as compiler
from ixy_vfio.datapath.rings import QUEUE, arm, bytes_of


def main() -> None:
    """The loop, what fills a receive ring, what counts bytes, and what receives and sends a batch."""
    compiler.forwarding_loop(kernels.load("none"))
    batch.calls()
    queue = (typeof(np.zeros(1, QUEUE)),)  # type: ignore[no-untyped-call]
    arm.compile(queue)  # type: ignore[attr-defined]
    bytes_of.compile(queue)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
