"""What both ways into VFIO do with an open device, and the newer way in: kernel calls in their order, no kernel."""

import errno
import os
import struct

import pytest
from ixy_vfio_helper import iommufd, kernel_log, memory, vfio
from ixy_vfio_helper.iommufd import CdevSession
from ixy_vfio_helper.vfio import GroupSession, KernelSession

from tests.unit.vfio_calls import Calls, failing, fill

HERE = "0000:03:00.0"
CONFIG = 0x70000
IOVA = 0x10_0000_0000


def opened(calls: Calls, session: KernelSession, command: int = 0x0107) -> int:
    """Open it; configuration space lies at CONFIG of what stands for the device."""
    calls.answers[vfio.DEVICE_GET_REGION_INFO] = lambda data: fill(data, "Q", CONFIG, at=24)
    calls.answers[iommufd.IOAS_ALLOC] = lambda data: fill(data, "I", 5, at=8)
    fd = session.open()
    os.pwrite(fd, b"\x86\x80\xfb\x10" + command.to_bytes(2, "little") + b"\x10\x00", CONFIG)
    return fd


@pytest.fixture(params=["group", "cdev"])
def session(request: pytest.FixtureRequest) -> KernelSession:
    return GroupSession(HERE, "17") if request.param == "group" else CdevSession(HERE, "vfio3", "17")


def test_opening_asks_to_be_told_when_the_kernel_wants_the_device_back(
    monkeypatch: pytest.MonkeyPatch, session: KernelSession
) -> None:
    calls = Calls(monkeypatch)
    calls.answers[vfio.DEVICE_SET_IRQS] = lambda data: failing(errno.EINVAL)(data) if data[12] == vfio.ERR_IRQ else 0
    opened(calls, session)  # a device without error reporting is as good
    monkeypatch.setattr(kernel_log.KernelLog, "trouble", lambda self: None)
    request, error, _ = session.watch()
    asked = [data for _, number, data in calls.made if number == vfio.DEVICE_SET_IRQS]
    assert asked == [
        struct.pack("=IIIIIi", 24, 0x24, 4, 0, 1, request),
        struct.pack("=IIIIIi", 24, 0x24, 3, 0, 1, error),
    ]
    for eventfd, reason in ((request, "the kernel wants the device back"), (error, "it reported a fatal error")):
        assert session.trouble() is None
        os.eventfd_write(eventfd, 1)
        assert session.trouble() == f"{HERE}: {reason}"
    assert session.trouble() is None
    session.close()


def test_a_fault_in_the_kernel_log_is_trouble(monkeypatch: pytest.MonkeyPatch, session: KernelSession) -> None:
    calls = Calls(monkeypatch)
    opened(calls, session)
    *_, log = session.watch()
    faulted = "DMAR: [DMA Write NO_PASID] Request device [03:00.0] fault addr 0x900000 [fault reason 0x05] PTE Write"
    wanted = f"vfio-pci {HERE}: No device request channel registered, blocked until released by user"
    for text, reason in ((faulted, f"its DMA was blocked: {faulted}"), (wanted, "the kernel wants the device back")):
        monkeypatch.setattr(os, "read", lambda fd, size, text=text: {log: f"4,1,2,-;{text}\n".encode()}[fd])
        assert session.trouble() == f"{HERE}: {reason}"
    monkeypatch.undo()
    session.close()


@pytest.mark.parametrize(("before", "after"), [(0x0107, 0x0103), (0x0003, 0x0003), (0x0004, 0), (0xFFFF, 0xFFFF)])
def test_bus_master_off_clears_one_bit_and_writes_nothing_to_a_device_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, session: KernelSession, before: int, after: int
) -> None:
    fd = opened(Calls(monkeypatch), session, before)
    session.bus_master_off()
    assert os.pread(fd, 8, CONFIG) == b"\x86\x80\xfb\x10" + after.to_bytes(2, "little") + b"\x10\x00"
    session.close()


def test_close(monkeypatch: pytest.MonkeyPatch, session: KernelSession) -> None:
    calls = Calls(monkeypatch)
    before = len(os.listdir("/proc/self/fd"))
    session.bus_master_off()  # there is nothing to turn off yet
    opened(calls, session)
    calls.numbers()
    session.close()
    session.bus_master_off()
    assert len(os.listdir("/proc/self/fd")) == before
    session.close()
    assert calls.numbers() == []


NO_REMAPPING = "the IOMMU does not remap interrupts; turn that on in the firmware"


