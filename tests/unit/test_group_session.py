"""The order and the arguments of the kernel calls that open a device by its group, without a kernel."""

import os
import struct
from typing import Any

import pytest
from ixy_vfio_helper import vfio
from ixy_vfio_helper.vfio import GroupSession


class Calls:
    """Stands for open and ioctl: hands out memfds, remembers what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int, Any]] = []
        self._paths: dict[int, str] = {}
        monkeypatch.setattr("ixy_vfio_helper.vfio.os.open", self._open)
        monkeypatch.setattr("ixy_vfio_helper.vfio.fcntl.ioctl", self._ioctl)

    def _fd(self, name: str) -> int:
        fd = os.memfd_create(name)
        self._paths[fd] = name
        return fd

    def _open(self, path: str, flags: int) -> int:
        assert flags & os.O_CLOEXEC
        return self._fd(path)

    def _ioctl(self, fd: int, number: int, data: Any = 0) -> int:
        self.made.append((self._paths[fd], number, bytes(data) if isinstance(data, bytearray | bytes) else data))
        if number == vfio.GROUP_GET_STATUS:
            struct.pack_into("=II", data, 0, 8, vfio.GROUP_VIABLE)
        return self._fd("device") if number == vfio.GROUP_GET_DEVICE_FD else 0

    def containers(self) -> list[int]:
        """The container that each group was put into."""
        return [struct.unpack("i", data)[0] for _, number, data in self.made if number == vfio.GROUP_SET_CONTAINER]


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
