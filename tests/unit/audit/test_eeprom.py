"""Digests of EEPROMs: what is read, what is written down, what is said when that cannot be."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from ixy_vfio.audit import eeprom
from ixy_vfio.audit.model import Status
from ixy_vfio.core.errors import UsageError
from tests.conftest import run
from tests.unit.audit.audit_support import look, machine, result, write

NIC, CONTENT = "0000:03:00.0", bytes(range(256)) * 2


class Driver:
    """An interface's driver, as ethtool sees it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content = CONTENT
        self.refusal = 0
        (folder / NIC / "net/eth7").mkdir(parents=True)
        (folder / NIC / "net/eth8").mkdir()
        monkeypatch.setattr(eeprom, "_ask", self.ask)

    def ask(self, interface: str, request: bytes) -> bytes:
        assert interface == "eth7"
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        if request[:4] == b"\3\0\0\0":
            assert len(request) == 196
            return request[:188] + len(self.content).to_bytes(4, "little") + request[192:]
        assert request[:16] == b"".join(word.to_bytes(4, "little") for word in (0xB, 0, 0, len(self.content)))
        return request[:16] + self.content


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(eeprom, "DEVICES", str(tmp_path / "devices"))
    return Driver(tmp_path / "devices", monkeypatch)


def test_the_first_digest_is_kept_and_the_last_one_replaced(driver: Driver, tmp_path: Path) -> None:
    records = tmp_path / "var/eeprom"
    said = []
    for content in (CONTENT, CONTENT, bytes(512)):
        driver.content = content
        path = eeprom.record(NIC, records)
        said.append((path.name, path.read_text()))
    whole, blank = (f"sha256:{hashlib.sha256(content).hexdigest()}\n" for content in (CONTENT, bytes(512)))
    assert said == [(f"{NIC}.first", whole), (f"{NIC}.last", whole), (f"{NIC}.last", blank)]
    assert (records / f"{NIC}.first").read_text() == whole
    assert records.stat().st_mode & 0o022 == 0


def refuses(error: int) -> str:
    return f"--record-eeprom: eth7: {os.strerror(error)}; "


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errno.EPERM, refuses(errno.EPERM) + "run as root"),
        (errno.EOPNOTSUPP, refuses(errno.EOPNOTSUPP) + "its driver shows no EEPROM"),
        (0, refuses(errno.EOPNOTSUPP) + "its driver shows no EEPROM"),
    ],
)
def test_what_a_driver_does_not_show(driver: Driver, error: int, says: str) -> None:
    driver.refusal, driver.content = error, b""
    with pytest.raises(UsageError, match=f"^{says}$"):
        eeprom.digest(NIC)


def test_a_device_that_is_bound_is_not_read(driver: Driver) -> None:
    with pytest.raises(UsageError, match=r"^--record-eeprom: 0000:03:00\.1 has no network interface; its EEPROM is"):
        eeprom.digest("0000:03:00.1")


def test_records_that_cannot_be_written(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^--record-eeprom: .*/file/records: Not a directory$"):
        eeprom.record(NIC, tmp_path / "file/records")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name the device, a PCI address like 0000:03:00.0"),
        (("ffff:ff:1f.7",), "ffff:ff:1f.7 has no network interface"),
    ],
)
def test_the_command_refuses(words: tuple[str, ...], says: str) -> None:
    done = run("audit", *words, "--record-eeprom")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ixy-vfio audit: --record-eeprom: {says}")


def test_one_digest_says_nothing() -> None:
    tree = machine("sound")
    tree.remove(f"/var/lib/ixy_vfio/eeprom/{NIC}.last")
    assert result(look(tree), "device.eeprom", NIC).status is Status.SKIP
    write(tree, f"/var/lib/ixy_vfio/eeprom/{NIC}.last", "5f3c8a1e9d")
    assert result(look(tree), "device.eeprom", NIC).status is Status.PASS
