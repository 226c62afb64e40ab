"""The atomics are what they claim: in the generated code, and between threads. Plain NumPy, as a control, is not."""

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit, types

from ixy_vfio.core import unsafe

U64 = types.uint64[::1]
ARRAY = types.Array(types.uint64, 1, "C")


def _wait_plain(words: Any, limit: int) -> int:
    spins = 0
    while words[0] == 0 and spins < limit:
        spins += 1
    return spins


def _wait_atomic(words: Any, limit: int) -> int:
    spins = 0
    while unsafe.load_acquire(words, 0) == 0 and spins < limit:
        spins += 1
    return spins


def _two_plain(words: Any) -> None:
    words[0] = 1
    words[0] = 2


def _two_atomic(words: Any) -> None:
    unsafe.store_release(words, 0, np.uint64(1))
    unsafe.store_release(words, 0, np.uint64(2))


def optimised(function: Callable[..., Any], *signature: Any) -> str:
    """The LLVM code after optimisation, of the function itself."""
    compiled: Any = njit(nogil=True, boundscheck=False)(function)
    compiled.compile(signature)
    code: str = compiled.overloads[signature].library.get_llvm_str()
    body = re.search(rf"^define [^\n]*{function.__name__}[^\n]*{{\n(.*?)^}}", code, re.M | re.S)
    assert body is not None
    return body.group(1)


def stores_to_the_array(code: str) -> list[str]:
    return re.findall(r"store (?:atomic )?i64 [12], ptr %[^,]+(?:, | release)", code) or re.findall(
        r"store (?:atomic )?i64 [12], i64\* %[^,]+(?:, | release)", code
    )


def test_a_field_is_summed_over_the_second_words_alone() -> None:
    sums: Any = njit(lambda words, mask, shift: unsafe.field_sum(words, mask, shift))
    words = np.random.default_rng(1).integers(0, 1 << 64, 64, dtype=np.uint64)
    second = [int(word) for word in words[1::2]]
    assert sums(words, 0xFFFF << 32, 32) == sum(word >> 32 & 0xFFFF for word in second)
    words[1::2] &= np.uint64((1 << 61) - 1)
    assert sums(words, np.uint64(0x3FFFF << 46), 46) == sum((word & (1 << 61) - 1) >> 46 for word in second)
    with pytest.raises(IndexError):
        sums(words[:63], 1, 0)


def test_pairs_are_split_into_lower_halves_and_the_sum_of_the_upper() -> None:
    split: Any = njit(lambda target, pairs: unsafe.split_pairs(target, pairs))
    pairs = np.random.default_rng(2).integers(0, 1 << 64, 32, dtype=np.uint64)
    expected = [int(pair) & 0xFFFFFFFF for pair in pairs], sum(int(pair) >> 32 for pair in pairs)
    target = np.zeros(33, np.uint32)
    assert (split(target[:32], pairs), target.tolist()) == (expected[1], [*expected[0], 0])
    over = np.concatenate([pairs, pairs]).view(np.uint32)[8:72]  # the target lies in the middle of the pairs
    assert split(over[6:38], over.view(np.uint64)) == sum(int(pair) >> 32 for pair in np.roll(pairs, -4))
    assert over[6:38].tolist() == [int(pair) & 0xFFFFFFFF for pair in np.roll(pairs, -4)]
    for wrong in ((target, pairs), (target[:32], pairs[:31])):
        with pytest.raises(IndexError):
            split(*wrong)


def test_both_stores_survive() -> None:
    assert len(stores_to_the_array(optimised(_two_atomic, ARRAY))) == 2


def test_control_plain_stores_are_merged() -> None:
    assert len(stores_to_the_array(optimised(_two_plain, ARRAY))) == 1


def test_a_polling_load_stays_in_its_loop() -> None:
    assert "load atomic i64" in optimised(_wait_atomic, ARRAY, types.int64)


def spins_until_stored(function: Callable[..., Any]) -> tuple[int, int]:
    """(spins, limit) of a wait during which another thread stores."""
    compiled = njit(nogil=True, boundscheck=True)(function)
    words = np.ones(1, np.uint64)
    compiled(words, 1)
    words[0] = 0
    limit = 1 << 62
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(compiled(words, limit)), daemon=True)
    thread.start()
    time.sleep(0.05)
    words[0] = 1
    thread.join(10)
    assert not thread.is_alive()
    return result[0], limit


