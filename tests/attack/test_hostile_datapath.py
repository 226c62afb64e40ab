"""A hostile NIC against the data path: for each format 10 million descriptors against the book, and no rule broken.

The rules are those of `hostile_world.RULES`; beside them: nothing around the driver's memory is touched (a page that
must not be touched lies behind each piece of it), each buffer is in exactly one place, and the driver works again
with an honest device. What is sent of a buffer is never more than what the device has said was received in it, since
it was given to the device; a device that says more than it has written gets its own old bytes of that buffer sent.

IXY_VFIO_HOSTILE is the number of descriptors (10,000,000 unless set).
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

DESCRIPTORS = int(os.environ.get("IXY_VFIO_HOSTILE", "10000000"))
TOP = Path(__file__).parents[2]
DEADLINE = 400.0  # seconds, compilation on a busy machine included: a driver that hangs fails
SHAPES = (
    "ring=64,batch=32",
    "ring=64,batch=1,widest=5",
    "ring=256,batch=256,widest=5",
    "ring=512,batch=32,spare=0",
    "ring=4096,batch=64",
)
SCRIPTS = ("6:api=batch,ring=64,batch=32", "7:api=batch,ring=256,batch=1")
SINGLE = ("length", "endless", "early", "order", "twice", "torn", "format", "status", "rings")


def runs(*specs: str, deadline: float = DEADLINE) -> tuple[list[dict[str, Any]], int]:
    """What `hostile_run` told, and its status. TimeoutExpired at the deadline, when it is killed."""
    argv = [sys.executable, "-m", "tests.attack.hostile_run", *specs]
    process = subprocess.run(argv, cwd=TOP, stdout=subprocess.PIPE, text=True, timeout=deadline, check=False)
    return [json.loads(line) for line in process.stdout.splitlines()], process.returncode


def good(*specs: str) -> list[dict[str, Any]]:
    told, status = runs(*specs)
    results = [one for one in told if "begins" not in one]
    assert [one.get("failed") for one in results] == [None] * len(specs), told[-1]
    assert status == 0, told[-1]
    for one in results:
        honest = one["honest"]
        if "race" not in one["run"]:  # beside the running loop there is no witness
            assert counted([one], "rx.packets") == one["frames"] + one["dropped"], one["run"]
        assert (honest["errors"], honest["oversize"]) == (0, 0), one["run"]
        assert honest["packets"] > 1000, one["run"]
        assert honest["packets"] == honest["frames"] + honest["dropped"], one["run"]
    return results


def counted(results: Sequence[dict[str, Any]], name: str) -> int:
    return sum(int(port[name]) for one in results for port in one["counted"])


@pytest.mark.parametrize("format", ["ixgbe", "igb"])
def test_ten_million_hostile_descriptors(format: str, record_property: Callable[[str, object], None]) -> None:
    each = DESCRIPTORS // (2 * len(SHAPES) + len(SINGLE) + len(SCRIPTS))
    specs = [f"{seed}:{shape},format={format},descriptors={each}" for seed in (1, 2) for shape in SHAPES]
    specs += [f"3,{kind}:format={format},descriptors={each + len(SINGLE) * 2}" for kind in SINGLE]
    specs += [f"{shape},format={format},descriptors={each}" for shape in SCRIPTS]
    results = good(*specs, f"4,heads:moves=200000,format={format}", f"5,packets:moves=200000,format={format}")
    hostile = sum(one["hostile"] for one in results)
    record_property("hostile_descriptors", hostile)
    print(f"{hostile} hostile descriptors, {sum(one['frames'] for one in results)} packets sent between them")
    assert hostile >= DESCRIPTORS
    for name in ("rx.packets", "rx.errors", "rx.oversize", "rx.refused", "tx.packets", "tx.no_room"):
        assert counted(results, name) > 0, name
    assert all(one["frames"] > 1000 for one in results), "a device that does nothing shows nothing"


def test_a_seed_replays_exactly() -> None:
    one, other, third = good("82599", "82599", "82600")
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert one["digest"] != third["digest"]


def test_dma_while_the_driver_works() -> None:
    """The devices run in threads of their own, beside the compiled loop; not the same each time."""
    for one in good("21:race=1,moves=4000000", "22,torn,rings,packets,twice:race=1,moves=4000000,ring=256,widest=5"):
        assert one["hostile"] > 1_000_000
        assert sum(port["rx.packets"] for port in one["counted"]) > 100


@pytest.mark.parametrize(
    ("weak", "told"),
    [
        ("length", "Broken: .*more is sent of a buffer than the device said was received"),
        ("kernel", "AssertionError: bytes between the buffers were written to"),
        ("index", "IndexError: buffer index outside the pool"),
        ("leak", "AssertionError: buffers with another number of owners than one"),
    ],
)
def test_a_driver_with_a_check_less_is_seen(weak: str, told: str) -> None:
    """The control: the same device, the same rules, and a driver that lacks one check, or one that has to raise."""
    results, status = runs(f"7,length:weak={weak}")
    assert status == 1
    assert re.match(told, results[-1]["failed"]), results[-1]


def test_a_driver_that_hangs_is_seen() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        runs("7,length:weak=hangs", deadline=8.0)
