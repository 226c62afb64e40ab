"""The text form of a machine, and what is read of a real one."""

import os
from pathlib import Path

import pytest

from ixy_vfio.audit import tree
from ixy_vfio.audit.system import Denied, LiveSystem, Node

TEXT = """uid 1000
lacks landlock-scope: needs Landlock 6, this kernel has 4
lacks mseal: Function not implemented
/dev/vfio/12 @ c 0600 0 0
/proc/7/fd/3 -> anon_inode:[eventfd]
/proc/7/map_files/10-20 ~ 7
/proc/7/maps !
/proc/cmdline: quiet intel_iommu=on
/proc/interrupts:
     0:  1  IR-IO-APIC
     1:  2  IR-PCI-MSI
/sys/bus/pci/devices/0000:03:00.0 -> ../../../devices/pci0000:00/0000:03:00.0
/sys/devices/pci0000:00/0000:03:00.0/config = 64 0:8680fb10 34:40
/sys/kernel/debug/
"""


def test_every_kind_of_line() -> None:
    machine = tree.load(TEXT)
    assert machine.uid == 1000
    assert machine.lacks() == {
        "landlock-scope": "needs Landlock 6, this kernel has 4", "mseal": "Function not implemented",
    }  # fmt: skip
    assert machine.data("/proc/cmdline") == b"quiet intel_iommu=on\n"
    assert machine.data("/proc/interrupts") == b" 0:  1  IR-IO-APIC\n 1:  2  IR-PCI-MSI\n"
    assert machine.node("/dev/vfio/12") == Node("c", 0o600, 0, 0)
    assert machine.target("/proc/7/fd/3") == "anon_inode:[eventfd]"
    assert machine.seals("/proc/7/map_files/10-20") == 7
    config = machine.data("/sys/bus/pci/devices/0000:03:00.0/config")
    assert config == b"\x86\x80\xfb\x10" + bytes(0x30) + b"\x40" + bytes(11)
    assert machine.resolve("/sys/bus/pci/devices/0000:03:00.0") == "/sys/devices/pci0000:00/0000:03:00.0"
    assert machine.names("/sys/bus/pci/devices/0000:03:00.0") == ["config"]
    assert machine.names("/sys/kernel/debug") == []
    assert machine.node("/sys/kernel") == Node("d", 0o755, 0, 0)
    with pytest.raises(Denied, match="/proc/7/maps"):
        machine.data("/proc/7/maps")


def test_what_is_not_there() -> None:
    machine = tree.load(TEXT)
    assert machine.data("/proc/version") is None
    assert machine.names("/nowhere") == []
    assert machine.target("/proc/cmdline") is None
    assert machine.resolve("/nowhere") is None
    assert machine.node("/nowhere") is None
    assert machine.seals("/proc/cmdline") is None


def test_dump_is_the_inverse_of_load() -> None:
    machine = tree.load(TEXT)
    assert tree.load(tree.dump(machine)) == machine
    layers: dict[str, str] | None
    for layers in ({}, None):  # nothing is missing; not known
        machine.layers = layers
        assert tree.load(tree.dump(machine)).lacks() == layers


def test_a_line_that_is_not_understood_is_named() -> None:
    with pytest.raises(ValueError, match="line 2: not understood: what"):
        tree.load("uid 0\nwhat\n")


def test_a_live_system_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_text("text")
    (tmp_path / "dir" / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("dir/file")
    system = LiveSystem(str(tmp_path))
    assert system.data("/dir/file") == b"text"
    assert system.names("/dir") == ["file"]
    assert system.target("/link") == "dir/file"
    assert system.resolve("/link") == "/dir/file"
    assert system.node("/link") == Node("-", 0o640, os.getuid(), os.getgid())
    assert [system.data("/no"), system.target("/no"), system.resolve("/no"), system.node("/no")] == [None] * 4
    assert system.names("/no") == []


def test_the_seals_of_a_memfd() -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        assert LiveSystem().seals(f"/proc/self/fd/{fd}") == 0
    finally:
        os.close(fd)
    assert LiveSystem().seals("/proc/self/status") is None
