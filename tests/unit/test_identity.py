"""Which device lies at an address, and whether the IOMMU holds it back: from configuration space, sysfs, registers."""

import os
import struct
from pathlib import Path

import pytest
from ixy_vfio_helper import identity, vfio
from ixy_vfio_helper.kernel import PciDevice
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.policy import RECORDED
from ixy_vfio_helper.protocol import Attach, Attached, Hello, Refused
from ixy_vfio_helper.vfio import GroupSession
from ixy_vfio_setup.device import driver_saw

from tests.unit.lease_support import A, B, FakeBackend, served
from tests.unit.vfio_calls import Calls, fill

HERE = "0000:03:00.0"


def device(root: Path, vendor: int = 0x8086, number: int = 0x10FB) -> PciDevice:
    path = root / "sys/bus/pci/devices" / HERE
    path.mkdir(parents=True)
    ids = {"vendor": vendor, "device": number, "subsystem_vendor": 0x8086, "subsystem_device": 0x7A11}
    for name, value in ids.items():
        (path / name).write_text(f"{value:#06x}\n")
    return PciDevice(HERE, root)


def reader(config: bytes) -> identity.Read:
    return lambda offset, size: config[offset : offset + size]


def extended(*capabilities: tuple[int, int, bytes]) -> bytes:
    """Configuration space with (offset, kind, content), each naming the next one."""
    config = bytearray(4096)
    for (offset, kind, content), following in zip(
        capabilities, [*(one[0] for one in capabilities[1:]), 0], strict=True
    ):
        struct.pack_into("<I", config, offset, following << 20 | 1 << 16 | kind)
        config[offset + 4 : offset + 4 + len(content)] = content
    return bytes(config)


NUMBER = bytes.fromhex("103c5affff211b00")


def test_which_device_it_is(tmp_path: Path) -> None:
    found = device(tmp_path)
    config = extended((0x100, 1, b""), (0x140, 3, NUMBER))
    assert identity.identity(found, reader(config)) == "8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10"
    assert identity.identity(found, reader(config[:64])) == "8086:10fb 8086:7a11"
    assert RECORDED.fullmatch(identity.identity(found, reader(config)))
    assert RECORDED.fullmatch(identity.identity(found, reader(b"")))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (extended((0x100, 3, NUMBER)), "00-1b-21-ff-ff-5a-3c-10"),
        (extended((0x100, 1, b""), (0xFFC, 3, b"")), ""),  # cut
        (extended((0x100, 3, bytes(8))), ""),
        (extended((0x100, 3, b"\xff" * 8)), ""),
        (extended((0x100, 1, b""), (0x140, 2, b"")), ""),
        (extended((0x100, 1, b""), (0x140, 2, b""), (0x100, 1, b"")), ""),  # a circle
        (b"\xff" * 4096, ""),  # the device is gone
        (bytes(256), ""),
    ],
)
def test_a_serial_number(config: bytes, expected: str) -> None:
    assert identity.serial(reader(config)) == expected


def test_a_device_that_is_another_is_refused_and_the_lease_goes_on(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path, recorded={A: "8086:10fb 8086:7a11"}) as client:
        client.ask(Hello())
        assert client.ask(Attach(A)) == Refused(f"{A}: the policy gives 8086:10fb 8086:7a11")
        assert backend.log == [f"open {A}", f"close {A}"]
        assert isinstance(client.ask(Attach(B)), Attached)


def capabilities(*entries: tuple[int, bytes]) -> bytes:
    """Configuration space with (offset, content behind the link) of each capability."""
    config = bytearray(256)
    config[6], config[0x34] = 0x10, entries[0][0] if entries else 0
    for (offset, content), following in zip(entries, [*(one[0] for one in entries[1:]), 0], strict=True):
        config[offset : offset + 2] = bytes((content[0], following))
        config[offset + 2 : offset + 1 + len(content)] = content[1:]
    return bytes(config)


def virtio(kind: int, bar: int, offset: int) -> bytes:
    return struct.pack("<BBBB3xII", 9, 16, kind, bar, offset, 0x38)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (capabilities((0x40, virtio(5, 0, 0)), (0x60, virtio(1, 4, 0x1000))), (4, 0x1000)),
        (capabilities((0x40, virtio(2, 4, 0x3000))), None),
        (capabilities((0x40, virtio(1, 6, 0))), None),
        (capabilities((0x40, b"\x11\0\0\x01")), None),  # MSI-X, not a vendor's
        (capabilities((0x40, virtio(2, 4, 0)), (0x40, virtio(2, 4, 0))), None),  # a circle
        (bytes(256), None),
        (b"", None),
        (b"\xff" * 256, None),
    ],
)
def test_where_the_registers_of_a_virtio_function_lie(config: bytes, expected: tuple[int, int] | None) -> None:
    assert identity.common_configuration(reader(config)) == expected


