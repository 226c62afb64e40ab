"""The unsafe module: the only place that touches raw memory. Everything else indexes checked arrays.

What is here works on memory that somebody else writes too: the NIC (or the simulated one), another process.
Plain loads and stores are wrong there: LLVM hoists a load out of a polling loop and merges two stores to one
address (tests/unit/test_unsafe.py shows both). The intrinsics below are LLVM atomics; on x86-64 an acquire
load and a release store of an aligned word are each one plain `mov`, so they cost nothing but the optimiser's
freedom. All functions are for compiled (Numba) code.
"""

# mypy: disable-error-code="attr-defined,call-arg,no-untyped-call,no-untyped-def,untyped-decorator,misc"
# Numba's typing API is untyped; the wrappers at the end of the file carry the types.

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _element(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index], inbounds=True)


@intrinsic
def _load_acquire(typing_context, array, index):
    signature = array.dtype(array, types.intp)

    def codegen(context, builder, signature, args):
        word = context.get_value_type(signature.return_type)
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        return builder.load_atomic(pointer, "acquire", word.width // 8, typ=word)

    return signature, codegen


@intrinsic
def _store_release(typing_context, array, index, value):
    signature = types.void(array, types.intp, array.dtype)

    def codegen(context, builder, signature, args):
        word = context.get_value_type(signature.args[2])
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(args[2], pointer, "release", word.width // 8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _fence(typing_context):
    def codegen(context, builder, signature, args):
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _pointer(typing_context, address):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@intrinsic
def _prefetch_write(typing_context, array, index):
    signature = types.void(array, types.intp)

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        i32 = ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        )
        builder.call(prefetch, [pointer, i32(1), i32(3), i32(1)])
        return context.get_dummy_value()

    return signature, codegen


@njit(inline="always")
def load_acquire(array: Any, index: int) -> Any:
    """Load array[index], once, before every later load. Raises IndexError outside 0..size-1."""
    if np.uint64(index) >= np.uint64(array.size):
        raise IndexError("atomic load outside the array")
    return _load_acquire(array, np.intp(index))


@njit(inline="always")
def store_release(array: Any, index: int, value: Any) -> None:
    """Store array[index] = value, once, after every earlier store. Raises IndexError outside 0..size-1."""
    if np.uint64(index) >= np.uint64(array.size):
        raise IndexError("atomic store outside the array")
    _store_release(array, np.intp(index), value)


@njit(inline="always")
def fence() -> None:
    """Order all loads and stores before it with all after it (acquire and release; no instruction on x86-64)."""
    _fence()


@njit(inline="always")
def prefetch_write(array: Any, index: int) -> None:
    """Ask for the cache line of array[index], for writing. A hint; silent outside the array."""
    if np.uint64(index) < np.uint64(array.size):
        _prefetch_write(array, np.intp(index))


@njit(inline="always")
def bytes_at(address: int, size: int) -> Any:
    """The `size` bytes at `address` as a checked uint8 array that owns nothing (no reference count to keep)."""
    return carray(_pointer(np.uintp(address)), (size,), np.uint8)


@njit(inline="always")
def words32_at(address: int, count: int) -> Any:
    """`count` 32-bit words at `address` as a checked uint32 array that owns nothing. Must be aligned to 4."""
    return carray(_pointer(np.uintp(address)), (count,), np.uint32)


@njit(inline="always")
def words64_at(address: int, count: int) -> Any:
    """`count` 64-bit words at `address` as a checked uint64 array that owns nothing. Must be aligned to 8."""
    return carray(_pointer(np.uintp(address)), (count,), np.uint64)
