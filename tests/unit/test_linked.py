"""How compiled functions come together: what is linked, what the cache knows of it, and the contract of a format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.core.compiled import cache_directory, compiled, entry_point, inlined, linked
from ixy_vfio.datapath import forwarding, kernels, loop
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.rings import BLOCK, count
from ixy_vfio.drivers.igb.format import FORMAT as IGB
from ixy_vfio.drivers.intel import Bits, advanced
from ixy_vfio.drivers.ixgbe.format import BITS, FORMAT

U = np.uint64


class Parts(NamedTuple):
    change: Callable[[Any], Any]
    step: Any


def plus(step: int) -> Parts:
    step_ = U(step)

    @inlined
    def change(value: Any) -> Any:
        return value + step_

    return Parts(change, U(100 * step))


@inlined
def double(value: Any) -> Any:
    return value * U(2)


def work(parts: Parts, kernel: Callable[[Any], Any], value: Any) -> Any:
    return kernel(parts.change(value)) + parts.step


def of_two(parts: Parts, first: Any, second: Any) -> Any:
    return parts.change(first) * second


def test_what_is_linked_is_called() -> None:
    one, other = (compiled(linked(work, plus(step), double), cache=False) for step in (1, 5))
    assert (one(U(7)), other(U(7))) == (116, 524)
    assert entry_point(linked(of_two, plus(3)), 2, cache=False)(4, 6) == 42


def directories(*functions: Callable[..., Any]) -> set[Path | None]:
    return {cache_directory(function) for function in functions}


def test_the_cache_tells_formats_and_shipped_kernels_apart() -> None:
    """By what they are made of: in each process, their functions are other objects."""
    same = [linked(count, advanced(bits)) for bits in (BITS, Bits(*BITS))]
    assert len(directories(linked(count, FORMAT), *same)) == 1
    others = [BITS._replace(errors=1 << 31), BITS._replace(ip_error=29), BITS._replace(shortest=18)]
    assert len(directories(*same, *(linked(count, advanced(bits)) for bits in others))) == 4
    shipped = [
        linked(loop.forward, Formats(FORMAT, FORMAT), forwarding.work_of(kernel)) for kernel in kernels.SHIPPED.values()
    ]
    assert len(directories(*shipped)) == len(kernels.SHIPPED)


def test_the_file_of_a_format_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of the data path imports it."""
    function = linked(count, FORMAT)
    before = cache_directory(function)
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        return read(path) + (b"#" if path.name == "intel.py" else b"")

    from ixy_vfio.core import compiled as module

    monkeypatch.setattr(Path, "read_bytes", edited)
    module.directory_for.cache_clear()
    after = cache_directory(function)
    module.directory_for.cache_clear()
    assert before != after


def test_a_kernel_of_a_user_is_kept_by_a_key_only() -> None:
    def mine(packet: Any, length: Any) -> bool:
        return True

    function = linked(loop.forward, Formats(FORMAT, FORMAT), forwarding.work_of(mine))
    with pytest.raises(TypeError, match=r"^mine, of .*: compiled code of another's is kept by a key only$"):
        cache_directory(function)
    assert cache_directory(function, "mine_1") is not None


# --- The contract of a format, for each there is ---------------------------------------------------------------------

FORMATS = {"ixgbe": FORMAT, "igb": IGB}


def use(function: Callable[..., Any], *parts: Any) -> Callable[[NDArray[Any]], Any]:
    return compiled(linked(function, *parts), cache=False)


def given(format: Any, ring: Any) -> Any:
    format.give(ring, U(2), U(0x1234_5000))
    return format.done(format.report(ring, U(2)))


def filled(format: Any, ring: Any) -> Any:
    format.data(ring, U(2), U(0x1234_5000), U(60))
    format.piece(ring, U(4), U(0x1234_6000), U(2048), U(3000), False)
    format.piece(ring, U(6), U(0x1234_7000), U(952), U(0), True)
    return format.sent(ring, U(2)) or format.sent(ring, U(6))


def total(format: Any, ring: Any) -> Any:
    by_one = U(0)
    for i in range(U(BLOCK)):
        by_one += format.length(format.report(ring, U(2) * i))
    return by_one, format.block_bytes(ring)


def in_order(format: Any, ring: Any) -> Any:
    """Whether `whole` is what it is said to be, for each word."""
    for i in range(len(ring) // 2):
        report = format.report(ring, U(2) * i)
        three = format.done(report) and format.last(report) and not format.wrong(report)
        if three != format.whole(report) or format.length(report) > U(0xFFFF):
            return False
    return True


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> Any:
    return FORMATS[request.param]


def test_what_was_just_given_is_not_done(format: Any) -> None:
    ring = np.full(8, ~U(0))
    assert not use(given, format)(ring)
    assert (ring[[0, 1, 4, 5, 6, 7]] == ~U(0)).all()
    assert 0x1234_5000 in ring[2:4]


def test_what_was_just_filled_is_not_sent(format: Any) -> None:
    ring = np.full(8, ~U(0))
    assert not use(filled, format)(ring)
    assert (ring[:2] == ~U(0)).all()


def test_any_word_is_read_without_harm_and_whole_is_what_it_says(format: Any) -> None:
    random = np.random.default_rng(82599)
    words = random.integers(0, 1 << 64, 1 << 16, np.uint64)
    words[1::4] = words[1::4] & U(0xFFFF_0000_0000) | U(3)  # whole ones, too
    assert use(in_order, format)(words)
    by_one, at_once = use(total, format)(words[: 2 * BLOCK].copy())
    assert by_one == at_once > 0


def test_an_index_outside_a_ring_raises(format: Any) -> None:
    with pytest.raises(IndexError):
        use(given, format)(np.zeros(2, np.uint64))
    with pytest.raises(IndexError):
        use(filled, format)(np.zeros(6, np.uint64))
