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

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

FIELD_WORDS = 64  # of a `field_sum`
PAIRS = 32  # of a `split_pairs`


def _element(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index], inbounds=True)


def _lane_sum(builder, vector):
    """Of a vector of eight 64-bit words."""
    kind = ir.FunctionType(vector.type.element, [vector.type])
    return builder.call(builder.module.declare_intrinsic("llvm.vector.reduce.add.v8i64", [], kind), [vector])


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
def _array_at(typing_context, address, count, dtype):
    """What `numba.carray` does, without the functions that it compiles for each type."""
    signature = types.Array(dtype.dtype, 1, "C")(types.uintp, types.intp, dtype)

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.return_type)(context, builder)
        element = context.get_data_type(signature.return_type.dtype)
        size = context.get_constant(types.intp, context.get_abi_sizeof(element))
        data = builder.inttoptr(args[0], element.as_pointer())
        populate_array(array, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None)
        return array._getvalue()

    return signature, codegen


@intrinsic
def _copy_bytes(typing_context, target, target_index, source, source_index, size):
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        to = _element(context, builder, signature.args[0], args[0], args[1])
        start = _element(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memmove(builder, to, start, args[4], context.get_constant(types.intp, 1))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _copy_32_to_64(typing_context, target, target_index, source, source_index, size):
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        block = ir.VectorType(ir.IntType(8), 32)
        tail = builder.sub(args[4], context.get_constant(types.intp, 32))
        pairs = []
        for offset in (context.get_constant(types.intp, 0), tail):
            start = _element(context, builder, signature.args[2], args[2], builder.add(args[3], offset))
            pairs.append((offset, builder.load(builder.bitcast(start, block.as_pointer()), align=1)))
        for offset, value in pairs:  # all loads stand before the first store: the ranges may overlap
            to = _element(context, builder, signature.args[0], args[0], builder.add(args[1], offset))
            builder.store(value, builder.bitcast(to, block.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _load_unaligned(typing_context, array, index, kind):
    def codegen(context, builder, signature, args):
        word = context.get_value_type(signature.return_type)
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(pointer, word.as_pointer()), align=1)

    return kind.dtype(array, types.intp, kind), codegen


@intrinsic
def _store_unaligned64(typing_context, array, index, value):
    signature = types.void(array, types.intp, types.uint64)

    def codegen(context, builder, signature, args):
        pointer = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _field_sum(typing_context, array, mask, shift):
    signature = types.uint64(array, types.uint64, types.uint64)

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        eight = ir.VectorType(i64, 8)
        masks = shifts = eight(None)
        for lane in range(1, 8, 2):  # lanes of second words; the others stay 0
            masks = builder.insert_element(masks, args[1], ir.IntType(32)(lane))
            shifts = builder.insert_element(shifts, args[2], ir.IntType(32)(lane))
        total = eight(None)
        for i in range(0, FIELD_WORDS, 8):
            at = _element(context, builder, signature.args[0], args[0], context.get_constant(types.intp, i))
            words = builder.load(builder.bitcast(at, eight.as_pointer()), align=8)
            total = builder.add(total, builder.and_(words, masks))
        return _lane_sum(builder, builder.lshr(total, shifts))

    return signature, codegen


@intrinsic
def _split_pairs(typing_context, target, pairs):
    signature = types.uint64(target, pairs)

    def codegen(context, builder, signature, args):
        i64, i32 = ir.IntType(64), ir.IntType(32)
        eight, halves = ir.VectorType(i64, 8), ir.VectorType(i32, 8)
        total = eight(None)
        loaded = []
        for i in range(0, PAIRS, 8):
            at = _element(context, builder, signature.args[1], args[1], context.get_constant(types.intp, i))
            loaded.append(builder.load(builder.bitcast(at, eight.as_pointer()), align=8))
        for i, words in enumerate(loaded):  # all loads stand before the first store, so that no overlap matters
            to = _element(context, builder, signature.args[0], args[0], context.get_constant(types.intp, 8 * i))
            builder.store(builder.trunc(words, halves), builder.bitcast(to, halves.as_pointer()), align=4)
            total = builder.add(total, builder.lshr(words, eight([i64(32)] * 8)))
        return _lane_sum(builder, total)

    return signature, codegen


@intrinsic
def _cycles(typing_context):
    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", [], ir.FunctionType(i64, [])), [])

    return types.uint64(), codegen


@intrinsic
def _borrowed(typing_context, array):
    def codegen(context, builder, signature, args):
        structure = context.make_array(signature.return_type)(context, builder, args[0])
        structure.meminfo = cgutils.get_null_value(structure.meminfo.type)
        structure.parent = cgutils.get_null_value(structure.parent.type)
        return structure._getvalue()

    return array(array), codegen


@intrinsic
def _address_of(typing_context, array, index):
    def codegen(context, builder, signature, args):
        return builder.ptrtoint(_element(context, builder, signature.args[0], args[0], args[1]), ir.IntType(64))

    return types.uint64(array, types.intp), codegen


@njit(inline="always")
def load_acquire(array: Any, index: Any) -> Any:
    """Load array[index], once, before every later load. Raises IndexError outside 0..size-1."""
    if np.uint64(index) >= np.uint64(array.size):
        raise IndexError("atomic load outside the array")
    return _load_acquire(array, np.intp(index))


@njit(inline="always")
def store_release(array: Any, index: Any, value: Any) -> None:
    """Store array[index] = value, once, after every earlier store. Raises IndexError outside 0..size-1."""
    if np.uint64(index) >= np.uint64(array.size):
        raise IndexError("atomic store outside the array")
    _store_release(array, np.intp(index), value)


@njit(inline="always")
def fence() -> None:
    """Order all loads and stores before it with all after it (acquire and release; no instruction on x86-64)."""
    _fence()


@njit(inline="always")
def copy_bytes(target: Any, target_index: Any, source: Any, source_index: Any, size: Any) -> None:
    """Copy `size` bytes between uint8 arrays, which may overlap. Plain loads and stores, in no particular order.

    For the contents of packets, never for descriptors. Raises IndexError when either range leaves its array.
    """
    if np.uint64(size) > np.uint64(target.size) or np.uint64(target_index) > np.uint64(target.size - size):
        raise IndexError("copy to outside the array")
    if np.uint64(size) > np.uint64(source.size) or np.uint64(source_index) > np.uint64(source.size - size):
        raise IndexError("copy from outside the array")
    if 32 <= size <= 64:  # most packets of a packet-rate test: two blocks that overlap, without a call
        _copy_32_to_64(target, np.intp(target_index), source, np.intp(source_index), np.intp(size))
    else:
        _copy_bytes(target, np.intp(target_index), source, np.intp(source_index), np.intp(size))


@njit(inline="always")
def load64(array: Any, index: Any) -> Any:
    """The 8 bytes of a uint8 array from `index`, little-endian, of any alignment. Plain. Raises IndexError."""
    if array.size < 8 or np.uint64(index) > np.uint64(array.size - 8):
        raise IndexError("load outside the array")
    return _load_unaligned(array, np.intp(index), np.uint64)


@njit(inline="always")
def load32(array: Any, index: Any) -> Any:
    """The 4 bytes of a uint8 array from `index`, like `load64`."""
    if array.size < 4 or np.uint64(index) > np.uint64(array.size - 4):
        raise IndexError("load outside the array")
    return _load_unaligned(array, np.intp(index), np.uint32)


@njit(inline="always")
def load16(array: Any, index: Any) -> Any:
    """The 2 bytes of a uint8 array from `index`, like `load64`."""
    if array.size < 2 or np.uint64(index) > np.uint64(array.size - 2):
        raise IndexError("load outside the array")
    return _load_unaligned(array, np.intp(index), np.uint16)


@njit(inline="always")
def store64(array: Any, index: Any, value: Any) -> None:
    """Store 8 bytes of a uint8 array from `index`, little-endian, of any alignment. Plain. Raises IndexError."""
    if array.size < 8 or np.uint64(index) > np.uint64(array.size - 8):
        raise IndexError("store outside the array")
    _store_unaligned64(array, np.intp(index), np.uint64(value))


@njit(inline="always")
def field_sum(words: Any, mask: Any, shift: Any) -> Any:
    """The sum over the second words of 32 descriptors, uint64[64], of a field: (words[2 * i + 1] & mask) >> shift.

    By vector instructions: it takes one a packet, where LLVM on its own needs three. Plain loads. A field in the
    highest bits must leave three of them free. Raises IndexError unless there are 64 words.
    """
    if words.size != FIELD_WORDS:
        raise IndexError("sum over other than 32 descriptors")
    return _field_sum(words, np.uint64(mask), np.uint64(shift))


@njit(inline="always")
def split_pairs(target: Any, pairs: Any) -> Any:
    """Copy the lower halves of 32 words, uint64[32], to uint32[32]; returns the sum of the upper halves.

    By vector instructions, which LLVM could not use: for all that it knows, the two overlap. Plain loads and stores.
    Raises IndexError unless there are 32 of each.
    """
    if target.size != PAIRS or pairs.size != PAIRS:
        raise IndexError("other than 32 pairs")
    return _split_pairs(target, pairs)


@njit(inline="always")
def cycles() -> Any:
    """The processor's cycle counter (on x86-64 the time-stamp counter, which runs at a constant rate)."""
    return _cycles()


@njit(inline="always")
def borrowed(array: Any) -> Any:
    """The same array without its reference count, which costs two calls at each use of an array argument.

    Only for the time of a call: the caller keeps the array alive.
    """
    return _borrowed(array)


@njit(inline="always")
def address_of(array: Any, index: Any, size: Any) -> Any:
    """The address of array[index:index+size], for `bytes_at` in a function called. Raises IndexError outside."""
    if np.uint64(size) > np.uint64(array.size) or np.uint64(index) > np.uint64(array.size - size):
        raise IndexError("address outside the array")
    return _address_of(array, np.intp(index))


@njit(inline="always")
def bytes_at(address: Any, size: Any) -> Any:
    """The `size` bytes at `address` as a checked uint8 array that owns nothing (no reference count to keep)."""
    return _array_at(np.uintp(address), np.intp(size), np.uint8)


@njit(inline="always")
def words32_at(address: Any, count: Any) -> Any:
    """`count` 32-bit words at `address` as a checked uint32 array that owns nothing. Must be aligned to 4."""
    return _array_at(np.uintp(address), np.intp(count), np.uint32)


@njit(inline="always")
def words64_at(address: Any, count: Any) -> Any:
    """`count` 64-bit words at `address` as a checked uint64 array that owns nothing. Must be aligned to 8."""
    return _array_at(np.uintp(address), np.intp(count), np.uint64)


@njit(inline="always")
def record_at(address: Any, dtype: Any) -> Any:
    """The record of the NumPy structure `dtype` (a global constant) at `address`. Its fields can be assigned."""
    return _array_at(np.uintp(address), np.intp(1), dtype)[0]


@njit(inline="always")
def records_at(address: Any, count: Any, dtype: Any) -> Any:
    """`count` records of the NumPy structure `dtype` (a global constant) at `address`, as a checked array."""
    return _array_at(np.uintp(address), np.intp(count), dtype)
