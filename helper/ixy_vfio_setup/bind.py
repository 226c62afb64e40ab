"""Gives a NIC to vfio-pci, and back to the driver that had it, with all that was set at its interface.

What was found is written to a journal (bound.py) before anything is changed. One device at a time is bound, by
driver_override; never by new_id, which would claim every device of the same kind.
"""

import errno
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

from ixy_vfio_helper import identity
from ixy_vfio_helper.kernel import VFIO_PCI, PciDevice
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.nics import driver_for

from ixy_vfio_setup import netrestore, netstate
from ixy_vfio_setup.bound import Bound, Entry, Interface
from ixy_vfio_setup.device import driver_saw, remaps_interrupts

NO_INTERFACE = ("", "pci-stub", "uio_pci_generic", "igb_uio")  # drivers that make no network interface
PROBE_DEADLINE = 10.0  # seconds for a network driver to make its interface
UDEV_DEADLINE = 5.0  # seconds for udev to name it
IFF_UP = 1


def known(device: PciDevice) -> bool:
    """Whether a driver of this project knows the device."""
    return driver_for(device.number("vendor"), device.number("device")) != ""


def write(path: Path, text: str) -> None:
    """Write a sysfs attribute. An empty text would make no system call at all: the newline is what empties it."""
    path.write_text(text + "\n")


def _interfaces(device: PciDevice) -> list[Interface]:
    """Its interfaces, in the order of their ports. virtio has a folder of its own between device and interface."""
    parents = ["net", *(f"{name}/net" for name in device.entries("") if name.startswith("virtio"))]
    folders = [f"{parent}/{name}" for parent in parents for name in device.entries(parent)]
    found = []
    for folder in sorted(folders, key=lambda folder: device.number(f"{folder}/dev_port")):
        mtu, flags = device.number(f"{folder}/mtu"), device.number(f"{folder}/flags")
        found.append(Interface(os.path.basename(folder), mtu, bool(flags & IFF_UP), folder))
    return found


def check(device: PciDevice, down: bool = False, other: bool = False) -> None:
    """Raise Refusal if the device could not be leased when it is bound, or if somebody uses it."""
    where = device.address
    if not device.path.is_dir():
        raise Refusal(f"{where}: no such PCI device; see lspci -D")
    if device.number("class") >> 8 != 0x0200:
        raise Refusal(f"{where}: not an Ethernet controller (class {device.read('class')})")
    if not known(device) and not other:
        raise Refusal(f"{where}: {device.ids} is no NIC that a driver here knows; --other binds it all the same")
    device.refuse_without_iommu()
    identity.refuse_past_iommu(device, driver_saw(device))
    for neighbour in device.entries("iommu_group/devices"):
        found = PciDevice(neighbour, device.root)
        if neighbour != where and found.driver not in ("", VFIO_PCI) and found.number("class") >> 8 != 0x0604:
            raise Refusal(
                f"{where}: shares its IOMMU group with {neighbour} (driver {found.driver}); unbind that first"
            )
    for line in device.read("iommu_group/reserved_regions").splitlines():
        if line.split()[2] == "direct":
            raise Refusal(f"{where}: the firmware reserves memory for it (RMRR {line}); a setting there may end that")
    interrupts = (device.root / "proc/interrupts").read_text(errors="replace")
    if platform.machine() == "x86_64" and not remaps_interrupts(interrupts):
        raise Refusal(f"{where}: interrupts are not remapped; turn on VT-d (with x2APIC) or AMD-Vi in the firmware")
    _refuse_in_use(device, down)


def _refuse_in_use(device: PciDevice, down: bool) -> None:
    where = device.address
    if vfs := device.number("sriov_numvfs"):
        raise Refusal(f"{where}: has {vfs} virtual functions; run: echo 0 > {device.path}/sriov_numvfs")
    interfaces = _interfaces(device)
    if not interfaces and device.driver not in (*NO_INTERFACE, VFIO_PCI):
        raise Refusal(f"{where}: driver {device.driver}, but no interface here: it is in another network namespace")
    for interface in interfaces:
        above = [name.partition("_")[2] for name in device.entries(interface.folder) if name[:6] == "upper_"]
        if above or (device.path / interface.folder / "master").exists():
            raise Refusal(
                f"{where}: {interface.name} is part of {' '.join(above) or 'another interface'}; remove it there"
            )
        if above := netstate.uppers(device.number(f"{interface.folder}/ifindex")):
            raise Refusal(f"{where}: {' '.join(above)} stands on {interface.name}; remove it there")
        if interface.up and not down:
            raise Refusal(f"{where}: {interface.name} is up; run: ip link set {interface.name} down (or bind --down)")


