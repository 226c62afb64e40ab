"""Attacks on particular places: across an end, read-only memory, a lease that is over, physical memory, registers."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ixy_vfio.audit.attack.engine import BLOCK, DEADLINE, FORGED, GRACE, grace_after
from ixy_vfio.audit.attack.field import CANARY, INTERRUPTS, SIMULATED, ControlFailed, Field, Lab, first_change
from ixy_vfio.audit.model import Finding, Findings, fail, skip
from ixy_vfio.audit.reading import Reading
from ixy_vfio.core.errors import RefusedError
from ixy_vfio.core.memory import DmaMemory, Mapping
from ixy_vfio.transport.lease import Purpose

PAGE = 4096
DEVICES = Path("/sys/bus/pci/devices")
MEMORY_BAR = 0x200  # IORESOURCE_MEM, linux/ioport.h
NETWORK = "0x02"  # class
MSI_WINDOW = 0xFEE0_0000
PFN, PRESENT = (1 << 55) - 1, 1 << 63  # /proc/PID/pagemap
# The vector that Linux has for errors of an APIC: it counts one (ERR) and goes on. Others could halt a processor.
APIC_ERROR = (0xFE).to_bytes(4, "little")
COUNTED = ("NMI:", "SPU:", "ERR:", "MIS:", "THR:", "TRM:", "PIN:", "PIW:")  # lines of /proc/interrupts


def write_across(field: Field) -> Finding:
    """Let the device write half inside and half behind the lease's last memory."""
    with field.lab() as lab:
        assert lab.target is not None
        inside = BLOCK // 2
        end = lab.target.iova + lab.target.size
        wanted = lab.engine.write(end - inside, os.urandom(8))
        last = lab.target.view[lab.target.size - inside :]
        last[:] = CANARY * inside
        reached = lab.harmed()
        if reached is None and lab.fault(0.0) is None:
            got = lab.engine.read(end, lab.grace)
            if got is not None and got[: BLOCK - inside] == wanted[inside:]:
                reached = "the device wrote there, and can read it back"
        return lab.verdict("half of a write behind the packets", end, reached)


def write_read_only(field: Field) -> Finding:
    """Let the device write memory that it may only read."""
    with field.lab() as lab:
        try:
            memory = lab.lease.memory(PAGE, [lab.device], Purpose.READ_ONLY)
        except RefusedError as refused:
            return skip(f"the helper makes no such memory: {refused}")
        memory.view[:] = CANARY * memory.size
        if lab.engine.read(memory.iova, DEADLINE) != CANARY * BLOCK:
            raise ControlFailed("positive control failed: the device does not read memory that it may read")
        return field.write_in(lab, "memory that may only be read", memory.iova, lambda: _changed(memory))


def _changed(memory: DmaMemory) -> str | None:
    found = first_change(memory.view)
    return None if found is None else f"a canary changed, {found} bytes from its start"


def after_unmap(field: Field) -> Findings:
    """Read and write the memory of a lease that is over; it is full of canaries."""
    with field.lab() as lab:
        assert lab.target is not None
        old = lab.target
    # The helper has given its pages back; these are new ones. A mapping that an IOMMU has kept leads to the old ones,
    # which are full of canaries as well, and where the device can read back what it wrote.
    old.view[:] = CANARY * old.size
    yield field.read("memory of a lease that is over", lambda _: old.iova, target=False, known=CANARY * BLOCK)
    with field.lab(target=False) as lab:
        yield field.write_in(lab, "memory of a lease that is over", old.iova, lambda: _changed(old))


def ring_unmapped(field: Field) -> Finding:
    """Fetch descriptors from the memory of a lease that is over."""
    with field.lab() as lab:  # the next lease's work memory lies at the same address
        forged, old = lab.engine.forged(), lab.target
        assert old is not None
        old.view[: len(forged)] = forged
    if not forged:
        return skip("this device takes no descriptors")
    old.view[: len(forged)] = forged  # again: its pages were given back, and are new ones
    with field.lab(target=False) as lab:
        lab.work.view[FORGED : FORGED + len(forged)] = lab.engine.forged()
        begun = time.monotonic()
        if not lab.engine.fetch(lab.work.iova + FORGED, DEADLINE):
            raise ControlFailed("positive control failed: the device takes no descriptors from its own memory")
        grace = grace_after(time.monotonic() - begun, 2 * GRACE)
        reached = "the device did what the descriptors there say" if lab.engine.fetch(old.iova, grace) else None
        return lab.verdict("a ring in memory of a lease that is over", old.iova, reached)


