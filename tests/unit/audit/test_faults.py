"""The second witness of an attack: what is made of the kernel's count of an IOMMU's faults, and of its log."""

from pathlib import Path
from typing import Any, cast

import pytest

from ixy_vfio.audit.attack import field
from ixy_vfio.audit.attack.engine import BLOCK
from ixy_vfio.audit.attack.field import Lab
from ixy_vfio.audit.model import Status
from ixy_vfio.core.errors import LeaseError

WHERE = 0x10_4000_0000
HEAD = "            CPU0       CPU1\n  24:         15          2  DMAR-MSI          0-edge      dmar1\n"
LOGGED = "DMAR: [DMA Read NO_PASID] Request device [03:00.0] fault addr 0x1040000000 [fault reason 0x06]"


class Machine:
    """A lease, and a device that does as it was told to; each DMA may be counted, or logged."""

    address = "0000:03:00.0"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = self.logs = self.harms = False
        self.gives: bytes | None = None
        self.size, self.iova, self.view = 4096, 0x10_0000_0000, memoryview(bytearray(field.CANARY * 4096))
        self.report(7)

    def report(self, count: int) -> None:
        self.count = count
        self.path.write_text(f"{HEAD}  25:          {count}          3  DMAR-MSI          0-edge      dmar0\n")

    def read(self, iova: int, grace: float = 0.0) -> bytes | None:
        assert iova == WHERE
        if self.counts:
            self.report(self.count + 1)
        return self.gives

    def write(self, iova: int, nonce: bytes) -> None:
        self.read(iova)
        if self.harms:
            self.view[5] = 0

    def check(self) -> None:
        if self.logs:
            raise LeaseError(f"the helper ended the lease: {self.address}: its DMA was blocked: {LOGGED}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(field, "INTERRUPTS", str(tmp_path / "interrupts"))
    monkeypatch.setattr(field, "LOG_LAG", 0.02)
    return Machine(tmp_path / "interrupts")


def lab(here: Machine) -> Lab:
    part = cast(Any, here)
    return Lab(part, part, part, part, part, part, "dmar0", field.faults("dmar0"))


def test_the_count_is_of_all_processors_and_of_one_unit(here: Machine) -> None:
    assert [field.faults(unit) for unit in ("dmar0", "dmar1", "dmar2", "")] == [10, 17, 0, 0]


@pytest.mark.parametrize(
    ("gives", "counts", "status"),
    [
        (bytes(BLOCK), True, Status.PASS),
        (b"\xff" * BLOCK, True, Status.PASS),
        (None, True, Status.PASS),
        (bytes(BLOCK), False, None),  # it cannot be told
        (None, False, None),  # the lease may have been over
        (b"\0" * (BLOCK - 1) + b"\1", True, Status.FAIL),  # something came out, whatever was counted
    ],
)
def test_a_quick_read_passes_only_with_a_fault_of_its_own(
    here: Machine, gives: bytes | None, counts: bool, status: Status | None
) -> None:
    here.gives, here.counts = gives, counts
    found = lab(here).quick_read("there", WHERE)
    assert (found and found.status) == status


@pytest.mark.parametrize(("counts", "harms", "status"), [(1, 0, Status.PASS), (0, 0, None), (1, 1, Status.FAIL)])
def test_a_quick_write(here: Machine, counts: int, harms: int, status: Status | None) -> None:
    here.counts, here.harms = bool(counts), bool(harms)
    found = lab(here).quick_write("there", WHERE)
    assert (found and found.status) == status


@pytest.mark.parametrize(
    ("counts", "logs", "text", "evidence"),
    [
        (True, True, "held back, and logged as a fault", ("fault", LOGGED)),
        (False, True, "held back, and logged as a fault", ("fault", LOGGED)),
        (True, False, "held back, and counted as a fault", ("interrupts", "dmar0: 1 more")),
        (False, False, "held back; no fault was logged", ("memory", "canaries unchanged, nothing came back")),
    ],
)
def test_a_log_says_more_than_a_count(
    here: Machine, counts: bool, logs: bool, text: str, evidence: tuple[str, str]
) -> None:
    one = lab(here)
    here.counts, here.logs = counts, logs
    here.read(WHERE)
    found = one.verdict("there", WHERE, None)
    assert (found.status, found.text) == (Status.PASS, f"there ({WHERE:#x}): {text}")
    last = found.evidence[-1]
    assert (Path(last.path).name, last.value) == evidence
