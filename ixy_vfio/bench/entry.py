"""Entry points: what is measured is called by address, in one way, whoever compiled it."""

# mypy: disable-error-code="attr-defined,no-untyped-call,no-untyped-def,type-arg,misc,untyped-decorator"
# Numba's typing API is untyped.

from collections.abc import Callable
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
from numba import types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numpy.typing import NDArray

from ixy_vfio.bench import model
from ixy_vfio.core.cache import keep
from ixy_vfio.core.compiled import cache_directory, linked
from ixy_vfio.core.unsafe import records_at
from ixy_vfio.datapath.loop import LOOP

SIGNATURE = types.int64(types.uint64)


class Entry(types.WrapperAddressProtocol):
    """A function `int64_t f(uint64_t state)` at an address, that compiled code can call."""

    def __init__(self, address: int, keep: Any = None) -> None:
        self.address, self._keep = address, keep

    def __wrapper_address__(self) -> int:
        return self.address

    def signature(self) -> Any:
        """Its type, for Numba."""
        return SIGNATURE


def _call_loop(loop: Callable[[Any], Any], address: Any) -> Any:
    return loop(records_at(address, 1, LOOP))


def _step(address: Any) -> Any:
    return model.step(address)


def of_function(function: Callable[..., Any], *, cache: bool = True, key: str = "") -> Entry:
    """A plain function of an address, compiled. `key`: as in `compiled`."""
    made = CFunc(function, normalize_signature(SIGNATURE), {}, {})
    if cache:
        keep(made, function, cache_directory(function, key), key)
    made.compile()
    return Entry(int(made.address or 0), made)


def of_loop(function: Callable[[NDArray[Any]], int], name: str, *, cache: bool = True) -> Entry:
    """The forwarder's compiled loop, which `loop_for` made, as an entry. It is called, not inlined."""
    return of_function(linked(_call_loop, function), cache=cache, key=name)


def of_model() -> Entry:
    """The model's step."""
    return of_function(_step)