def physical(field: Field) -> Findings:
    """Read and write a page of this process by its physical address."""
    if field.address.startswith(SIMULATED):
        yield skip("a simulated device: no physical memory is involved")
        return
    if field.uid:
        yield skip("only root learns where its memory lies")
        return
    fd = os.memfd_create("canary")
    os.ftruncate(fd, PAGE)
    with Mapping(fd, PAGE) as page:
        os.close(fd)
        page.view[:] = CANARY * PAGE
        where = _physical_address(page)
        what = "the physical address of a canary"
        found = field.read(what, lambda lab: _outside(lab, where), known=CANARY * BLOCK)
        yield found
        if found.status.name == "FAIL":
            return
        with field.lab() as lab:
            iova = _outside(lab, _physical_address(page))
            yield field.write_in(lab, what, iova, lambda: _unlike(page))


def _unlike(page: Mapping) -> str | None:
    return None if first_change(page.view) is None else "the canary changed"


def _physical_address(page: Mapping) -> int:
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        entry = int.from_bytes(os.pread(file.fileno(), 8, page.address // PAGE * 8), "little")
    if not entry & PRESENT or not entry & PFN:
        raise ControlFailed("the kernel does not tell where memory lies")
    return (entry & PFN) * PAGE


def _outside(lab: Lab, iova: int) -> int:
    if any(memory.iova <= iova < memory.iova + memory.size for _, memory in lab.memories):
        raise ControlFailed(f"{iova:#x} is mapped for the device by chance; try again")
    return iova


def sibling_bar(field: Field) -> Finding:
    """Read the registers of another device."""
    if field.address.startswith(SIMULATED):
        return skip("a simulated device: there are no others on its bus")
    sibling = next(_siblings(field.address), None)
    if sibling is None:
        return skip("no other network device, and none that waits for a program, has registers")
    name, address = sibling
    return field.read(f"registers of {name}", lambda lab: _outside(lab, address))


def _siblings(address: str) -> Iterator[tuple[str, int]]:
    """Devices with registers and where those lie: of the same card first. Only such as bear 64 bytes to be read."""
    for same_card in (True, False):
        for device in sorted(DEVICES.iterdir()):
            of_card = device.name.rpartition(".")[0] == address.rpartition(".")[0]
            if device.name == address or of_card is not same_card:
                continue
            driver = device / "driver"
            waits = driver.is_symlink() and os.readlink(driver).endswith("/vfio-pci")
            if not waits and not (device / "class").read_text().startswith(NETWORK):
                continue
            start, end, flags = (int(word, 16) for word in (device / "resource").read_text().splitlines()[0].split())
            if flags & MEMORY_BAR and end - start >= PAGE - 1:
                yield device.name, start


def msi_window(field: Field) -> Finding:
    """Write where writes are interrupts; bit 4 of an address says the format: remappable, or compatibility."""
    what = "the window of interrupts"
    before = _interrupts()
    with field.lab() as lab:
        lab.engine.write(MSI_WINDOW, APIC_ERROR * (BLOCK // len(APIC_ERROR)))
        if lab.simulated:
            return lab.verdict(what, MSI_WINDOW, lab.harmed())
        held = lab.verdict(what, MSI_WINDOW, None)
        rose = [name for name, count in _interrupts().items() if count > before.get(name, 0)]
        if rose:
            return fail(
                f"{what} ({MSI_WINDOW:#x}): an interrupt arrived: {', '.join(rose)}",
                Reading(INTERRUPTS, f"rose: {', '.join(rose)}"),
                *held.evidence[1:],
            )
        return held


def _interrupts() -> dict[str, int]:
    lines = [line.split() for line in Path(INTERRUPTS).read_text().splitlines()]
    return {
        line[0].rstrip(":"): sum(int(word) for word in line[1:] if word.isdigit())
        for line in lines if line and line[0] in COUNTED
    }  # fmt: skip
