"""The forwarder's loop with one protection less, to see what that protection costs. Nobody should run these.

Another format is linked to the loop. Bounds checks are an option of the compiler, so the modules of the data path are
imported a second time, from the same files, with the option off.
"""

# mypy: disable-error-code="type-arg,no-untyped-call,attr-defined,call-arg"

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from ixy_vfio.core import compiled as compiler
from ixy_vfio.core import unsafe
from ixy_vfio.core.unsafe import words32_at
from ixy_vfio.datapath.format import Format
from ixy_vfio.datapath.loop import LOOP, Loop
from ixy_vfio.drivers import intel

U = np.uint64

MODULES = (
    "ixy_vfio.datapath.pool",
    "ixy_vfio.datapath.rings",
    "ixy_vfio.datapath.loop",
    "ixy_vfio.datapath.forwarding",
    "ixy_vfio.drivers.intel",
    "ixy_vfio.drivers.ixgbe.format",
)


@contextmanager
def _bounds_checks(on: bool) -> Iterator[None]:
    before = compiler._OPTIONS["boundscheck"]
    compiler._OPTIONS["boundscheck"] = on
    try:
        yield
    finally:
        compiler._OPTIONS["boundscheck"] = before


@contextmanager
def _second_copy() -> Iterator[dict[str, Any]]:
    """The modules, to be imported again in this order; afterwards the first copies are back in their places."""
    parents = {name: sys.modules[name.rpartition(".")[0]] for name in MODULES}
    saved = {name: importlib.import_module(name) for name in MODULES}
    fresh: dict[str, Any] = {}
    try:
        for name in MODULES:
            del sys.modules[name]
        yield fresh
    finally:
        for name, module in saved.items():
            sys.modules[name] = module
            setattr(parents[name], name.rpartition(".")[2], module)


def _with(format: Format, load: Callable[[Any, Any], Any], store: Callable[[Any, Any, Any], None]) -> Format:
    """The format with other loads of what a device writes last, and other stores to doorbells."""

    @compiler.inlined
    def report(ring: Any, at: Any) -> Any:
        return load(ring, at + U(1))

    @compiler.inlined
    def sent(ring: Any, at: Any) -> Any:
        return load(ring, at + U(1)) & intel.TX_DD != U(0)

    @compiler.inlined
    def bell_given(doorbell: Any, given: Any, size: Any) -> None:
        store(words32_at(doorbell, 1), 0, np.uint32((given - U(1)) & (size - U(1))))

    @compiler.inlined
    def bell_filled(doorbell: Any, tail: Any) -> None:
        store(words32_at(doorbell, 1), 0, np.uint32(tail))

    return format._replace(report=report, sent=sent, bell_given=bell_given, bell_filled=bell_filled)


def _unchecked(format: Format) -> Format:
    @compiler.merged
    def load(array: Any, index: Any) -> Any:
        return unsafe._load_acquire(array, np.intp(index))

    @compiler.merged
    def store(array: Any, index: Any, value: Any) -> None:
        unsafe._store_release(array, np.intp(index), value)

    return _with(format, load, store)


def _plain(format: Format) -> Format:
    @compiler.inlined
    def load(array: Any, index: Any) -> Any:
        return array[index]

    @compiler.inlined
    def store(array: Any, index: Any, value: Any) -> None:
        array[index] = value

    return _with(format, load, store)


# name -> (bounds checks of every array, change to the format)
VARIANTS: dict[str, tuple[bool, Callable[[Format], Format]]] = {
    "no bounds checks": (False, _unchecked),
    "plain loads and stores": (True, _plain),
}


def loop_of(name: str, kernel: Callable[..., Any], kernel_name: str) -> Loop:
    """The loop of a variant. Kept in the cache by a key of its own; the other functions are not compiled alone."""
    checks, change = VARIANTS[name]
    with _second_copy() as fresh, _bounds_checks(checks):
        for module in MODULES:
            fresh[module] = importlib.import_module(module)
        format = change(fresh["ixy_vfio.drivers.ixgbe.format"].FORMAT)
        loops = fresh["ixy_vfio.datapath.forwarding"]
        loop = loops.loop_for(loops.Formats(format, format), kernel, f"{kernel_name} {name}")
        loop(np.zeros(1, LOOP))  # no rounds: compiles
        return cast(Loop, loop)
