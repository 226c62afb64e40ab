"""Mapped memory that is closed: gone at once, and never a hole or somebody else's pages under an array that is held."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ixy_vfio.core.memory import DmaMemory, Mapping

SIZE = 8192


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("closed")
    os.write(made, b"x" * SIZE)
    yield made
    os.close(made)


def rights(address: int) -> str | None:
    """Of the page there, as /proc/self/maps has them; None where nothing is mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[1]
    return None


def test_what_nobody_holds_is_unmapped(fd: int) -> None:
    mapping = Mapping(fd, SIZE)
    address = mapping.address
    assert rights(address) == "rw-s"
    mapping.close()
    mapping.close()
    assert (rights(address), mapping.address, len(mapping.view)) == (None, 0, 0)


@pytest.mark.parametrize(("memory", "left"), [(False, b"\0"), (True, b"x")], ids=["registers", "memory"])
def test_an_array_that_is_held_has_private_pages(fd: int, memory: bool, left: bytes) -> None:
    """Zeros in the place of registers, a copy in that of memory; the last array to go gives the pages back."""
    mapping = Mapping(fd, SIZE)
    address = mapping.address
    array = np.frombuffer(mapping.view, np.uint8)
    part = array[100:]
    del array
    if memory:
        DmaMemory(mapping, 0, SIZE, 4096).close()
    else:
        mapping.close()
    assert rights(address) == "rw-p"
    assert part.tobytes() == left * (SIZE - 100)
    part[0] = 1
    assert os.pread(fd, 1, 100) == b"x"
    del part
    assert rights(address) is None
