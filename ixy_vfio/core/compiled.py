"""How functions are compiled and linked, and where the compiled code is kept between runs.

Linking. A loop works with a format and a kernel that it does not know. They are its first parameters, as in any other
function: a NamedTuple of functions, or a function. `linked` gives these parameters their values before the compiler
runs. The compiler then has a type for each of these functions, calls it directly, and puts it inside. There is no other
way in which compiled functions of this package come together, and mypy sees both sides of each call.

Cache. Numba's own looks at the file of the compiled function only: it notices neither a changed callee in another
file nor another NUMBA_BOUNDSCHECK. So each state of what is compiled has a cache directory of its own, named by a
digest of everything that can end up in the machine code: the files of the function and of all that is linked to it,
the files that those import from this package, and the constants that they hold.
"""

import functools
import hashlib
import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
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


def _digest(starts: frozenset[Path], constants: tuple[str, ...]) -> str:
    """A name for this state of files and what they import, of constants, of the compiler and of this CPU."""
    digest = hashlib.sha256()
    for path in sorted(set().union(*map(_sources, starts))):
        digest.update(f"{path.relative_to(PACKAGE.parent)}\0".encode() + path.read_bytes())
    for part in (
        *constants,
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
def directory_for(files: frozenset[Path], constants: tuple[str, ...] = ()) -> Path | None:
    """Where code is kept that is made of these files, of what they import from this package, and of constants."""
    return directory(_digest(files, constants))


def _held(value: Any, start: bool = True) -> Iterator[Any]:
    """What a function was linked from, however deep: functions and constants. Not what another's function holds."""
    function = value.py_func if isinstance(value, CPUDispatcher) else value
    if isinstance(function, FunctionType):
        yield function
        if start or _is_ours(function):
            for cell in function.__closure__ or ():
                yield from _held(cell.cell_contents, False)
    elif isinstance(value, tuple):
        for one in value:
            yield from _held(one, False)
    else:
        yield value


def _file(function: FunctionType) -> Path:
    return Path(function.__code__.co_filename)


def _is_ours(function: FunctionType) -> bool:
    return _file(function).is_relative_to(PACKAGE)


def cache_directory(function: Callable[..., Any], key: str = "") -> Path | None:
    """Where the compiled code of a function, with all that is linked to it, is kept (`cache.directory`).

    A function of this package is known by its file. TypeError when one of somebody else's, like a user's kernel, is
    linked to it, and there is no `key` that tells it apart.
    """
    files, constants = set(), []
    for one in _held(function):
        if not isinstance(one, FunctionType):
            constants.append(f"{type(one).__name__} {one!r}")
        elif one is function or _is_ours(one):
            files.add(_file(one))
            constants.append(one.__qualname__)
        elif not key:
            raise TypeError(f"{one.__name__}, of {_file(one)}: compiled code of another's is kept by a key only")
    return directory_for(frozenset(files), tuple(constants))


_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def linked(function: Callable[..., Any], *parts: Any) -> Callable[..., Any]:
    """`function` with its first parameters, `parts`, given: a plain function of the others, to be compiled.

    One or two parts, and one or two others. A part is a number, an `inlined` function, or a tuple of such. What it
    holds must never change.
    """
    whole: Any = merged(function)
    part, other = (*parts, None)[:2]

    def of_one(argument: Any) -> Any:
        return whole(part, argument)

    def of_two(first: Any, second: Any) -> Any:
        return whole(part, first, second)

    def of_one_with_two(argument: Any) -> Any:
        return whole(part, other, argument)

    made: dict[tuple[int, int], Callable[..., Any]] = {(1, 1): of_one, (1, 2): of_two, (2, 1): of_one_with_two}
    call = made[len(parts), len(inspect.signature(function).parameters) - len(parts)]
    call.__name__ = call.__qualname__ = function.__name__
    call.__module__ = function.__module__
    return call


def merged(function: Function) -> Function:
    """Compile as statements of each of its compiled callers. `inlined` becomes a function first, and then a part."""
    return cast(Function, njit(**_OPTIONS, inline="always")(function))


def _dispatcher(function: Callable[..., Any], cache: bool, key: str, **options: Any) -> Any:
    dispatcher = njit(**options)(function)
    if cache:
        keep(dispatcher, function, cache_directory(function, key), key)
    return dispatcher


def compiled(function: Function, *, cache: bool = True, key: str = "") -> Function:
    """Compile at the first call, without the GIL and with bounds checks; kept in the cache between runs.

    `key` tells apart what `cache_directory` cannot.
    """
    return cast(Function, _dispatcher(function, cache, key, **_OPTIONS))


def entry_point(function: Callable[..., Any], parameters: int, *, cache: bool = True) -> Callable[..., int]:
    """A function of unsigned 64-bit integers that returns one, compiled at once, for short calls from Python.

    Called past the dispatcher, which looks up the types of the arguments, and with the GIL: a third of the price.
    """
    signature = types.uint64(*[types.uint64] * parameters)
    return cast(Callable[..., int], compiled_for(function, signature, cache=cache).entry_point)


def compiled_for(function: Callable[..., Any], signature: Any, *, cache: bool = True) -> Any:
    """Numba's result of compiling for one signature, at once; what it gives keeps the GIL."""
    dispatcher = _dispatcher(function, cache, "", **{**_OPTIONS, "nogil": False})
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
