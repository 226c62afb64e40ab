"""DMA windows against a plain model of them; and what a quarter of a million of them cost."""

import random
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim import dma
from ixy_vfio.sim.dma import READABLE, WRITABLE, DmaTable

PAGE = 4096
MANY = 32_768  # tests.bench.dma_windows has 262,144


def table() -> tuple[DmaTable, dict[str, Any]]:
    record: dict[str, Any] = {}
    return DmaTable(record), record


def found(windows: DmaTable, iova: int, right: int = READABLE) -> int | None:
    """The address where the data plane finds `iova`, or None."""
    rows = windows._rows
    row = int(dma.search(rows, np.uint64(iova), right))
    if row < 0:
        return None
    start, _, address = (int(word) for word in rows[row * dma.WINDOW_WORDS : row * dma.WINDOW_WORDS + 3])
    return address + iova - start


def depth(windows: DmaTable) -> int:
    """Of the treap. Checks its order and priorities."""
    rows = windows._rows.reshape(-1, dma.WINDOW_WORDS)
    deepest, stack, starts = 0, [(int(rows[0, 4]), 1, 1 << 63)], []
    while stack:
        row, level, above = stack.pop()
        if row:
            assert int(rows[row, 6]) <= above
            deepest = max(deepest, level)
            starts.append((int(rows[row, 0]), int(rows[row, 1])))
            stack += [(int(rows[row, side]), level + 1, int(rows[row, 6])) for side in (4, 5)]
    starts.sort()
    assert all(one[1] <= other[0] for one, other in pairwise(starts))
    assert len(starts) == len(windows)
    return deepest


def test_any_sequence_is_as_a_plain_list_has_it() -> None:
    chance = random.Random(7)
    windows, record = table()
    model: dict[int, tuple[int, int, int]] = {}  # iova -> size, address, rights
    for step in range(4000):
        iova, size = chance.randrange(400) * 16, chance.choice((16, 16, 32, 160))
        kind = chance.random()
        if kind < 0.55:
            rights = chance.randrange(4)
            overlaps = any(iova < start + length and start < iova + size for start, (length, _, _) in model.items())
            if overlaps:
                with pytest.raises(UsageError, match="overlaps another"):
                    windows.map(iova, size, step << 20, bool(rights & READABLE), bool(rights & WRITABLE))
            else:
                windows.map(iova, size, step << 20, bool(rights & READABLE), bool(rights & WRITABLE))
                model[iova] = size, step << 20, rights
        elif kind < 0.995:
            inside = sorted(s for s, (length, _, _) in model.items() if iova <= s and s + length <= iova + size)
            assert windows.unmap(iova, size) == inside
            for start in inside:
                del model[start]
        else:
            windows.unmap_all()
            model.clear()
        assert len(windows) == len(model)
        for _ in range(4):
            at, right = chance.randrange(6600), chance.choice((READABLE, WRITABLE))
            wanted = [
                address + at - start
                for start, (length, address, rights) in model.items()
                if start <= at < start + length and rights & right
            ]
            assert found(windows, at, right) == (wanted[0] if wanted else None)
        if step % 100 == 0:
            depth(windows)
    assert record["window_count"] <= 401  # rows are used again


@pytest.mark.parametrize("order", ["upwards", "downwards", "any"])
def test_many_windows_one_by_one(order: str) -> None:
    """Each costs O(log n): the tree is shallow whatever the order, and the whole takes seconds."""
    windows, _ = table()
    numbers = list(range(MANY))
    if order == "downwards":
        numbers.reverse()
    elif order == "any":
        random.Random(3).shuffle(numbers)
    windows.map(0, PAGE, 0, True, True)  # compiles
    windows.unmap(0, PAGE)
    start = time.process_time()
    for number in numbers:
        windows.map(number * PAGE, PAGE, number, True, True)
    mapped = time.process_time() - start
    assert depth(windows) < 64  # 18 would be the best
    assert found(windows, 77 * PAGE + 5) == 77 + 5
    start = time.process_time()
    for number in numbers:
        assert windows.unmap(number * PAGE, PAGE) == [number * PAGE]
    assert len(windows) == 0
    assert mapped + time.process_time() - start < 10  # 0.5 s on an idle core
