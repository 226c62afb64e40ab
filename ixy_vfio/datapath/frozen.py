"""What the compiler freezes of a kernel: every value that its machine code will hold, as a digest.

Numba takes the values of globals, closures and default arguments when it compiles, and the code of every function that
is called. Code that was compiled with other values must not be loaded from the cache: a filter would go on with an old
rule. So the user's file is run at each start, as ever, and its *values* make the key: where they came from (another
module, a file, the environment) does not matter. What cannot be compared makes the kernel one that is not kept.
"""

import builtins
import enum
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.core.typing.templates import builtin_registry

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...))
_COMPILER = ("numba", "llvmlite", "numpy", "math", "cmath", "operator", "builtins", "random", "itertools")
MOST = 100_000  # values; who has more of them is compiled anew


class Uncertain(Exception):
    """A value that cannot be compared between runs; the message says which."""


def extensions() -> int:
    """How many extensions of the compiler there are. Code that they bring does not show in a kernel's values."""
    return len(builtin_registry.functions) + len(builtin_registry.attributes) + len(builtin_registry.globals)


def code_of(function: Any) -> FunctionType | None:
    """The Python function behind what Numba compiles; None where there is none."""
    while isinstance(function, Dispatcher):
        function = function.py_func
    return function if isinstance(function, FunctionType) else None


def names_in(code: CodeType) -> set[str]:
    """All names of globals and attributes, of functions inside it as well."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names_in(constant)
    return found


def used_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values that its code may use: globals, what it was closed over, defaults, attributes of modules."""
    names = names_in(function.__code__)
    for name in sorted(names & function.__globals__.keys()):
        yield name, function.__globals__[name]
    for name in sorted(names - function.__globals__.keys()):
        if not hasattr(builtins, name):
            continue
        yield name, getattr(builtins, name)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            yield name, None
    yield "defaults", function.__defaults__
    yield "defaults", tuple(sorted((function.__kwdefaults__ or {}).items()))


def functions(function: FunctionType) -> list[FunctionType]:
    """The function and all plain or compiled ones that it may call, outside of packages of the compiler's."""
    found = [function]
    for one in found:
        for _, value in used_by(one):
            values = [value]
            if isinstance(value, ModuleType) and not _of_compiler(value.__name__):
                values = [getattr(value, name, None) for name in names_in(one.__code__)]
            for each in values:
                called = code_of(each)
                if called is not None and called not in found and not _of_compiler(called.__module__):
                    found.append(called)
    return found


def digest(function: Callable[..., Any]) -> str:
    """The key of a kernel. Raises Uncertain."""
    walk = _Walk()
    walk.value("kernel", function, set())
    return walk.hash.hexdigest()[:16]


def _of_compiler(module: str | None) -> bool:
    """Whether a module's version says what is in it."""
    return (module or "").partition(".")[0] in _COMPILER


class _Walk:
    """Puts values into a hash, each object once: what comes again is known by its number."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256(sys.version.encode())
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no address is used twice

    def put(self, kind: str, text: object = "") -> None:
        data = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
        self.hash.update(f"{kind}:{len(data)}:".encode() + data)

    def value(self, name: str, value: Any, names: set[str]) -> None:
        """`names` are those that the code uses: of a module nothing else counts."""
        self.put("name", name)
        if type(value) in _PLAIN:
            self.put(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        key = id(value)
        if isinstance(value, ModuleType):
            self._module(name, value, names)
            return
        if key in self._seen:
            self.put("again", self._seen[key])
            return
        self._seen[key] = len(self._seen)
        self._kept.append(value)
        if len(self._kept) > MOST:
            raise Uncertain(f"{name}: more than {MOST} values")
        self._object(name, value, names)

    def _object(self, name: str, value: Any, names: set[str]) -> None:
        function = code_of(value)
        if function is not None and not _of_compiler(function.__module__):
            if isinstance(value, Dispatcher):
                self.put("compiled", sorted((key, repr(one)) for key, one in value.targetoptions.items()))
                for key, one in value.locals.items():
                    self.value(f"local {key}", one, names)
            self._function(function)
        elif isinstance(value, enum.Enum):
            self.put("enum", f"{type(value).__qualname__}.{value.name}")
            self.value(name, value.value, names)
        elif isinstance(value, np.ndarray | np.generic):
            self._array(name, np.asarray(value), type(value))
        elif isinstance(value, np.dtype):
            self.put("dtype", repr(value.descr) if value.names else str(value))
        elif isinstance(value, types.Type):
            self.put("type", value)
        elif isinstance(value, tuple | list | frozenset | set | dict):
            self._collection(name, value, names)
        elif isinstance(value, type):
            self._class(name, value, names)
        else:
            self._known(name, value)

    def _module(self, name: str, module: ModuleType, names: set[str]) -> None:
        self.put("module", module.__name__)
        if _of_compiler(module.__name__):
            return
        for one in sorted(names):
            if hasattr(module, one):
                self.value(f"{module.__name__}.{one}", getattr(module, one), names)

    def _function(self, function: FunctionType) -> None:
        self._code(function.__code__)
        names = names_in(function.__code__)
        for name, value in used_by(function):
            self.value(name, value, names)

    def _code(self, code: CodeType) -> None:
        for field in ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_flags",
                      "co_kwonlyargcount", "co_posonlyargcount", "co_name", "co_exceptiontable"):  # fmt: skip
            self.put(field, getattr(code, field, b""))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.value("constant", constant, set())

    def _array(self, name: str, array: Any, kind: type) -> None:
        if array.dtype.hasobject:
            raise Uncertain(f"{name}: an array of objects")
        self.put("array", f"{kind.__name__} {array.dtype.descr} {array.shape} {array.strides} {array.flags.aligned}")
        self.put("bytes", np.ascontiguousarray(array).tobytes())

    def _collection(self, name: str, value: Any, names: set[str]) -> None:
        self.put(type(value).__qualname__, len(value))
        if isinstance(value, set | frozenset):
            if not all(type(one) in _PLAIN for one in value):
                raise Uncertain(f"{name}: a set of objects has no order")
            value = sorted(value, key=lambda one: (type(one).__name__, repr(one)))
        elif isinstance(value, dict):
            value = [part for pair in value.items() for part in pair]
        elif hasattr(value, "_fields"):
            self.put("fields", value._fields)
        for one in value:
            self.value(name, one, names)

    def _class(self, name: str, value: type, names: set[str]) -> None:
        self.put("class", f"{value.__module__}.{value.__qualname__}")
        if issubclass(value, enum.Enum):
            for member in value:
                self.value(member.name, member.value, names)
        elif issubclass(value, tuple) and hasattr(value, "_fields"):
            self.put("fields", value._fields)
        elif not _of_compiler(value.__module__) and not issubclass(value, BaseException):
            raise Uncertain(f"{name}: a class of its own")

    def _known(self, name: str, value: Any) -> None:
        """Things that the version of their package, or the source of their module, says all about."""
        owner = value.__self__ if isinstance(value, BuiltinFunctionType | MethodType) else None
        named = getattr(value, "__module__", None) or getattr(owner, "__name__", None)
        module: str = named or type(owner or value).__module__
        top = module.partition(".")[0]
        self.put("known", f"{module}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}")
        if top == "ixy_vfio":
            file = getattr(sys.modules.get(module), "__file__", None)
            self.put("source", Path(file).read_bytes() if file else b"")
        elif not _of_compiler(module):
            raise Uncertain(f"{name}: a {type(value).__name__} of {module}")
