"""How functions are compiled, and where the compiled code is kept between runs.

Numba's own cache looks at the file of the compiled function only: it notices neither a changed callee in another
file nor another NUMBA_BOUNDSCHECK. So each state of a file and of what it imports from this package has a cache
directory of its own, named by a digest of everything that can end up in the machine code.
"""

import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn, TypeVar, cast

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import llvmlite.binding
import numba
import numpy as np
from numba import njit, types
from numba.core.registry import CPUDispatcher

from ixy_vfio.core.cache import directory, keep

Function = TypeVar("Function", bound=Callable[..., Any])


PACKAGE = Path(__file__).parent.parent
_IMPORT = re.compile(r"^\s*(?:from|import) ixy_vfio((?:\.\w+)*)(?: import (\([^)]*\)|[^\n]*)|\s)", re.MULTILINE)


def _sources(start: Path) -> list[Path]:
    """The file and all that it imports from this package, directly or not."""
    found: set[Path] = set()
    pending = {start}
    while pending:
        path = pending.pop()
        found.add(path)
        for module, names in _IMPORT.findall(path.read_text()):
            place = PACKAGE.joinpath(*module.split(".")[1:])
            candidates = [place.with_suffix(".py"), place / "__init__.py"]
            candidates += [place / f"{name}.py" for name in re.findall(r"\w+", names)]
            pending |= {file for file in candidates if file.is_file()}
        pending -= found
    return sorted(found)


def _digest(start: Path) -> str:
    """A name for this state of a file and what it imports, of the compiler and of this CPU."""
    digest = hashlib.sha256()
    for path in _sources(start):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    for part in (
        numba.__version__,
        np.__version__,
        platform.python_version(),
        os.environ.get("NUMBA_CPU_NAME") or llvmlite.binding.get_host_cpu_name(),
        *(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")),
        str(sys.flags.optimize),  # without `assert`
    ):
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()[:24]


@functools.cache
def cache_directory(source: Path) -> Path | None:
    """Where the compiled functions of a source file are kept (`cache.directory`)."""
    return directory(_digest(source))


_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def _dispatcher(function: Callable[..., Any], cache: bool, **options: Any) -> Any:
    dispatcher = njit(**options)(function)
    if cache:
        keep(dispatcher, function, cache_directory(Path(cast(FunctionType, function).__code__.co_filename)))
    return dispatcher


def compiled(function: Function, *, cache: bool = True) -> Function:
    """Compile at the first call, without the GIL and with bounds checks; kept in the cache between runs."""
    return cast(Function, _dispatcher(function, cache, **_OPTIONS))


def entry_point(function: Callable[..., Any], parameters: int, *, cache: bool = True) -> Callable[..., int]:
    """A function of unsigned 64-bit integers that returns one, compiled at once, for short calls from Python.

    Called past the dispatcher, which looks up the types of the arguments, and with the GIL: a third of the price.
    """
    signature = types.uint64(*[types.uint64] * parameters)
    return cast(Callable[..., int], compiled_for(function, signature, cache=cache).entry_point)


def compiled_for(function: Callable[..., Any], signature: Any, *, cache: bool = True) -> Any:
    """Numba's result of compiling for one signature, at once; what it gives keeps the GIL."""
    dispatcher = _dispatcher(function, cache, **{**_OPTIONS, "nogil": False})
    dispatcher.compile(signature)
    return dispatcher.get_compile_result(signature)


class _Inner(CPUDispatcher):
    """A function without the wrapper that Python would call: a sixth of the time that the loop takes to compile."""

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        raise TypeError(f"{self.py_func.__name__}: only compiled functions can call it")


def inlined(function: Function) -> Function:
    """Compile into each of its compiled callers: the helpers of a hot loop. Python cannot call it."""
    dispatcher: Any = njit(**_OPTIONS, forceinline=True, no_cpython_wrapper=True)(function)  # type: ignore[call-overload]
    dispatcher.__class__ = _Inner  # Numba's own would jump to where there is no wrapper
    return cast(Function, dispatcher)


def rebound(function: Callable[..., Any], name: str, **names: Any) -> Any:
    """A copy of `function`, called `name`, with some of its global names bound to `names`; to be compiled.

    This is how an application's kernel gets inside a loop: a compiled function passed as an argument or held in a
    closure would be new to the cache in every process. `name` must tell apart everything that `names` may be.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"{name}: a plain function is needed, not {type(function).__name__}")
    copy = FunctionType(function.__code__, {**function.__globals__, **names}, name)
    copy.__qualname__ = name
    copy.__module__ = function.__module__
    return copy
