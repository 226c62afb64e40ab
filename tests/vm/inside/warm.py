"""Compiles what `ixy-vfio forward` runs, or loads it: on the host for guests, in a guest before a fork."""

import numpy as np
from numba import typeof

from ixy_vfio.apps import compile as compiler
from ixy_vfio.apps import kernels
from ixy_vfio.ixgbe.datapath import QUEUE, arm


def main() -> None:
    """The loop, and what fills a receive ring."""
    compiler.forwarding_loop(kernels.load("none"))
    arm.compile((typeof(np.zeros(1, QUEUE)),))  # type: ignore[attr-defined, no-untyped-call]


if __name__ == "__main__":
    main()
