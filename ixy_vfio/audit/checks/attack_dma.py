"""Attacks by DMA: the device reads and writes where no mapping is. Run by `--attack`, in this order."""

from types import ModuleType
from typing import TYPE_CHECKING

from ixy_vfio.audit.attack.check import attack_check
from ixy_vfio.audit.model import Findings, Severity, Status, skip

if TYPE_CHECKING:
    from ixy_vfio.audit.attack.field import Field, Lab

PAGE = 4096
UNMAPPED = "an address far from all mappings"


def places() -> ModuleType:
    """What only an attack needs: a look at the machine shall not wait for it."""
    from ixy_vfio.audit.attack import places as module

    return module


@attack_check("attack.read_unmapped", Severity.HIGH)
def read_unmapped(field: "Field") -> Findings:
    """A device reads nothing where nothing is mapped.

    The device reads 64 bytes of its own lease, which come out again (a NIC sends them to itself in loopback): the
    control. Then it is told to read where nothing is mapped, and nothing may come out.

    Why: who drives a device could otherwise send the memory of everybody to wherever packets go.

    Fix: do not use the device. Look at device.iommu, iommu.present and device.ats; see which driver of an IOMMU the
    kernel uses, and its log.
    """
    yield field.read(UNMAPPED, lambda lab: lab.unmapped)


@attack_check("attack.write_unmapped", Severity.HIGH)
def write_unmapped(field: "Field") -> Findings:
    """A device writes nothing where nothing is mapped.

    The device writes 64 bytes into its own lease: the control. Then it is told to write where nothing is mapped. No
    canary may change, and the device must not read back what it wrote. Where the device can read, nothing is written:
    it may be anybody's memory, and the check fails without.

    Why: who drives a device could otherwise change the kernel.

    Fix: as for attack.read_unmapped.
    """
    yield field.write(UNMAPPED, lambda lab: lab.unmapped)


@attack_check("attack.guard_pages", Severity.HIGH)
def guard_pages(field: "Field") -> Findings:
    """Nothing is mapped beside a mapping.

    The device is told to read the page before and the page behind each mapping of the lease, and (if nothing came out
    there) to write across the end of the last one: only what lies inside may arrive.

    Why: a length that a driver gets wrong, or a device that writes more than it was told, must hit nobody.

    Fix: look whether the helper's ledger and the IOMMU's tables agree (session.dma); a helper that was changed, or an
    IOMMU with larger pages than it says, can be the cause.
    """
    where = []
    for index, name in enumerate(("rings", "work memory", "packets")):

        def before(lab: "Lab", index: int = index) -> int:
            return lab.memories[index][1].iova - PAGE

        def behind(lab: "Lab", index: int = index) -> int:
            return lab.memories[index][1].iova + lab.memories[index][1].size

        where += [(f"the page before the {name}", before), (f"the page behind the {name}", behind)]
    found = list(field.reads(where))
    yield from found
    if found[-1].status is Status.PASS:
        yield places().write_across(field)
    else:
        yield skip("half of a write behind the packets: not tried, as it may be anybody's memory")


@attack_check("attack.read_only", Severity.HIGH)
def read_only(field: "Field") -> Findings:
    """A device cannot write what it may only read.

    The helper maps memory for reading alone; the device reads it (the control), then is told to write it.

    Why: rights of a mapping are a promise of their own: memory that is only to be sent shall not be changed by a
    device that was taken over.

    Fix: as for attack.read_unmapped; very old IOMMUs of Intel cannot tell reading from writing.
    """
    yield places().write_read_only(field)


@attack_check("attack.after_unmap", Severity.HIGH)
def after_unmap(field: "Field") -> Findings:
    """A mapping is gone when its lease is over.

    Memory of a lease that has ended is kept here, filled with a canary. In the next lease of the device, where nothing
    lies at its old address, the device is told to read and to write there.

    Why: the memory is somebody else's soon. A translation that is still cached in the IOMMU, or was never taken away,
    lets the device reach it.

    Fix: boot with iommu.strict=1 (sessions over VFIO are strict anyway); see the kernel's log for time-outs of
    invalidations.
    """
    yield from places().after_unmap(field)


@attack_check("attack.ring", Severity.HIGH)
def ring(field: "Field") -> Findings:
    """A device takes no descriptors from memory that is not mapped.

    The device fetches descriptors from another place of its own lease, and does what they say: the control. Then its
    ring is moved to the memory of a lease that is over, where the same descriptors lie.

    Why: a ring elsewhere would let the device be driven by whoever owns that memory, and shows that it can be read.

    Fix: as for attack.after_unmap.
    """
    yield places().ring_unmapped(field)


@attack_check("attack.physical", Severity.HIGH, needs_root=True)
def physical(field: "Field") -> Findings:
    """A physical address is no address for a device.

    The auditor fills a page of its own with a canary, and learns where it lies in physical memory (root, from
    /proc/self/pagemap). The device is told to read and to write that address.

    Why: this is what a device does without an IOMMU, in passthrough, or with translated requests (device.ats).

    Fix: look at device.iommu and device.ats; a device that gets through is not behind the IOMMU that it seems to be
    behind.
    """
    yield from places().physical(field)


@attack_check("attack.sibling_bar", Severity.HIGH)
def sibling_bar(field: "Field") -> Findings:
    """A device does not reach the registers of another.

    The device is told to read 64 bytes at the address at which the processor sees the registers of another device (the
    other port of the same card, else the nearest one that has registers). Nothing is written there.

    Why: who can write another port's registers drives it, with its mappings. Requests that a bridge passes straight to
    a sibling never meet the IOMMU: see device.acs.

    Fix: as for device.acs and device.group.
    """
    yield places().sibling_bar(field)


@attack_check("attack.msi", Severity.MEDIUM)
def msi(field: "Field") -> Findings:
    """A device cannot forge an interrupt.

    Only with --attack-msi. The device writes 64 bytes to 0xFEE00000, where writes are interrupts and are not
    translated: some of the bytes are interrupts in remappable format, of nobody's entry, others in compatibility
    format. Where interrupts are remapped, they are blocked, or mean nothing; where they are not, a processor gets an
    interrupt that nobody sent: vector 0xFE, which Linux counts as an error of the interrupt controller (ERR in
    /proc/interrupts) and forgets. QEMU's VT-d lets compatibility format pass whatever Linux says, and fails; its
    amd-iommu does not. **Other kernels than Linux as it is today may take vector 0xFE for something else.**

    Why: without interrupt remapping, whoever drives a device can send any vector to any processor (Wojtczuk and
    Rutkowska, 2011).

    Fix: see iommu.intremap and iommu.compatibility_format.
    """
    if not field.msi:
        yield skip("not tried: where it succeeds, a processor gets an interrupt; --attack-msi tries it")
        return
    yield places().msi_window(field)
