"""What attacks act on: leases, one after the other, each with a device, memory that holds canaries, and an engine.

The verdict is by memory first: what the device wrote shows in a canary, or is read back by the device; what it read
comes out of it again. A fault of the IOMMU, which ends the lease, is the second witness: its log is late and limited.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ixy_vfio.audit.attack.engine import BLOCK, DEADLINE, GRACE, LANDED, WORK, Engine, grace_after, wait
from ixy_vfio.audit.model import Finding, Findings, Status, fail, passed, warn
from ixy_vfio.audit.reading import Reading
from ixy_vfio.core import pci
from ixy_vfio.core.errors import IxyError, LeaseError, RefusedError, UsageError
from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.hw.devices import driver_for
from ixy_vfio.transport.base import Device
from ixy_vfio.transport.lease import Lease, Purpose

CANARY = b"\xc5"
RINGS = 8192  # bytes
TARGET = 8192  # bytes of memory that nothing is to be done to
FREE_AGAIN = 60.0  # seconds for the lease of a process that was killed to end
FAULT_WAIT = 1.5  # seconds for a fault to be logged, and the helper to read it
SHORT_GRACE = 0.03  # seconds for a read to come out where a count of faults must say that it was held back
COUNT_LAG = 0.1  # the same, to be counted
LOG_LAG = 0.2  # the same, from when it was counted: Linux counts every fault, and logs only some
ATTEMPTS = 2  # at a read that the device answered with zeros
SIMULATED = "8259:"
INTERRUPTS = "/proc/interrupts"


class ControlFailed(IxyError):
    """The positive control failed: what must succeed did not, so that a failed attack would mean nothing."""


def supported(vendor: int, device: int) -> bool:
    """Whether there is an engine for this kind of device."""
    from ixy_vfio.audit.attack import edu, igb

    return driver_for(vendor, device) == "ixgbe" or (vendor, device) in (igb.IDS, edu.IDS)


def make_engine(device: Device, rings: DmaMemory, work: DmaMemory) -> Engine:
    """An engine for this kind of device. UsageError when there is none."""
    ids = pci.identify(device)
    if driver_for(*ids) == "ixgbe":
        from ixy_vfio.audit.attack import ixgbe

        return ixgbe.engine(device, rings, work)
    from ixy_vfio.audit.attack import edu, igb

    if ids == igb.IDS:
        return igb.engine(device, rings, work)
    if ids == edu.IDS:
        return edu.Edu(device, rings, work)
    raise UsageError(f"{device.address}: {ids[0]:04x}:{ids[1]:04x} is no device that the audit can attack with")


@dataclass(slots=True)
class Lab:
    """One lease, ready for one attack: the controls were done, and canaries lie in `target`."""

    lease: Lease
    device: Device
    rings: DmaMemory
    work: DmaMemory
    target: DmaMemory | None
    engine: Engine
    unit: str  # the IOMMU of the device, if it counts faults: dmar0
    counted: int  # faults of it when the lease began
    grace: float = GRACE  # seconds for a read that must not come out

    @property
    def memories(self) -> list[tuple[str, DmaMemory]]:
        """All that is mapped for the device."""
        return [("rings", self.rings), ("work", self.work), *([("packets", self.target)] if self.target else [])]

    @property
    def simulated(self) -> bool:
        """Whether no IOMMU is involved."""
        return self.device.address.startswith(SIMULATED)

    @property
    def unmapped(self) -> int:
        """An IOVA far from everything."""
        return max(memory.iova + memory.size for _, memory in self.memories) + (1 << 30)

    def prepare(self) -> None:
        """Start the device and do the controls: it writes and reads where it may. Raises ControlFailed."""
        self.engine.start()
        memory, offset = self.work, LANDED
        wanted = self.engine.write(memory.iova + offset, os.urandom(8))
        if not wait(lambda: bytes(memory.view[offset : offset + BLOCK]) == wanted):
            raise ControlFailed("positive control failed: the device does not write to memory of its own lease")
        begun = time.monotonic()
        if self.engine.read(memory.iova + offset, DEADLINE) != wanted:
            raise ControlFailed("positive control failed: the device does not read memory of its own lease")
        self.grace = grace_after(time.monotonic() - begun)
        memory.view[offset : offset + 4096] = bytes(4096)
        if self.target is not None:
            self.target.view[:] = CANARY * self.target.size

    def harmed(self) -> str | None:
        """Which canary is not as it was."""
        if self.target is not None and (found := first_change(self.target.view)) is not None:
            return f"memory of the session changed at IOVA {self.target.iova + found:#x}"
        return None

    def fault(self, seconds: float = FAULT_WAIT) -> Reading | None:
        """A fault of the IOMMU: as it was logged, if the helper ends the lease for it in time; else its count."""
        end = time.monotonic() + (0.0 if self.simulated else seconds)
        seen = ""
        while True:
            try:
                self.lease.check()
            except LeaseError as error:
                if fault := str(error).partition("was blocked: ")[2]:
                    return Reading("fault", fault)
            if not seen and (more := faults(self.unit) - self.counted) > 0:
                seen, end = f"{self.unit}: {more} more", min(end, time.monotonic() + LOG_LAG)
            if time.monotonic() > end:
                return Reading(INTERRUPTS, seen) if seen else None
            time.sleep(0.01)

    def counted_soon(self, before: int) -> bool:
        """Whether the IOMMU has counted one more fault."""
        return wait(lambda: faults(self.unit) > before, COUNT_LAG)

    def quick_read(self, what: str, iova: int) -> Finding | None:
        """Let the device read where it must not, in a lease that may be about to end for a fault before.

        None: no fault was counted for it, so that it cannot be told from what was cut off by that end.
        """
        before = faults(self.unit)
        got = self.engine.read(iova, SHORT_GRACE)
        if got is not None and not filler(got):
            return self.verdict(what, iova, f"the device read it: {got[:8].hex()}...")
        return counted(what, iova) if self.counted_soon(before) else None

    def quick_write(self, what: str, iova: int) -> Finding | None:
        """The same for a write."""
        before = faults(self.unit)
        self.engine.write(iova, os.urandom(8))
        if harm := self.harmed():
            return self.verdict(what, iova, harm)
        return counted(what, iova) if self.counted_soon(before) else None

    def verdict(self, what: str, iova: int, reached: str | None) -> Finding:
        """PASS or FAIL of one attack."""
        if reached is not None:
            return fail(f"{what} ({iova:#x}): {reached}", Reading("memory", reached))
        fault = self.fault()
        memory = Reading("memory", "canaries unchanged, nothing came back")
        if fault is None:
            why = "" if self.simulated else "; no fault was logged"
            return passed(f"{what} ({iova:#x}): held back{why}", memory)
        how = "counted" if fault.path == INTERRUPTS else "logged"
        return passed(f"{what} ({iova:#x}): held back, and {how} as a fault", memory, fault)


def counted(what: str, iova: int) -> Finding:
    """PASS: held back, as the IOMMU's count says."""
    return passed(f"{what} ({iova:#x}): held back, and counted as a fault", Reading(INTERRUPTS, "one fault more"))


