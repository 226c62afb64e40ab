"""Memory with pages around it that must not be touched: a read or a write beyond its end kills the process."""

# mypy: disable-error-code="type-arg"

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tests.model_nic import ArrayMemory

PAGE = mmap.PAGESIZE
CANARY = 0xEE
_libc = ctypes.CDLL(None, use_errno=True)


class Fence(ArrayMemory):
    """`size` bytes that end where a page begins that must not be touched; canaries and such a page lie before them."""

    def __init__(self, size: int) -> None:
        inner = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, inner + 2 * PAGE)
        whole: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        start = PAGE + (inner - size) // 64 * 64  # as near to the end as lines of the cache let it be
        whole[PAGE : PAGE + inner] = CANARY
        super().__init__(whole[start : start + size])
        self.array[:] = 0
        self._around = (whole[PAGE:start], whole[start + size : PAGE + inner])
        for at in (0, PAGE + inner):
            if _libc.mprotect(ctypes.c_void_p(whole.ctypes.data + at), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    @property
    def whole(self) -> bool:
        """Whether nobody has written to what lies around it on its own pages."""
        return all(bool((part == CANARY).all()) for part in self._around)


class Fences:
    """Makes `np.zeros` give fenced memory, for the arrays that the driver makes itself."""

    def __init__(self) -> None:
        self.all: list[Fence] = []

    def new(self, size: int) -> Fence:
        self.all.append(Fence(size))
        return self.all[-1]

    def array(self, of: NDArray[Any]) -> NDArray[Any]:
        """A fenced copy."""
        copy = self.new(of.nbytes).array.view(of.dtype).reshape(of.shape)
        copy[...] = of
        return copy

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        plain = np.zeros

        def zeros(shape: Any, dtype: Any = float, **more: Any) -> NDArray[Any]:
            return self.array(plain(shape, dtype, **more))

        with mock.patch.object(np, "zeros", zeros):
            yield

    def check(self) -> None:
        assert all(one.whole for one in self.all), "bytes around the driver's memory were written to"
