"""The simulated 82599 as a PCI device of a guest: Linux's own ixgbe driver judges it, and the IOMMU guards it."""

import json
import re
import sys

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import in_guest, inside, load

pytestmark = pytest.mark.vm

PORTS = Config(kernel="stock", ports=2, cables=("0:port:1",), sim_options=("--no-helper",))
# What Linux 6.12 does against the datasheet, or beside it, and hardware does not mind.
LINUX_HABITS = (
    r"RXDCTL\[\d+\]: write of 0x04000000 ",  # "software flush": a reserved bit of the 82599
    r"FCRTH\[[1-7]\]: write of 0xffffa000 ",  # the size of an empty packet buffer, less 24 KiB
    r"EITR\[\d+\]: write of 0x0000079e ",  # 1950, reserved bits and all
    r"still holds a write-back \(DD is set\)",  # it looks at the length, not at DD
    r"violations more than were kept",
)


def violations(guest: Guest) -> list[str]:
    assert guest.simulator is not None
    found: list[str] = guest.simulator.ask("violations")["violations"]
    return [text for text in found if not any(re.search(habit, text) for habit in LINUX_HABITS)]


@in_guest(PORTS)
def test_linux_drives_two_cabled_ports(guest: Guest) -> None:
    load(guest, "ixgbe")
    ports = [guest.address(name) for name in ("port0", "port1")]
    argv = [sys.executable, "-m", "tests.vm.inside.two_hosts", *ports, "9000"]
    result = json.loads(guest.run(argv, timeout=480).stdout)
    # Sizes 1, 38, ... 8955 of plain datagrams; 1, 212, ... tagged ones; 4 MiB by TCP, segmented and summed by the NIC.
    assert result == {"carrier": True, "echoes": 243, "tagged": 43, "stream": True}
    assert not re.search(r"DMAR: \[DMA|NETDEV WATCHDOG|Tx Unit Hang|tx hang", guest.kernel_log())
    assert violations(guest) == []


@in_guest(PORTS)
def test_a_stray_dma_of_the_port_is_a_fault_in_the_log(guest: Guest) -> None:
    load(guest, "vfio-pci")
    address, other_end = guest.address("port0"), guest.address("port1")
    told = json.loads(inside(guest, "stray_dma", "legacy", address, other_end, timeout=180))
    assert told["mapped"] == 1
    device = rf"\[(0000:)?{address.removeprefix('0000:')}\]"  # newer kernels write the domain
    assert re.search(rf"DMA Read .*{device} fault addr 0x900000", told["fault"]), told