def unit_of(address: str) -> str:
    """The IOMMU that a device is behind, if its faults are counted: VT-d's are, by the name of the unit (dmar0)."""
    link = f"/sys/bus/pci/devices/{address}/iommu"
    unit = os.path.basename(os.readlink(link)) if os.path.islink(link) else ""
    return unit if _lines(unit) else ""


def faults(unit: str) -> int:
    """How often this IOMMU has interrupted for faults."""
    return sum(int(word) for line in _lines(unit) for word in line[1:] if word.isdigit())


def _lines(unit: str) -> list[list[str]]:
    lines = Path(INTERRUPTS).read_text().splitlines() if unit else []
    return [words for line in lines if (words := line.split())[-1:] == [unit]]


def filler(got: bytes) -> bool:
    """Whether it is what devices give out in the place of what they could not read."""
    return got in (bytes(len(got)), b"\xff" * len(got))


def first_change(view: memoryview) -> int | None:
    """Offset of the first byte that is no canary."""
    data = bytes(view)
    return None if data == CANARY * len(data) else next(i for i, byte in enumerate(data) if byte != CANARY[0])


Place = Callable[[Lab], int]  # an IOVA, of a lease that is ready


@dataclass(slots=True)
class Field:
    """One attack's field. `uid` is of the auditor; `msi` whether the MSI window may be written to."""

    address: str
    helper: str | None = None
    msi: bool = False
    uid: int = field(default_factory=os.geteuid)

    @contextmanager
    def lab(self, target: bool = True) -> Iterator[Lab]:
        """A lease, ready; it ends with the block. Raises ControlFailed, RefusedError, DeviceError."""
        with self.lease() as lease:
            device = self.attach(lease)
            rings = lease.memory(RINGS, [device], Purpose.RINGS)
            work = lease.memory(WORK, [device], Purpose.PACKETS)
            more = lease.memory(TARGET, [device], Purpose.PACKETS) if target else None
            unit = unit_of(self.address)
            lab = Lab(lease, device, rings, work, more, make_engine(device, rings, work), unit, faults(unit))
            try:
                lab.prepare()
                yield lab
            finally:
                lab.engine.close()

    def lease(self) -> Lease:
        """A lease, without a device."""
        return Lease(self.helper)

    def attach(self, lease: Lease) -> Device:
        """Lease the device; waits while the lease before it ends."""
        end = time.monotonic() + FREE_AGAIN
        while True:
            try:
                return lease.attach(self.address)
            except RefusedError as error:
                if "leased by" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def read(self, what: str, place: Place, target: bool = True, known: bytes | None = None) -> Finding:
        """Let the device read where it must not. `known`: what is there, where that is known.

        Some devices give out zeros (or ones) in the place of what was held back. Then the IOMMU's fault tells; as it
        is not always logged, there are some attempts.
        """
        iova, got = 0, None
        for _ in range(ATTEMPTS):
            with self.lab(target) as lab:
                iova = place(lab)
                got = lab.engine.read(iova, lab.grace)
                if known is not None:
                    return lab.verdict(what, iova, None if got != known else "the device read it: a canary came out")
                if got is None or (filler(got) and lab.fault()):
                    return lab.verdict(what, iova, None)
                if not filler(got):
                    return lab.verdict(what, iova, f"the device read it: {got[:8].hex()}...")
        return warn(
            f"{what} ({iova:#x}): {(got or b'')[:1].hex()}... came out, and no fault was logged: it cannot be told"
        )

    def reads(self, places: Sequence[tuple[str, Place]]) -> Findings:
        """The same at several places, in as few leases as it takes: each goes on until a logged fault ends it."""
        left = list(places)
        while left:
            if not unit_of(self.address):
                yield self.read(*left.pop(0))
                continue
            count = len(left)
            with self.lab() as lab:
                while left and (found := lab.quick_read(left[0][0], left[0][1](lab))):
                    yield found
                    left.pop(0)
            if len(left) == count:
                yield self.read(*left.pop(0))

    def write(self, what: str, place: Place) -> Finding:
        """Let the device write where it must not; only where it cannot read: else it is memory, perhaps somebody's."""
        found = None
        if unit_of(self.address):
            with self.lab() as lab:
                found = lab.quick_read(what, place(lab))
                if found and found.status is Status.PASS and (wrote := lab.quick_write(what, place(lab))):
                    return wrote
        read = found or self.read(what, place)
        if read.status is not Status.PASS:
            return Finding(read.status, f"{read.text}; not written to, as it may be anybody's memory", read.evidence)
        with self.lab() as lab:
            return self.write_in(lab, what, place(lab))

    def write_in(self, lab: Lab, what: str, iova: int, canary: Callable[[], str | None] = lambda: None) -> Finding:
        """The same in a lease that is ready; `canary` looks at memory that the lease does not know of."""
        wanted = lab.engine.write(iova, os.urandom(8))
        reached = lab.harmed() or canary()
        if reached is None and lab.fault(0.0) is None and lab.engine.read(iova, lab.grace) == wanted:
            reached = "the device wrote there, and can read it back"
        return lab.verdict(what, iova, reached)
