"""The forwarding loop, compiled with formats and a kernel inside; its record; and the programs that are made of it."""

# mypy: disable-error-code="type-arg"

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.bound import Entry, bindable
from ixy_vfio.core.compiled import compiled, inlined, linked
from ixy_vfio.core.unsafe import records_at
from ixy_vfio.datapath.format import Meta
from ixy_vfio.datapath.loop import LOOP, Formats, Work, forward
from ixy_vfio.datapath.program import Loop, Program, Way
from ixy_vfio.datapath.queue import QueuePair

PATIENCE = 1000  # empty rounds before a call returns: some tens of microseconds


def work_of(function: Callable[..., Any]) -> Work:
    """A kernel as the loop calls it: one of two parameters is called without the metadata."""
    kernel = inlined(function)
    if len(inspect.signature(function).parameters) != 2:
        return kernel

    def without_meta(packet: Any, length: Any, meta: Meta) -> Any:
        return kernel(packet, length)

    return inlined(without_meta)


def loop_for(formats: Formats, function: Callable[..., Any], key: str, *, cache: bool = True) -> Loop:
    """The loop of two formats with a kernel inside. Compiled at the first call; `key` tells a user's kernel apart."""
    return compiled(linked(forward, formats, work_of(function)), cache=cache, key=key)


def _call(loop: Loop, address: Any) -> Any:
    return loop(records_at(address, 1, LOOP))


@functools.lru_cache(maxsize=16)
def call_for(formats: Formats, function: Callable[..., Any]) -> Entry:
    """The loop as a function of the address of its LOOP: for short calls from Python."""
    return bindable(linked(_call, loop_for(formats, function, "", cache=False)), cache=False)


def loop_state(
    a: QueuePair, b: QueuePair, batch: int, both: bool = True, limit: int = 0, widest: int = 1
) -> tuple[NDArray[Any], Any]:
    """The loop's record, and what it points to (to be kept as long as the record)."""
    state: NDArray[Any] = np.zeros(1, LOOP)
    values = {
        "a": a.address,
        "b": b.address,
        "both": both,
        "batch": batch,
        "widest": widest,
        "rounds": 1000,
        "patience": PATIENCE,
        "limit": limit,
    }
    for name, value in values.items():
        state[name] = value
    return state, (a, b)


THERE, BACK, HOME = Way(0, 1), Way(1, 0), Way(0, 0)


def program(loop: Loop, ways: tuple[Way, ...], batch: int, name: str, slow: str = "") -> Program:
    """One that moves packets: THERE, THERE and BACK between two ports, or HOME, by the one that they came from."""

    def record(pairs: Sequence[QueuePair], widest: int) -> tuple[NDArray[Any], Any]:
        return loop_state(pairs[0], pairs[ways[0].target], batch, BACK in ways, widest=widest)

    return Program(name, 1 + max(way.target for way in ways), ways, loop, record, batch, slow)
