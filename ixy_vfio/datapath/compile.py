"""Compiles the loop with a kernel inside, before anything is touched."""

import inspect
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import numpy as np
from numba import types

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath import faults
from ixy_vfio.datapath.format import Meta
from ixy_vfio.datapath.forwarding import loop_for, program
from ixy_vfio.datapath.kernels import Kernel
from ixy_vfio.datapath.loop import LOOP, Formats
from ixy_vfio.datapath.program import Loop, Program, Way

META: Any = types.NamedUniTuple(types.uint64, len(Meta._fields), Meta)  # type: ignore[no-untyped-call]


def moving(formats: Formats, kernel: Kernel, ways: tuple[Way, ...], batch: int, notes: list[str]) -> Program:
    """The program that moves packets these ways, compiled. Raises as `forwarding_loop` does."""
    loop = forwarding_loop(formats, kernel, notes)
    slow = "" if kernel.shipped else faults.of_time(kernel.function)
    return program(loop, ways, batch, kernel.name, slow)


def forwarding_loop(formats: Formats, kernel: Kernel, notes: list[str] | None = None) -> Loop:
    """The loop, compiled (or loaded from the cache). UsageError when the kernel cannot be compiled.

    What there is to say of the kernel, a line each, is added to `notes`.
    """
    told = [kernel.note]
    if not kernel.shipped:
        told.append(check(kernel))
    if notes is not None:
        notes += filter(None, told)
    loop = loop_for(formats, kernel.function, kernel.key or "", cache=kernel.key is not None)
    loop(np.zeros(1, LOOP))  # no rounds: compiles, and does nothing
    return loop


def check(kernel: Kernel) -> str:
    """UsageError, of one line, unless the kernel takes what kernels are given, compiles, and returns a verdict.

    Nor may it do what a sealed worker is killed for. Returns what makes it slow, if something does.
    """
    function = kernel.function
    parameters = len(inspect.signature(function).parameters) if inspect.isfunction(function) else 0
    if not inspect.isfunction(function) or parameters not in (2, 3):
        what = "a plain function (without @njit) of (packet, length) or (packet, length, meta)"
        raise UsageError(f"kernel {kernel.name}: it must be {what}")
    compiled: Any = inlined(function)
    try:
        compiled.compile((types.uint8[::1], types.uint64, META)[:parameters])
    except Exception as error:  # Numba's own, and whatever else its passes stumble over
        raise UsageError(f"kernel {kernel.name} does not compile: {faults.of_compiler(function, error)}") from None
    result = compiled.nopython_signatures[0].return_type
    if not isinstance(result, types.Boolean | types.BooleanLiteral | types.Integer):
        what = "a generator" if isinstance(result, types.Generator) else result
        raise UsageError(f"kernel {kernel.name}: it must return True, False or a verdict, not {what}")
    assembly = compiled.overloads[compiled.signatures[0]].library.get_llvm_str()
    wrong = faults.of_sealed_worker(function, assembly)
    if wrong:
        raise UsageError(f"kernel {kernel.name}: {wrong}")
    slow = faults.of_speed(function, assembly)
    return f"kernel {kernel.name}: {slow}" if slow else ""
