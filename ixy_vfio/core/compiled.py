"""How functions are compiled, and where the compiled code is kept between runs.

Numba's own cache looks at the file of the compiled function only: it notices neither a changed callee in another
file nor another NUMBA_BOUNDSCHECK. So each state of the package has a cache directory of its own, named by a
digest of everything that ends up in the machine code.
"""

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
import numpy as np
from numba import njit
from numba.core import config

Function = TypeVar("Function", bound=Callable[..., Any])


def _digest() -> str:
    """A name for this state of the package, of its compiler and of this CPU."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    for part in (
        numba.__version__,
        np.__version__,
        platform.python_version(),
        llvmlite.binding.get_host_cpu_name(),
        os.environ.get("NUMBA_CPU_NAME", ""),
        os.environ.get("NUMBA_BOUNDSCHECK", ""),
    ):
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()[:24]


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/ixy_vfio/DIGEST (or under ~/.cache); a temporary directory where that cannot be had.

    What is loaded from it is executed: a directory that somebody else could have written to is not used.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = Path(home) / "ixy_vfio" / _digest()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & 0o022 and os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="ixy_vfio-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


config.CACHE_DIR = str(cache_directory())  # type: ignore[attr-defined]  # Numba defines it at run time

_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": True, "error_model": "numpy"}


def compiled(function: Function, *, cache: bool = True) -> Function:
    """Compile at the first call, without the GIL and with bounds checks; kept in the cache between runs."""
    return cast(Function, njit(cache=cache, **_OPTIONS)(function))


def inlined(function: Function) -> Function:
    """Compile into each of its compiled callers: the helpers of a hot loop."""
    return cast(Function, njit(forceinline=True, **_OPTIONS)(function))


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
