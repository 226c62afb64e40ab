"""What devices may do with memory, as both ways into VFIO tell the kernel (linux/vfio.h, linux/iommufd.h)."""

import os
from dataclasses import replace
from typing import Any

import pytest
from ixy_vfio_helper import iommufd, memory, vfio
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.vfio import GroupSession


@pytest.mark.parametrize(("writable", "container", "file"), [(True, 1 | 2, 1 | 2 | 4), (False, 1, 1 | 4)])
def test_memory_that_devices_may_only_read(
    monkeypatch: pytest.MonkeyPatch, writable: bool, container: int, file: int
) -> None:
    made = replace(memory.allocate(4096, huge=False), writable=writable)
    asked: list[tuple[int, int]] = []

    def control(fd: int, number: int, layout: str, *fields: Any, room: int = 0) -> bytearray:
        asked.append((number, fields[0]))
        return bytearray()

    for module in (vfio, iommufd):
        monkeypatch.setattr(module, "control", control)
    try:
        GroupSession("0000:03:00.0", "17").map(made, 0x10_0000_0000)
        CdevSession("0000:03:00.0", "vfio0", "17").map(made, 0x10_0000_0000)
    finally:
        os.close(made.fd)
    assert asked == [(vfio.IOMMU_MAP_DMA, container), (iommufd.IOAS_MAP_FILE, file)]
