"""Stands for the kernel's VFIO: open hands out memfds, ioctl remembers what was asked and answers as a test says."""

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from ixy_vfio_helper import vfio

Answer = Callable[[bytearray], int | None]


class Calls:
    """`made` has (path of the descriptor, number, argument) of each ioctl; `answers` what is done beside, by number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int, Any]] = []
        self.answers: dict[int, Answer] = {vfio.GROUP_GET_STATUS: lambda data: fill(data, "II", 8, vfio.GROUP_VIABLE)}
        self.paths: dict[int, str] = {}
        monkeypatch.setattr("ixy_vfio_helper.vfio.os.open", self._open)
        monkeypatch.setattr("ixy_vfio_helper.vfio.fcntl.ioctl", self._ioctl)

    def _fd(self, name: str) -> int:
        fd = os.memfd_create(name)
        self.paths[fd] = name
        return fd

    def _open(self, path: str, flags: int) -> int:
        assert flags & os.O_CLOEXEC
        return self._fd(path)

    def _ioctl(self, fd: int, number: int, data: Any = 0) -> int:
        self.made.append((self.paths[fd], number, bytes(data) if isinstance(data, bytearray | bytes) else data))
        if number in self.answers:
            return self.answers[number](data) or 0
        return self._fd("device") if number == vfio.GROUP_GET_DEVICE_FD else 0

    def numbers(self) -> list[int]:
        """What was asked since the last time."""
        numbers = [number for _, number, _ in self.made]
        self.made.clear()
        return numbers

    def containers(self) -> list[int]:
        """The container that each group was put into."""
        return [struct.unpack("i", data)[0] for _, number, data in self.made if number == vfio.GROUP_SET_CONTAINER]


def fill(data: bytearray, layout: str, *values: int, at: int = 0) -> None:
    """Answer with these values."""
    struct.pack_into("=" + layout, data, at, *values)


def failing(number: int) -> Answer:
    """Answer with this error."""

    def fail(data: bytearray) -> None:
        raise OSError(number, os.strerror(number))

    return fail
