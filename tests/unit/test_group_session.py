"""The order and the arguments of the kernel calls that open a device by its group, without a kernel."""

import errno
import os
import struct

import pytest
from ixy_vfio_helper import vfio
from ixy_vfio_helper.memory import WINDOW
from ixy_vfio_helper.vfio import GroupSession

from tests.unit.vfio_calls import Calls, failing, fill


def test_order_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = GroupSession("0000:03:00.0", "17")
    session.open_device()
    (container,) = calls.containers()
    assert calls.made == [
        ("/dev/vfio/17", vfio.GROUP_GET_STATUS, struct.pack("=II", 8, 0)),
        ("/dev/vfio/17", vfio.GROUP_SET_CONTAINER, struct.pack("i", container)),
        ("/dev/vfio/vfio", vfio.SET_IOMMU, vfio.TYPE1V2_IOMMU),
        ("/dev/vfio/17", vfio.GROUP_GET_DEVICE_FD, b"0000:03:00.0\0"),
    ]
    session.close()


def test_each_device_has_a_container_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    sessions = [GroupSession(f"0000:03:00.{n}", str(n)) for n in range(2)]
    for session in sessions:
        session.open_device()
    assert len(set(calls.containers())) == 2
    for session in sessions:
        session.close()


def test_the_descriptor_of_a_device_is_used_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    filler = [os.dup(0) for _ in range(300)]  # so that the next ones do not fit 8 bits
    try:
        session = GroupSession("0000:03:00.0", "17")
        assert session.open_device() > 255
        session.close()
    finally:
        for fd in filler:
            os.close(fd)
    assert len(calls.made) == 4


def test_a_group_that_is_not_viable_and_an_iommu_without_interrupt_remapping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls(monkeypatch)
    session = GroupSession("0000:03:00.0", "17")
    calls.answers[vfio.SET_IOMMU] = failing(errno.EPERM)
    with pytest.raises(PermissionError, match="the IOMMU does not remap interrupts; turn that on in the firmware"):
        session.open_device()
    calls.numbers()
    calls.answers[vfio.GROUP_GET_STATUS] = lambda data: fill(data, "II", 8, 2)  # in a container, not viable
    with pytest.raises(OSError, match="IOMMU group 17 has a device that another driver uses"):
        session.open_device()
    assert calls.numbers() == [vfio.GROUP_GET_STATUS]
    session.close()


def test_the_ranges_of_a_container_are_found_in_the_chain_of_its_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = GroupSession("0000:03:00.0", "17")
    session.open_device()

    def answer(data: bytearray) -> None:
        assert len(data) == 4096
        fill(data, "IIQI", 4096, 2, 1 << 12, 64)
        fill(data, "HHI", 2, 1, 128, at=64)  # another capability
        fill(data, "HHIII", vfio.CAP_IOVA_RANGE, 1, 0, 2, 0, at=128)
        fill(data, "4Q", 0, 0xFEDFFFFF, 0xFEF00000, (1 << 39) - 1, at=144)

    calls.answers[vfio.IOMMU_GET_INFO] = answer
    assert list(session.usable()) == [(0, 0xFEE00000), (0xFEF00000, 1 << 39)]
    calls.answers[vfio.IOMMU_GET_INFO] = lambda data: fill(data, "IIQI", 4096, 0, 1 << 12, 0)
    assert list(session.usable()) == [WINDOW]  # a kernel that does not tell
    session.close()
