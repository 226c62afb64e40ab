"""Compiles the forwarding loop with a kernel inside, before anything is touched."""

import inspect
from collections.abc import Callable
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import numba.core.errors
import numpy as np
from numba import types
from numpy.typing import NDArray

from ixy_vfio.apps.kernels import SHIPPED, Kernel
from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.ixgbe.forward import LOOP, loop_for
from ixy_vfio.netdev import Meta

META: Any = types.NamedUniTuple(types.uint64, len(Meta._fields), Meta)  # type: ignore[no-untyped-call]


def forwarding_loop(kernel: Kernel) -> Callable[[NDArray[Any]], int]:
    """The loop, compiled (or loaded from the cache). UsageError when the kernel cannot be compiled."""
    if SHIPPED.get(kernel.name) is not kernel.function:
        check(kernel)
    loop = loop_for(kernel.function, kernel.key)
    loop(np.zeros(1, LOOP))  # no rounds: compiles, and does nothing
    return loop


def check(kernel: Kernel) -> None:
    """UsageError, of one line, unless the kernel takes what kernels are given, compiles, and returns a bool."""
    parameters = len(inspect.signature(kernel.function).parameters) if inspect.isfunction(kernel.function) else 0
    if parameters not in (2, 3):
        raise UsageError(
            f"kernel {kernel.name}: it must be a plain function of (packet, length) or (packet, length, meta)"
        )
    compiled: Any = inlined(kernel.function)
    try:
        compiled.compile((types.uint8[::1], types.uint64, META)[:parameters])
    except numba.core.errors.NumbaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith(("Failed in", "During:"))] or lines
        raise UsageError(f"kernel {kernel.name} does not compile: {said[0]}") from None
    result = compiled.nopython_signatures[0].return_type
    if not isinstance(result, types.Boolean | types.BooleanLiteral | types.Integer):
        raise UsageError(f"kernel {kernel.name}: it must return True or False, not {result}")
