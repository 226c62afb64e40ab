"""The forwarder's loop built anew with one thing changed, to see what that thing costs. Nobody should run these.

The modules of the data path are imported a second time, from the same files, with the change in force.
"""

# mypy: disable-error-code="type-arg,no-untyped-call,attr-defined"

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ixy_vfio.core import compiled as compiler

MODULES = ("ixy_vfio.core.unsafe", "ixy_vfio.datapath.pool", "ixy_vfio.datapath.rings", "ixy_vfio.datapath.loop")
Loop = Callable[[NDArray[Any]], int]


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


def _unchecked_atomics(unsafe: Any) -> None:
    load, store = unsafe._load_acquire, unsafe._store_release

    def load_acquire(array: Any, index: Any) -> Any:
        return load(array, np.intp(index))

    def store_release(array: Any, index: Any, value: Any) -> None:
        store(array, np.intp(index), value)

    unsafe.load_acquire = njit(inline="always")(load_acquire)
    unsafe.store_release = njit(inline="always")(store_release)


def _plain_access(unsafe: Any) -> None:
    def load_acquire(array: Any, index: Any) -> Any:
        return array[index]

    def store_release(array: Any, index: Any, value: Any) -> None:
        array[index] = value

    unsafe.load_acquire = compiler.inlined(load_acquire)
    unsafe.store_release = compiler.inlined(store_release)


# name -> (bounds checks of every array, change to the unsafe module)
VARIANTS: dict[str, tuple[bool, Callable[[Any], None] | None]] = {
    "no bounds checks": (False, _unchecked_atomics),
    "plain loads and stores": (True, _plain_access),
}


def loop_of(name: str, kernel: Callable[..., Any], kernel_name: str) -> Loop:
    """The loop of a variant. Kept in the cache by a name of its own; the other functions are not compiled alone."""
    checks, change = VARIANTS[name]
    key = hashlib.sha256(name.encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    with _second_copy() as fresh, _bounds_checks(checks):
        for module in MODULES:
            fresh[module] = importlib.import_module(module)
            if change is not None and module.endswith("unsafe"):
                change(fresh[module])
        forward = fresh["ixy_vfio.datapath.loop"]
        loop = forward.loop_for(kernel, f"{kernel_name}_variant_{key}")
        loop(np.zeros(1, forward.LOOP))  # no rounds: compiles
        return cast(Loop, loop)
