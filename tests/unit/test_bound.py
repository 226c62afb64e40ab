"""Functions of no arguments, bound to an address: what they return, raise, and keep alive."""

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.bound import bindable
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.unsafe import words64_at


def _next(address: Any) -> Any:
    words = words64_at(address, 2)
    words[0] += np.uint64(1)
    if words[0] == words[1]:
        raise UsageError("no more")
    return words[0]


ENTRY = bindable(_next, cache=False)


class Kept:
    """Something that can be seen to go."""


def counter(start: int, end: int) -> tuple[Any, Any]:
    words = np.array([start, end], np.uint64)
    return words, ENTRY.bind(int(words.ctypes.data), words)


def test_it_works_on_its_address() -> None:
    words, one = counter(0, 0)
    _, other = counter((1 << 64) - 3, 0)
    assert [one(), one(), other(), one(), other()] == [1, 2, (1 << 64) - 2, 3, (1 << 64) - 1]
    assert ENTRY.call(int(words.ctypes.data)) == 4


def test_it_takes_no_arguments() -> None:
    _, one = counter(0, 0)
    with pytest.raises(TypeError):
        one(1)


def test_it_raises_what_the_compiled_code_raises_and_goes_on() -> None:
    _, one = counter(0, 2)
    assert one() == 1
    with pytest.raises(UsageError, match=r"^no more$"):
        one()
    assert one() == 3


def test_it_keeps_what_it_needs_as_long_as_it_lives() -> None:
    words, kept = np.zeros(2, np.uint64), Kept()
    gone = weakref.ref(kept)
    one = ENTRY.bind(int(words.ctypes.data), (words, kept))
    del kept
    gc.collect()
    assert gone() is not None
    del one
    gc.collect()
    assert gone() is None


def test_no_reference_is_lost_or_left() -> None:
    words, one = counter(10**6, 2 * 10**6)
    before = sys.getrefcount(words), sys.getallocatedblocks()
    for _ in range(10_000):
        one()
    words[1] = words[0] + np.uint64(1)
    for _ in range(1000):
        words[0] = words[1] - np.uint64(1)
        with pytest.raises(UsageError):
            one()
    gc.collect()
    assert sys.getrefcount(words) == before[0]
    assert sys.getallocatedblocks() - before[1] < 1000  # less than one for each call that raised
