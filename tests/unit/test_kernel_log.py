"""Which records of the kernel's log end a lease: its own messages about the device, whole, and no others."""

import os
from pathlib import Path

import pytest
from ixy_vfio_helper.kernel_log import KernelLog

HERE, TWIN, FAR = "0000:04:00.0", "0001:04:00.0", "0001:05:00.0"
DEVICE, DEVICE_SEGMENT = "Request device [04:00.0]", f"Request device [{HERE}]"
VTD = f"DMAR: [DMA Write NO_PASID] {DEVICE} fault addr 0x900000 [fault reason 0x05] PTE Write access is not set"
SEGMENT = VTD.replace("[04:00.0]", "[%s]")
AMD = "AMD-Vi: Event logged [IO_PAGE_FAULT device=%s domain=0x0011 address=0x900000 flags=0x0020]"
AMD_OWN = "vfio-pci 0000:04:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0011 address=0x900000 flags=0x0020]"
RELAYED = "vfio-pci 0000:04:00.0: Relaying device request to user (#0)"
BLOCKED = "vfio-pci 0000:04:00.0: No device request channel registered, blocked until released by user"
FAULTS = [
    VTD,
    SEGMENT % HERE,
    # 5.10
    f"DMAR: [DMA Write] {DEVICE} PASID ffffffff fault addr 900000 [fault reason 05] PTE Write access is not set",
    f"DMAR: [INTR-REMAP] {DEVICE} fault index 1f [fault reason 37] Blocked a compatibility format interrupt request",
    # 5.14 to 7.2
    f"DMAR: [DMA Read NO_PASID] {DEVICE} fault addr 0xffffffffffff0000 [fault reason 0x06] PTE Read access is not set",
    f"DMAR: [DMA Read PASID 0x1a] {DEVICE_SEGMENT} fault addr 0x0 [fault reason 0x71] SM: Present bit in"
    " first-level paging entry is clear",
    f"DMAR: [DMA Write NO_PASID] {DEVICE} fault addr 0x1000 [fault reason 0x85] SM: No write permission for"
    " Write/AtomicOp request",
    f"DMAR: [DMA Write NO_PASID] {DEVICE} fault addr 0x1000 [fault reason 0x7c] SM: A/D bit update needed in"
    " second-level entry when set up in no snoop",
    f"DMAR: [DMA Write NO_PASID] {DEVICE} fault addr 0x1000 [fault reason 0x82] SM: No execute permission"
    " for request with PASID and ER=1",
    f"DMAR: [DMA Write NO_PASID] {DEVICE} fault addr 0x1000 [fault reason 0x48] SM: RID_PASID field error in"
    " Context-Entry",
    f"DMAR: [INTR-REMAP] {DEVICE} fault index 0x1234 [fault reason 0x22] Present field in the IRTE entry is clear",
    f"DMAR: [INTR-REMAP] {DEVICE_SEGMENT} fault index 0x0 [fault reason 0x26] Blocked an interrupt request due"
    " to source-id verification failure",
    AMD % "04:00.0",
    AMD % HERE,
    AMD_OWN,
    "AMD-Vi: Event logged [RMP_PAGE_FAULT device=04:00.0, vmg_tag=0x0000, gpa=0x12000, flags_rmp=0x0001, flags=0x0020]",
    "vfio-pci 0000:04:00.0: AMD-Vi: Event logged [RMP_HW_ERROR vmg_tag=0x0000, spa=0x12000, flags=0x0020]",
    "iommu ivhd0: AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=04:00.0 pasid=0x00000 address=0xfffffffdf8000000"
    " flags=0x0a00]",
    "iommu ivhd12: AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:04:00.0 pasid=0x00000 address=0x9000"
    " flags=0x0080]",
    "iommu ivhd0: AMD-Vi: Event logged [INVALID_PPR_REQUEST device=0000:04:00.0 pasid=0x00001 address=0x9000"
    " flags=0x0080 tag=0x001]",
    "iommu ivhd0: AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=0000:04:00.0 address=0x9000]",
]
OTHERS = [
    *(
        VTD.replace("[04:00.0]", f"[{other}]")
        for other in ("04:00.1", "14:00.0", "0001:04:00.0", "104:00.0", "04x00.0")
    ),
    *(AMD % other for other in ("04:00.1", TWIN)),
    AMD_OWN.replace("04:00.0", "05:00.0"),
    AMD_OWN.replace("vfio-pci", "ixgbe"),  # a driver of the kernel's had it, not a lease
    RELAYED.replace("04:00.0", "04:00.1"),
    BLOCKED.replace("0000:", "0001:"),
    "vfio-pci 0000:04:00.0: resetting",
    "ixgbe 0000:04:00.0 eth0: page fault of another kind",
    "DMAR: DRHD: handling fault status reg 2",
    # What anybody can have the kernel write: names of processes (15 bytes), files, interfaces, USB devices, modules.
    "DMAR 04:00.0[77]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6 in DMAR[401000+1000] likely on CPU 0",
    "AMD-Vi 04:00.0[77]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6",
    "DMAR: [DMA Read[77]: segfault at 0 ip 0000000000401136 sp 00007ffd error 4 in DMAR: [DMA Write] Request device"
    " [04:00.0] fault addr 0x0 [fault reason 0x05] PTE",
    f"traps: {VTD}",
    f"input: {VTD} as /devices/pci0000:00/0000:00:14.0/usb1",
    f"usb 1-1: Product: {VTD}",
    f"process '{VTD}' started with executable stack",
    f"{VTD}[77]: segfault",
    f"{VTD}\\x0a",
    f"{VTD}(1)",
    f" {VTD}",
    f"{AMD % HERE} ",
    f"{AMD_OWN}[77]",
    f"{RELAYED}[77]: segfault",
    f"x {BLOCKED}",
]
WANTED = "the kernel wants the device back"


