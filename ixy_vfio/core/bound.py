"""Compiled functions for short calls from Python: of no arguments, each bound to the address that it works on.

A call through Numba's own wrapper takes a tuple of arguments apart, 65 to 90 ns; a built-in method of no arguments,
which is what is made here, takes 25. This is the only module that uses the interpreter's own C interface.
"""

# mypy: disable-error-code="attr-defined,no-untyped-call,no-untyped-def,untyped-decorator,misc"
# Numba's typing API is untyped.

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from ixy_vfio.core.compiled import compiled_for

ADDRESS = types.uint64(types.uint64)
METHOD = types.voidptr(types.voidptr, types.voidptr)  # PyObject *method(PyObject *self, PyObject *nothing)
METH_NOARGS = 4  # Include/methodobject.h


class Entry(NamedTuple):
    """A compiled function of an address, as Python calls it. It holds the GIL, and raises what compiled code raises."""

    call: Callable[[int], int]
    bind: Callable[[int, object], Callable[[], int]]  # the address, and what must live as long as what is returned


class _Definition(ctypes.Structure):
    """PyMethodDef (Include/methodobject.h)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Self(int):
    """The address, as what a built-in method is a method of; keeps alive what the method needs."""

    keep: object


_new = ctypes.pythonapi.PyCFunction_NewEx
_new.restype = ctypes.py_object
_new.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]


def _boxed_call(result: Any) -> Any:
    """Compiled code that calls what was compiled with an int's value: a new int, or NULL when it has raised."""

    @intrinsic
    def call(typing_context, this):
        def codegen(context, builder, signature, args):
            python = context.get_python_api(builder)
            address = python.long_as_ulonglong(args[0])
            context.active_code_library.add_linking_library(result.library)
            status, value = context.call_internal_no_propagate(builder, result.fndesc, ADDRESS, [address])
            made = cgutils.alloca_once_value(builder, cgutils.get_null_value(python.pyobj))
            with builder.if_else(status.is_ok) as (good, bad):
                with good:
                    builder.store(python.long_from_ulonglong(value), made)
                with bad:
                    context.call_conv.raise_error(builder, python, status)
            return builder.load(made)

        return types.voidptr(types.voidptr), codegen

    return call


def bindable(function: Callable[[Any], Any], *, cache: bool = True) -> Entry:
    """Compile `function`, of one unsigned 64-bit integer, an address, that returns one."""
    result = compiled_for(function, ADDRESS, cache=cache)
    boxed = _boxed_call(result)

    def method(this: Any, nothing: Any) -> Any:
        return boxed(this)

    made = cfunc(METHOD)(method)  # a tenth of a second each time; a cache would have to know what `boxed` is
    definition = _Definition(function.__name__.encode(), made.address, METH_NOARGS, b"")

    def bind(address: int, keep: object) -> Callable[[], int]:
        this = _Self(address)
        this.keep = (keep, definition, made)
        call: Callable[[], int] = _new(ctypes.addressof(definition), this, None)
        return call

    return Entry(result.entry_point, bind)
