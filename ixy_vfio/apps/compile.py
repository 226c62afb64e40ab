"""Compiles the forwarding loop with a kernel inside, before anything is touched."""

from collections.abc import Callable
from typing import Any

import numba.core.errors
import numpy as np
from numba import types
from numpy.typing import NDArray

from ixy_vfio.apps.kernels import Kernel
from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.ixgbe.forward import LOOP, loop_for


def forwarding_loop(kernel: Kernel) -> Callable[[NDArray[Any]], int]:
    """The loop, compiled (or loaded from the cache). UsageError when the kernel cannot be compiled."""
    loop = loop_for(kernel.function, kernel.key)
    try:
        loop(np.zeros(1, LOOP))  # no rounds: compiles, and does nothing
    except numba.core.errors.NumbaError:
        raise UsageError(_why(kernel)) from None
    return loop


def _why(kernel: Kernel) -> str:
    """One line on what is wrong with a kernel."""
    try:
        inlined(kernel.function).compile((types.uint8[::1], types.uint64))  # type: ignore[attr-defined]
    except numba.core.errors.NumbaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith(("Failed in", "During:"))] or lines
        return f"kernel {kernel.name} does not compile: {said[0]}"
    return f"kernel {kernel.name}: it must take (packet, length) and return True or False"