def said(
    path: Path, patch: pytest.MonkeyPatch, *records: bytes | OSError, address: str = HERE, twins: int = 0
) -> str | None:
    """What the log makes of these records of /dev/kmsg, of which each read gives one."""
    path.write_text("")
    log = KernelLog(address, [TWIN] * twins, str(path))
    left = [*records, BlockingIOError()]

    def read(fd: int, size: int) -> bytes:
        record = left.pop(0)
        if isinstance(record, OSError):
            raise record
        return record

    with patch.context() as patched:
        patched.setattr(os, "read", read)
        try:
            return log.trouble()
        finally:
            os.close(log.fd)


def record(line: str, head: str = "3,4711,98765,-") -> bytes:
    return f"{head};{line}\n".encode()


@pytest.mark.parametrize("line", [*FAULTS, *OTHERS, RELAYED, BLOCKED])
def test_which_lines_end_a_lease(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"its DMA was blocked: {line}" if line in FAULTS else WANTED if line in (RELAYED, BLOCKED) else None
    assert said(tmp_path / "kmsg", monkeypatch, record(line)) == expected


@pytest.mark.parametrize("head", ["6,1,2,-", "3,1,2,-,caller=T4711", "4,1,2,-,caller=C1"])
def test_heads_of_the_kernels_own_records(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(tmp_path / "kmsg", monkeypatch, record(VTD, head)) == f"its DMA was blocked: {VTD}"


@pytest.mark.parametrize(
    "odd",
    [
        record(VTD, "12,1,2,-"),  # facility 1: a process has written it
        record(VTD, "30,1,2,-"),
        record(VTD, "3,1,2,c"),  # a part of a line
        record(VTD, "3,1,2,+"),
        record(VTD, "3,1,2,-;x"),
        b"3,1,2,-;something else\n SUBSYSTEM=pci\n DEVICE=+pci:0000:04:00.0\n",
        b"3,1,2,-;something else\n " + record(VTD),
        b"3,1,2,-;\n" + VTD.encode() + b"\n",
        record(VTD)[:-1],
        VTD.encode() + b"\n",
        b"",
        b"\xff\xfe;\n",
    ],
)
def test_a_message_in_another_place_than_the_text_is_none(
    odd: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(tmp_path / "kmsg", monkeypatch, odd) is None


def test_records_are_read_until_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes | OSError] = [
        record("something else"),
        BrokenPipeError(),
        record(VTD)[:-1] + b"\n SUBSYSTEM=pci\n DEVICE=+pci:0000:04:00.0\n",
    ]
    assert said(tmp_path / "kmsg", monkeypatch, *told) == f"its DMA was blocked: {VTD}"
    assert said(tmp_path / "kmsg", monkeypatch, record("x"), BrokenPipeError(), record("y")) is None


@pytest.mark.parametrize(
    ("line", "alone", "with_twin", "far"),
    [
        (VTD, True, False, False),  # with a twin nobody can tell whose it is
        (SEGMENT % HERE, True, True, False),
        (SEGMENT % TWIN, False, False, False),
        (VTD.replace("04:00.0", "05:00.0"), False, False, True),
        (AMD % "04:00.0", True, True, False),  # AMD-Vi: segment 0, the only one that it knew then
        (AMD % "05:00.0", False, False, False),
        (AMD % FAR, False, False, True),
    ],
)
def test_the_segment(
    line: str, alone: bool, with_twin: bool, far: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, one = tmp_path / "kmsg", record(line)
    assert (said(path, monkeypatch, one) is not None) == alone
    assert (said(path, monkeypatch, one, twins=1) is not None) == with_twin
    assert (said(path, monkeypatch, one, address=FAR) is not None) == far
