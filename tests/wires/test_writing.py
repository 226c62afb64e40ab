"""What is written, as Wireshark's tools and our own reader see it."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires.capture import packets
from ixy_vfio.wires.packets import INBOUND, OUTBOUND
from ixy_vfio.wires.writer import CaptureWriter, Recorded
from tests.wires.blocks import frame

INTERFACE = Recorded("port0", "the first port", "simulated 82599", 10_000_000_000)
START = 1_700_000_000_123_456_789


def write(path: Path) -> None:
    with CaptureWriter(str(path), INTERFACE, "a test") as writer:
        writer.begin(START)
        for number, size in enumerate((60, 61, 1514, 62)):
            writer.packet(frame(size), START + number, INBOUND if number == 1 else OUTBOUND)
        writer.statistics(START + 5_000_000_000, dropped=3)
        writer.flush()


def run(*words: str | Path) -> str:
    done = subprocess.run([*words], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "could be dangerous" not in line]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout


def test_our_reader_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with open(tmp_path / "out", "rb") as file:
        found = list(packets(file))
    assert [packet.data for packet in found] == [frame(size) for size in (60, 61, 1514, 62)]
    assert [packet.time - START for packet in found] == [0, 1, 2, 3]
    assert [packet.flags for packet in found] == [OUTBOUND, INBOUND, OUTBOUND, OUTBOUND]
    assert found[0].interface.name == "port0"


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark (Debian: apt-get install tshark)")
def test_wireshark_shows_all_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    write(path)
    assert run("editcap", path, tmp_path / "copy.pcapng") == ""
    shown = run("capinfos", "-M", path)
    system = f"{os.uname().sysname} {os.uname().release}"
    for line in (
        "File type:           pcapng", "File encapsulation:  ether",
        "File timestamp precision:  nanoseconds (9)", "Number of packets:   4",
        f"Capture hardware:    {os.uname().machine}", f"Capture oper-sys:    {system}", "Capture application: a test",
        "Name = port0", "Description = the first port", "Hardware = simulated 82599", f"Operating system = {system}",
        "Speed = 10000000000", "Time precision = nanoseconds (9)", "Time ticks per second = 1000000000",
        "Number of stat entries = 1", "Number of packets = 4",
    ):  # fmt: skip
        assert line in shown, shown
    fields = ("frame.interface_name", "frame.interface_description", "frame.packet_flags_direction", "frame.time_epoch")
    words = [word for name in fields for word in ("-e", name)]
    lines = run("tshark", "-r", path, "-T", "fields", "-E", "separator=|", *words).splitlines()
    assert [line.replace("0x00000001", "1").replace("0x00000002", "2") for line in lines] == [
        f"port0|the first port|{direction}|1700000000.12345678{9 + i}" if i == 0
        else f"port0|the first port|{direction}|1700000000.12345679{i - 1}"
        for i, direction in enumerate((2, 1, 2, 2))
    ]  # fmt: skip
    # The blocks themselves, as Wireshark's dissector of the file format reads them.
    dissected = run("tshark", "-r", path, "-X", "read_format:MIME Files Format", "-V")
    assert "Malformed" not in dissected
    assert [line.strip() for line in dissected.splitlines() if line.startswith("    Block: ")] == [
        "Block: Section Header Block 1", "Block: Interface Description Block 0",
        *(f"Block: Enhanced Packet Block {i}" for i in (1, 2, 3, 4)), "Block: Interface Statistics Block",
    ]  # fmt: skip
    statistics = dissected[dissected.index("Interface Statistics Block") :]
    for line in ("Interface: 0", "Timestamp: Nov 14, 2023 22:13:25.123456789 UTC", "Received Packets: 7",
                 "Dropped Packets: 3", "Number of Packets Delivered to the User = 4"):  # fmt: skip
        assert line in statistics, statistics


def test_a_disk_that_is_full_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    real = os.write
    with CaptureWriter(str(path), INTERFACE, "a test") as writer:
        writer.begin(START)
        writer.packet(frame(60), START, OUTBOUND)
        writer.flush()

        def full(fd: int, data: memoryview) -> int:
            if len(data) < 500:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data[:100])

        monkeypatch.setattr(os, "write", full)
        writer.packet(frame(700), START, OUTBOUND)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    with open(path, "rb") as file:
        assert [packet.data for packet in packets(file)] == [frame(60)]


def test_what_is_there_stays_until_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    CaptureWriter(str(path), INTERFACE, "").close()
    assert path.read_text() == "precious"
    CaptureWriter(str(tmp_path / "new"), INTERFACE, "").close()
    assert not (tmp_path / "new").exists()
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "no" / "where"):
        with pytest.raises(CaptureError):
            CaptureWriter(str(name), INTERFACE, "")
