"""Vital product data of a simulated port: by the rules of PCI, read as the kernel reads it."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.sim.nic_rig import Rig

ADDRESS, DATA, FLAG = 0xE2, 0xE4, 0x8000
TAGS = {0x82: "identifier", 0x90: "read only", 0x91: "read and write", 0x78: "end"}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with contextlib.closing(Rig()) as rig:
        yield rig


def read(rig: Rig, address: int) -> bytes:
    rig.config_write(ADDRESS, 2, address)
    assert rig.nic.config.word(ADDRESS) == address | FLAG  # done
    return rig.nic.config.read(DATA, 4)


def write(rig: Rig, address: int, data: bytes) -> None:
    rig.nic.config.write(DATA, data)
    rig.config_write(ADDRESS, 2, address | FLAG)
    assert rig.nic.config.word(ADDRESS) == address


def parts(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Tag -> where its data stands, and what it is."""
    found, at = {}, 0
    while data[at] != 0x78:
        size = int.from_bytes(data[at + 1 : at + 3], "little")
        found[TAGS[data[at]]] = (at + 3, data[at + 3 : at + 3 + size])
        at += 3 + size
    return found


def everything(rig: Rig) -> bytes:
    return b"".join(read(rig, address) for address in range(0, 160, 4))


def test_it_has_a_name_numbers_a_checksum_and_room(rig: Rig) -> None:
    data = everything(rig)
    found = parts(data)
    assert found["identifier"][1] == b"simulated 82599"
    at, fields = found["read only"]
    assert fields[:-1] == b"PN\x0aE10G42-SIM" + b"SN\x0c028259900000" + b"RV\x01"
    assert sum(data[: at + len(fields)]) & 0xFF == 0
    assert found["read and write"][1] == b"YA\x20" + bytes(32)
    assert rig.violations == []


def test_a_write_changes_what_is_writable_and_outlives_a_reset(rig: Rig) -> None:
    before = everything(rig)
    room = parts(before)["read and write"][0] + 3
    at = -(-room // 4) * 4
    write(rig, at, b"mine")
    rig.nic.full_reset()
    assert everything(rig) == before[:at] + b"mine" + before[at + 4 :]
    assert rig.violations == [f"port 0: VPD: a write of 0x656e696d at {at:#x} outlives the driver"]


@pytest.mark.parametrize("address", [0, 32, 0x7FFC])
def test_the_rest_cannot_be_written(rig: Rig, address: int) -> None:
    before = everything(rig)
    write(rig, address, b"\xff" * 4)
    assert everything(rig) == before
    assert len(rig.violations) == 1


def test_beyond_the_end_are_ones(rig: Rig) -> None:
    assert read(rig, 0x7FFC) == b"\xff" * 4
