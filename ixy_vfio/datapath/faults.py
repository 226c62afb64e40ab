"""What is wrong with a kernel, in one line: where, the statement, why, and what to do instead."""

import dis
import linecache
import os
import random
import re
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from ixy_vfio.datapath import frozen

_KEEPS = "a kernel keeps nothing between packets; what it refuses is counted, and shown"

# What Numba says -> what it means, and what to do instead. The first that is found counts.
_REASONS: tuple[tuple[str, str], ...] = (
    (r"Cannot modify readonly array", f"a global array is a constant in compiled code and cannot be written; {_KEEPS}"),
    (r"STORE_GLOBAL|DELETE_GLOBAL", f"a global cannot be written in compiled code; {_KEEPS}"),
    (r"Exception matching is limited",
     "compiled code can catch `Exception` only; rather look at `length` before reading the packet"),
    (r"No conversion from array\(bool",
     "comparing arrays gives an array, not True or False; compare byte by byte"),
    (r"Untyped global name '(.+?)'\W{1,40}Cannot determine Numba type of <class 'function'>",
     "`{0}` is a plain Python function; put @numba.njit above it"),
    (r"IMPORT_NAME", "nothing can be imported in compiled code; import it at the top of the file"),
    (r"Untyped global name '(.+?)'", "`{0}` cannot be used in compiled code; compute with numbers and `packet`"),
    (r"NameError: name '(.+?)'", "`{0}` is not defined"),
    (r"use of a reflected (\w+)", "a global {0} cannot be used in compiled code; make it a tuple"),
    (r"Can't unify return type", "it returns values of different types; return True or False everywhere"),
    (r"Unknown attribute '(.+?)' of type (Module\(<module '(\w+)')?",
     "`{0}` is nothing that compiled code has; compute with numbers and `packet`"),
)  # fmt: skip

# A symbol that compiled code calls -> what the kernel does by it. A sealed worker is killed by the first two.
_PYTHON = re.compile(r'@"?(?:numba_gil_ensure|PyObject_Call\w*)\b')
_RANDOM = re.compile(r'@"?numba_get_(?:py|np)_random_state\b')
_ALLOCATION = re.compile(r'@"?NRT_(?:MemInfo_(?:alloc|new|varsize)|Allocate)\w*')
_ALLOCATES = frozenset((
    "zeros", "ones", "empty", "full", "array", "arange", "zeros_like", "empty_like", "ones_like", "copy", "astype",
    "tobytes", "concatenate", "append", "str", "list", "dict", "set", "bytes", "bytearray", "format", "join", "split",
    "sorted", "where",
))  # fmt: skip
_BUILDS = frozenset((
    "BUILD_LIST", "BUILD_MAP", "BUILD_SET", "LIST_APPEND", "BUILD_STRING", "FORMAT_VALUE", "BINARY_SLICE",
))  # fmt: skip


def _lines(function: FunctionType) -> set[int]:
    """The lines of its body."""
    first = function.__code__.co_firstlineno
    return {line for _, _, line in function.__code__.co_lines() if line and line > first}


def _at(file: str, line: int) -> str:
    """FILE:LINE: `statement`."""
    statement = linecache.getline(file, line).partition("  #")[0].strip()
    return f"{os.path.basename(file)}:{line}: `{statement}`"


def _head(function: FunctionType) -> str:
    code = function.__code__
    return _at(code.co_filename, code.co_firstlineno)


def _places(error: Any, text: str) -> Iterator[tuple[str, int]]:
    """Where the compiler's message points to, the most exact last."""
    for file, line in re.findall(r'File "([^"\n]+)", line (\d+):', text):
        yield file, int(line)
    loc = getattr(error, "loc", None)
    if loc is not None:
        yield loc.filename, int(loc.line)
    for file, line in re.findall(r"(?:at|from|location:) (\S+?\.py) \((\d+)\)", text):
        yield file, int(line)