def test_a_store_of_another_thread_is_seen() -> None:
    spins, limit = spins_until_stored(_wait_atomic)
    assert 0 < spins < limit


def test_control_a_plain_poll_never_sees_it() -> None:
    """The load is hoisted out of the loop, and the loop becomes arithmetic: it 'waited' to the limit at once."""
    spins, limit = spins_until_stored(_wait_plain)
    assert spins == limit


@njit(nogil=True)
def producer(words: Any, count: int) -> None:
    for i in range(1, count + 1):
        words[8] = i  # plain data, then the release that publishes it
        unsafe.store_release(words, 0, np.uint64(i))
        while unsafe.load_acquire(words, 16) != i:
            pass


@njit(nogil=True)
def consumer(words: Any, count: int) -> int:
    wrong = 0
    for i in range(1, count + 1):
        while unsafe.load_acquire(words, 0) != i:
            pass
        if words[8] != i:
            wrong += 1
        unsafe.store_release(words, 16, np.uint64(i))
    return wrong


def test_what_was_stored_before_a_release_is_seen_after_the_acquire() -> None:
    words = np.zeros(32, np.uint64)
    producer(words, 0)
    consumer(words, 0)
    count = 2000
    thread = threading.Thread(target=producer, args=(words, count), daemon=True)
    thread.start()
    assert consumer(words, count) == 0
    thread.join(10)
    assert int(words[0]) == int(words[8]) == int(words[16]) == count


@njit
def load(words: Any, index: Any) -> Any:
    return unsafe.load_acquire(words, index)


@njit
def store(words: Any, index: Any) -> None:
    unsafe.store_release(words, index, np.uint32(7))


@pytest.mark.parametrize("index", [4, -1, 1 << 62, np.uint64((1 << 64) - 1)])
def test_outside_raises_and_touches_nothing(index: Any) -> None:
    words = np.zeros(4, np.uint32)
    for function in (load, store):
        with pytest.raises(IndexError, match="outside the array"):
            function(words, index)
    assert words.tolist() == [0, 0, 0, 0]


def test_an_atomic_store_writes_its_word_only() -> None:
    words = np.full(4, 0xFFFF_FFFF, np.uint32)
    store(words, 2)
    assert words.tolist() == [0xFFFF_FFFF, 0xFFFF_FFFF, 7, 0xFFFF_FFFF]
    assert load(words, 2) == 7


@njit
def through_addresses(address: Any, index: Any) -> Any:
    unsafe.words64_at(address, 4)[1] = 0x1122334455667788
    return unsafe.words32_at(address, 8)[2], unsafe.bytes_at(address, 32)[index]


def test_arrays_at_addresses_are_the_memory_itself() -> None:
    words = np.zeros(4, np.uint64)
    assert through_addresses(words.ctypes.data, 15) == (0x55667788, 0x11)
    assert words.tolist() == [0, 0x1122334455667788, 0, 0]


@njit(boundscheck=True)
def beyond(address: Any, index: Any) -> Any:
    return unsafe.bytes_at(address, 32)[index]


@pytest.mark.parametrize("index", [np.uint64(32), np.uint64((1 << 64) - 1)])
def test_arrays_at_addresses_are_checked(index: Any) -> None:
    words = np.zeros(4, np.uint64)
    with pytest.raises(IndexError):
        beyond(words.ctypes.data, index)


PAIR = np.dtype([("one", "<u8"), ("two", "<u4")], align=True)


@njit
def through_record(address: Any) -> Any:
    record = unsafe.record_at(address, PAIR)
    record.one += np.uint64(5)
    return record.two


def test_a_record_at_an_address_can_be_assigned() -> None:
    records = np.zeros(2, PAIR)
    records[1] = (37, 9)
    assert through_record(records[1:].ctypes.data) == 9
    assert records.tolist() == [(0, 0), (42, 9)]


def test_a_fence_changes_nothing() -> None:
    @njit
    def fenced(words: Any) -> None:
        unsafe.fence()

    words = np.arange(4, dtype=np.uint64)
    fenced(words)
    assert words.tolist() == [0, 1, 2, 3]