@pytest.mark.parametrize(
    ("answer", "told", "neighbours", "reason"),
    [
        (errno.EINVAL, errno.EBUSY, [], os.strerror(errno.EBUSY)),
        (errno.ENODEV, errno.ENODEV, [], os.strerror(errno.ENODEV)),
        (errno.EPERM, errno.EPERM, [], f"] {NO_REMAPPING}$"),
        (errno.EPERM, errno.EPERM, ["0000:03:00.1"],
         f"another program has a device of IOMMU group 17 open, or {NO_REMAPPING}$"),
    ],
)  # fmt: skip
def test_a_character_device_that_cannot_be_bound(
    monkeypatch: pytest.MonkeyPatch, answer: int, told: int, neighbours: list[str], reason: str
) -> None:
    calls = Calls(monkeypatch)
    calls.answers[iommufd.DEVICE_BIND_IOMMUFD] = failing(answer)
    before = len(os.listdir("/proc/self/fd"))
    session = CdevSession(HERE, "vfio3", "17", neighbours)
    with pytest.raises(OSError, match=reason) as raised:
        session.open()
    assert raised.value.errno == told
    session.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_character_device_is_bound_and_attached_before_it_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = CdevSession(HERE, "vfio3", "17")
    opened(calls, session)
    (context,) = [fd for fd, path in calls.paths.items() if path == "/dev/iommu"]
    device = "/dev/vfio/devices/vfio3"
    assert calls.made[:3] == [
        (device, iommufd.DEVICE_BIND_IOMMUFD, struct.pack("=IIiI", 16, 0, context, 0)),
        ("/dev/iommu", iommufd.IOAS_ALLOC, struct.pack("=III", 12, 0, 0)),
        (device, iommufd.DEVICE_ATTACH_IOMMUFD_PT, struct.pack("=III", 12, 0, 5)),
    ]
    session.close()


def test_the_ranges_of_an_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = CdevSession(HERE, "vfio3", "17")
    opened(calls, session)
    there = struct.pack("=4Q", 0, 0xFEDFFFFF, 0xFEF00000, (1 << 39) - 1)

    def answer(data: bytearray) -> None:
        size, ioas, room, _, where, _ = struct.unpack("=IIIIQQ", data)
        assert (size, ioas, room) == (32, 5, iommufd.MAX_RANGES)
        with open("/proc/self/mem", "wb", buffering=0) as mine:
            mine.seek(where)
            mine.write(there)
        fill(data, "I", 2, at=8)

    calls.answers[iommufd.IOAS_IOVA_RANGES] = answer
    assert list(session.usable()) == [(0, 0xFEE00000), (0xFEF00000, 1 << 39)]
    session.close()


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP])
def test_before_linux_6_13_memory_is_mapped_by_its_address(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls = Calls(monkeypatch)
    session = CdevSession(HERE, "vfio3", "17")
    opened(calls, session)
    made = memory.allocate(8192, huge=False)
    calls.answers[iommufd.IOAS_MAP_FILE] = failing(number)

    def answer(data: bytearray) -> None:
        size, rights, ioas, _, address, length, iova = struct.unpack("=IIIIQQQ", data)
        assert (size, rights, ioas, length, iova) == (40, 7, 5, 8192, IOVA)
        with open("/proc/self/maps") as maps:
            (line,) = [line for line in maps if line.startswith(f"{address:x}-{address + 8192:x} rw-s")]
        assert line.split()[4] == str(os.fstat(made.fd).st_ino)

    calls.answers[iommufd.IOAS_MAP] = answer
    calls.numbers()
    session.map(made, IOVA)
    session.unmap(IOVA, 8192)
    assert calls.made[-1][1:] == (iommufd.IOAS_UNMAP, struct.pack("=IIQQ", 24, 5, IOVA, 8192))
    assert calls.numbers() == [iommufd.IOAS_MAP_FILE, iommufd.IOAS_MAP, iommufd.IOAS_UNMAP]
    os.close(made.fd)
    session.close()


def test_another_error_of_the_kernel_is_not_tried_around(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    session = CdevSession(HERE, "vfio3", "17")
    opened(calls, session)
    made = memory.allocate(4096, huge=False)
    calls.answers[iommufd.IOAS_MAP_FILE] = failing(errno.ENOMEM)
    calls.numbers()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        session.map(made, IOVA)
    assert calls.numbers() == [iommufd.IOAS_MAP_FILE]
    os.close(made.fd)
    session.close()