def of_compiler(function: FunctionType, error: Exception) -> str:
    """Why it does not compile."""
    text = str(error)
    bodies = {(os.path.basename(one.__code__.co_filename), line): one.__code__.co_filename
              for one in frozen.functions(function) for line in _lines(one)}  # fmt: skip
    found = [(os.path.basename(file), line) for file, line in _places(error, text)]
    where = next((_at(bodies[key], key[1]) for key in reversed(found) if key in bodies), None)
    if "STORE_GLOBAL" in text or "DELETE_GLOBAL" in text:
        where = _statement(function, lambda one, owner: one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")) or where
    return f"{where or _head(function)}: {_reason(text)}"


def _reason(text: str) -> str:
    for pattern, meaning in _REASONS:
        match = re.search(pattern, text)
        if match:
            return meaning.format(*match.groups())
    raised = re.search(r"raised a specific error:\s*(\S.*)", text)
    if raised:
        return raised[1].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Failed in", "During:", "File "))] or lines
    return said[0]


def of_sealed_worker(function: FunctionType, assembly: str) -> str | None:
    """What it does that a sealed worker is killed for; None: nothing. `assembly` is the compiler's (LLVM)."""
    if _PYTHON.search(assembly):
        where = _statement(function, lambda one, owner: one.argval in ("print", "objmode"))
        return (
            f"{where or _head(function)}: it calls Python (prints, or objmode), which a sealed worker may not; run the "
            "kernel on a packet of your own in Python to see what it does"
        )
    if _RANDOM.search(assembly):
        where = _statement(function, _draws)
        return (
            f"{where or _head(function)}: it draws random numbers, of which a sealed worker has no source; choose by "
            "the packet's bytes instead, like kernel sample"
        )
    return None


def of_speed(function: FunctionType, assembly: str) -> str | None:
    """What makes it needlessly slow; None: nothing that shows."""
    if not _ALLOCATION.search(assembly):
        return None
    where = _statement(
        function, lambda one, owner: one.opname in _BUILDS or (isinstance(one.argval, str) and one.argval in _ALLOCATES)
    )
    return (
        f"{where or _head(function)}: it allocates memory for each packet, which is slow; keep values in local "
        "variables, or make arrays of constants outside the function"
    )


def _draws(one: dis.Instruction, owner: FunctionType) -> bool:
    if not one.opname.startswith("LOAD_") or not isinstance(one.argval, str):
        return False
    value = owner.__globals__.get(one.argval)
    module = getattr(value, "__name__", None) or ""
    return (
        one.argval == "random"
        or module in ("random", "numpy.random")
        or isinstance(getattr(value, "__self__", None), random.Random)
        or (getattr(value, "__module__", None) or "").startswith(("random", "numpy.random"))
    )


def of_time(function: Callable[..., Any]) -> str:
    """Where it would spend much time, if it does: its first loop, else its head."""
    assert isinstance(function, FunctionType)  # else it would not have compiled
    loops = [
        (one, instruction.argval)
        for one in frozen.functions(function)
        for instruction in dis.get_instructions(one)
        if "JUMP_BACKWARD" in instruction.opname
    ]
    for one, target in loops:
        for instruction in dis.get_instructions(one):
            if instruction.offset == target and instruction.positions and instruction.positions.lineno:
                return _at(one.__code__.co_filename, instruction.positions.lineno)
    return _head(function)


def _statement(function: FunctionType, wanted: Callable[[dis.Instruction, FunctionType], bool]) -> str | None:
    """The first statement, of the function or of one that it calls, with an instruction that is wanted."""
    for one in frozen.functions(function):
        line = one.__code__.co_firstlineno
        for instruction in dis.get_instructions(one):
            if instruction.starts_line:
                line = int(instruction.starts_line)
                position = instruction.positions
                line = position.lineno if position and position.lineno else line
            if wanted(instruction, one):
                return _at(one.__code__.co_filename, line)
    return None