def bind(device: PciDevice, journal: Bound, down: bool = False, other: bool = False, by: str = "") -> None:
    """Give the device to vfio-pci; `by` is kept in the entry.

    Raises Refusal before anything is changed; after an error all is put back.
    """
    check(device, down, other)
    if not (device.root / "sys/bus/pci/drivers" / VFIO_PCI).is_dir():
        raise Refusal(f"{device.address}: vfio-pci is not loaded; run: sudo modprobe vfio-pci")
    if journal.read(device.address) is not None:
        raise Refusal(f"{device.address}: bound already, or half way; see ixy-vfio-helper status, or recover")
    override = device.read("driver_override").replace("(null)", "")
    entry = Entry(device.address, device.driver, override, _saved(device), device.read("power/control"), by)
    journal.write(entry)
    try:
        for interface in entry.interfaces:
            if interface.up:
                netstate.set_down(interface.state["index"])
        _hand_over(device, VFIO_PCI)
        if device.driver != VFIO_PCI:
            raise OSError(errno.ENODEV, f"{device.address}: vfio-pci did not take the device; the kernel log says why")
    except Exception:
        restore(device, journal, entry)
        raise


def _saved(device: PciDevice) -> list[Interface]:
    """The interfaces, with all that is set at them."""
    return [
        replace(one, state=netstate.to_json(netstate.save(device.number(f"{one.folder}/ifindex"), device.root)))
        for one in _interfaces(device)
    ]


def lost(device: PciDevice) -> list[str]:
    """What unbind will not give back, one line each."""
    return [
        f"{one.name}: {line}"
        for one in _interfaces(device)
        for line in netstate.lost(device.number(f"{one.folder}/ifindex"))
    ]


def _hand_over(device: PciDevice, override: str, driver: str | None = None) -> None:
    """Give the device to the driver `override`: "" is the one that the kernel chooses. To none if `driver` is ""."""
    write(device.path / "driver_override", override)
    if device.driver:
        write(device.path / "driver/unbind", device.address)
    if driver != "":
        write(device.root / "sys/bus/pci/drivers_probe", device.address)


def restore(device: PciDevice, journal: Bound, entry: Entry) -> list[str]:
    """Put back what the entry says, wherever the bind or unbind ended, and forget it. Returns what is not as it was."""
    notes: list[str] = []
    if device.path.is_dir():  # it may have been unplugged
        if device.driver != entry.driver:
            _hand_over(device, entry.override, entry.driver)
        else:
            write(device.path / "driver_override", entry.override)
        for now, then in zip(_made(device, entry), entry.interfaces, strict=False):
            index = device.number(f"{now.folder}/ifindex")
            notes += [
                f"{then.name}: {line}" for line in netrestore.restore(index, _then(index, then, device), device.root)
            ]
        if entry.power and device.read("power/control") != entry.power:
            write(device.path / "power/control", entry.power)
    journal.remove(device.address)
    return notes


def _made(device: PciDevice, entry: Entry) -> list[Interface]:
    """The interfaces. Waits until the driver has made as many as before, and udev has named them. Raises OSError."""
    deadline = time.monotonic() + PROBE_DEADLINE
    while len(_interfaces(device)) < len(entry.interfaces):
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"{device.address}: {entry.driver} makes no interface; see the kernel log")
        time.sleep(0.05)
    deadline = time.monotonic() + UDEV_DEADLINE
    while (device.root / "run/udev/queue").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _interfaces(device)


def _then(index: int, interface: Interface, device: PciDevice) -> netstate.State:
    """What was set at an interface. The entry of an older helper has its name, MTU and state alone."""
    if interface.state:
        return netstate.from_json(interface.state)
    state = netstate.save(index, device.root)
    state.name, state.when = interface.name, 0.0
    state.flags = state.flags & ~IFF_UP | interface.up
    state.files["sys/class/net/@/mtu"] = f"{interface.mtu}\n"
    return state


def unbind(device: PciDevice, journal: Bound) -> list[str]:
    """Give the device back to the driver that had it; returns what is not as it was, one line each.

    Raises Refusal while somebody has it open.
    """
    entry = journal.read(device.address)
    if entry is None:
        raise Refusal(f"{device.address}: was not bound by this helper; there is nothing to put back")
    try:  # a group opens once. If somebody has it open, unbinding would wait for its end, perhaps for ever
        os.close(os.open(device.root / "dev/vfio" / device.link("iommu_group"), os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refusal(
                f"{device.address}: a process has it open; end it first (see ixy-vfio-helper status)"
            ) from None
    return restore(device, journal, entry)


def recover(journal: Bound, root: Path) -> dict[str, list[str]]:
    """Put back every device that a bind or unbind left half way: it has an entry, and is not vfio-pci's.

    Returns their addresses, each with what is not as it was.
    """
    done = {}
    for address in journal.addresses():
        device = PciDevice(address, root)
        entry = journal.read(address)
        if entry is not None and device.driver != VFIO_PCI:
            done[address] = restore(device, journal, entry)
    return done