def features(found: PciDevice, *bits: int) -> None:
    (found.path / "virtio3").mkdir()
    (found.path / "virtio3/features").write_text("".join("1" if bit in bits else "0" for bit in range(64)) + "\n")


@pytest.mark.parametrize(
    ("vendor", "number", "bits", "text"),
    [
        (0x8086, 0x10FB, None, ""),
        (0x1AF4, 0x1041, (32, 33), ""),
        (
            0x1AF4,
            0x1041,
            (32, 34),
            "without VIRTIO_F_ACCESS_PLATFORM it reaches all memory past the IOMMU; QEMU: iommu",
        ),
        (0x1AF4, 0x1041, None, "only virtio's driver tells whether the IOMMU holds it back; run: modprobe virtio_net"),
        (0x1AF4, 0x1000, (32, 33), r"an old virtio function \(1af4:1000\) reaches all memory past the IOMMU; QEMU: "),
        (0x1DED, 0x5007, (32,), "without VIRTIO_F_ACCESS_PLATFORM"),  # another vendor's, by its driver
        (0x1DED, 0x5007, (33,), ""),
    ],
)
def test_what_gets_past_the_iommu(tmp_path: Path, vendor: int, number: int, bits: tuple[int, ...], text: str) -> None:
    found = device(tmp_path, vendor, number)
    if bits is not None:
        features(found, *bits)
    if text:
        with pytest.raises(Refusal, match=f"^{HERE}: {text}"):
            identity.refuse_past_iommu(found, driver_saw(found))
    else:
        identity.refuse_past_iommu(found, driver_saw(found))


CONFIG, BAR = 0x70000, 0x40000


def opened(monkeypatch: pytest.MonkeyPatch, found: PciDevice, config: bytes) -> tuple[GroupSession, int]:
    """An open device with this configuration space; region 4 is a BAR."""
    calls = Calls(monkeypatch)
    calls.answers[vfio.DEVICE_GET_REGION_INFO] = lambda data: fill(data, "Q", data[8] * 0x10000, at=24)
    session = GroupSession(HERE, "17")
    session.found = found
    fd = session.open()
    os.pwrite(fd, config, CONFIG)
    return session, fd


@pytest.mark.parametrize(("word", "offered"), [(0b01, False), (0b10, True), (0b11, True), (0xFFFF_FFFD, False)])
def test_what_an_open_virtio_function_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: int, offered: bool
) -> None:
    session, fd = opened(monkeypatch, device(tmp_path, 0x1AF4, 0x1041), capabilities((0x40, virtio(1, 4, 0x1000))))
    os.pwrite(fd, word.to_bytes(4, "little"), BAR + 0x1004)
    writes: list[tuple[int, bytes]] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        writes.append((offset, data))
        return real(fd, data, offset)

    monkeypatch.setattr("ixy_vfio_helper.vfio.os.pwrite", pwrite)
    if offered:
        session.verify("")
    else:
        with pytest.raises(Refusal, match=f"^{HERE}: without VIRTIO_F_ACCESS_PLATFORM"):
            session.verify("")
    # Registers are there while memory space is on, and the command is as it was afterwards.
    assert writes == [(CONFIG + 4, b"\2\0"), (BAR + 0x1000, b"\1\0\0\0"), (CONFIG + 4, b"\0\0")]
    session.close()


def test_an_open_virtio_function_without_the_registers_of_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = opened(monkeypatch, device(tmp_path, 0x1AF4, 0x1041), bytes(256))
    with pytest.raises(Refusal, match=f"^{HERE}: without VIRTIO_F_ACCESS_PLATFORM"):
        session.verify("")
    session.close()


def test_an_open_device_is_compared_with_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = opened(monkeypatch, device(tmp_path), extended((0x100, 3, NUMBER)))
    here = "8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10"
    session.verify("")
    session.verify(here)
    for recorded in (here[:-2] + "11", here[:19], here.replace("10fb", "10fc"), here.replace("7a11", "7a12")):
        with pytest.raises(Refusal, match=f"^{HERE}: the policy gives {recorded}, but {here} is there now; run setup"):
            session.verify(recorded)
    session.close()
