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


WITHOUT_MSI = """
device=/sys/bus/pci/devices/$1
echo "$1" > /sys/bus/pci/drivers/ixgbe/unbind
echo 0 > "$device/msi_bus"
echo "$1" > /sys/bus/pci/drivers/ixgbe/bind
ls "$device/net"
ls "$device/msi_irqs" 2>/dev/null || true
"""


@in_guest(PORTS)
def test_linux_drives_a_port_by_its_interrupt_pin(guest: Guest) -> None:
    """One end of the cable is told that it has neither MSI nor MSI-X (`msi_bus` is 0), as on a board without them."""
    load(guest, "ixgbe")
    first, second = (guest.address(name) for name in ("port0", "port1"))
    assert guest.simulator is not None
    before = guest.simulator.ask("counters", port=0)
    said = guest.run(["sh", "-ec", WITHOUT_MSI, "sh", first], timeout=300)
    assert len(said.stdout.split()) == 1  # the interface, and no message interrupts
    result = json.loads(inside(guest, "two_hosts", first, second, timeout=480))
    assert result == {"carrier": True, "echoes": 40, "tagged": 7, "stream": True}
    guest.run(["sh", "-c", f"echo 1 > /sys/bus/pci/devices/{first}/msi_bus"])  # for the next driver
    after = guest.simulator.ask("counters", port=0)
    assert after["interrupts"] == before["interrupts"]
    assert after["intx"] - before["intx"] > 94  # at least one for each datagram there and back
    assert not re.search(r"DMAR: \[DMA|NETDEV WATCHDOG|nobody cared|tx hang", guest.kernel_log())
    assert violations(guest) == []


@in_guest(PORTS)
def test_a_stray_dma_of_the_port_is_a_fault_in_the_log(guest: Guest) -> None:
    load(guest, "vfio-pci")
    address, other_end = guest.address("port0"), guest.address("port1")
    told = json.loads(inside(guest, "stray_dma", "legacy", address, other_end, timeout=180))
    assert told["mapped"] == 1
    device = rf"\[(0000:)?{address.removeprefix('0000:')}\]"  # newer kernels write the domain
    assert re.search(rf"DMA Read .*{device} fault addr 0x900000", told["fault"]), told


@in_guest(PORTS)
def test_the_pin_and_the_message_by_vfio(guest: Guest) -> None:
    """Linux's VFIO, as a stranger to the simulator, masks the line by itself and unmasks it when it is told to."""
    load(guest, "vfio-pci")
    told = json.loads(inside(guest, "single_signal", guest.address("port0"), timeout=180))
    assert told == {"intx": [1, 0, 1, 0, 1], "msi": [1, 0, 1]}
