"""Cables to captures: what is replayed and recorded, what is refused before anything starts, what goes wrong later."""

import contextlib
import errno
import os
import struct
from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from ixy_vfio.wires.cable import Cable
from ixy_vfio.wires.capture import packets
from ixy_vfio.wires.capture_cable import CaptureCable
from ixy_vfio.wires.outside import OutsideCable
from ixy_vfio.wires.packets import OUTBOUND
from tests.conftest import StartSimulator, finish, forwarder, run, wait_until
from tests.sim.dataplane_rig import BUFFERS, Rig
from tests.wires.blocks import enhanced, frame, interface, option, pcap, section, simple

A, B = frame(60), frame(61, 0x33)
HEAD = section() + interface()


def plugged(spec: str) -> tuple[DataPlane, Rig, Cable]:
    """A port that receives and sends, with a cable."""
    plane = DataPlane()
    port = Rig(plane)
    cable = parse_cable(spec)
    plane.connect(cable)
    port.start_receive()
    port.write(0x5080, 1 << 10)  # FCTRL.BAM: frames to everybody
    port.start_transmit()
    plane.step()
    return plane, port, cable


def replay(path: Path, count: int) -> tuple[list[bytes], Cable]:
    """The frames that a port gets of a capture, of 60 bytes each."""
    plane, port, cable = plugged(f"0:pcapng:{path},")
    port.give(*(BUFFERS + 2048 * i for i in range(16)))
    for _ in range(4):
        plane.step()
    assert cable.status()["received"] == count
    assert cable.status()["done"]
    cable.close()
    return [port.get(BUFFERS + 2048 * i, 60) for i in range(count)], cable


def test_short_frames_are_padded_and_check_sequences_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "in"
    short = frame(42)
    crc = option("<", 13, b"\x04")
    path.write_bytes(section() + interface(options=crc) + enhanced(short + b"\xee" * 4) + simple(A + b"\xee" * 4))
    assert replay(path, 2)[0] == [short + bytes(18), A]


@pytest.mark.parametrize("name", ["x.pcap", "x.pcap.gz", "no-suffix"])
def test_any_capture_whatever_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pcap([A, A], ">"))
    assert replay(tmp_path / name, 2)[0] == [A, A]


def test_a_capture_that_ends_early_is_replayed_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "in"
    for more, says in ((enhanced(A)[:50], "42 of 80 bytes"), (struct.pack("<II", 6, 0) + A, "a block (packet) of 0")):
        path.write_bytes(HEAD + enhanced(A) + enhanced(B) + more)
        _, cable = replay(path, 2)
        (note,) = cable.notes
        assert note.startswith(f"{path} ends early: byte 2")
        assert says in note
        assert note.endswith("; 2 frames received")


def test_frames_too_long_for_the_port_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(HEAD + enhanced(A) + enhanced(frame(65700)) + enhanced(frame(16125)) + enhanced(A))
    frames, cable = replay(path, 2)
    assert frames == [A, A]
    assert cable.status()["oversize"] == 2
    assert cable.notes == [f"{path} is at its end; 2 frames received, 2 longer than 16124 bytes left out"]


def test_a_capture_that_changes_while_it_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(HEAD + enhanced(A) * 2000)  # more than is read ahead
    cable = CaptureCable(f"0:pcapng:{path},", 0, f"{path},")
    assert cable.read() == 60
    os.truncate(path, 1000)
    with contextlib.suppress(BlockingIOError):
        while cable.read() == 60:
            pass
    (note,) = cable.notes
    assert "ends early: byte " in note
    assert (cable.alive, cable.done) == (True, True)
    cable.close()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pcap([A], network=101), r"packet 1: link type 101 \(raw IP\) is not Ethernet"),
        (HEAD + interface(link=113) + enhanced(A) + enhanced(A, index=1), r"packet 2: link type 113 \(Linux cooked\)"),
        (HEAD + enhanced(A, length=1514), "packet 1: 60 of its 1514 bytes were captured"),
        (HEAD + enhanced(A)[:60], "byte 56: 52 of 80 bytes of a block"),
        (b"", "the file is empty"),
        (b"no capture", "neither a pcapng nor a pcap file"),
        (pcap([A], magic=0xA1B2CD34), "Kuznetzov"),
    ],
)
def test_what_cannot_be_replayed_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(data)
    with pytest.raises(
        UsageError, match=rf"^cable 0:pcapng:{path},{out}: {path}: (this is )?(a modified pcap file .)?{says}"
    ):
        parse_cable(f"0:pcapng:{path},{out}")
    assert not out.exists()


def test_one_file_in_and_out_is_refused_by_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(HEAD + enhanced(A))
    before = path.read_bytes()
    (tmp_path / "symbolic").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "d").mkdir()
    with open(path, "r+b") as file:
        names = (path, tmp_path / "symbolic", tmp_path / "hard", tmp_path / "d" / ".." / "x.pcapng",
                 f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}")  # fmt: skip
        for name in names:
            for spec in (f"0:pcapng:{path},{name}", f"0:pcapng:{name},{path}"):
                with pytest.raises(UsageError, match=f"^cable {spec}: IN and OUT are the same file$"):
                    parse_cable(spec)
            for first, second in ((f"{path},", f",{name}"), (f",{path}", f"{name},"), (f",{path}", f",{name}")):
                plane = DataPlane()
                Rig(plane), Rig(plane)
                plane.connect(parse_cable(f"0:pcapng:{first}"))
                other = parse_cable(f"1:pcapng:{second}")
                with pytest.raises(UsageError, match=r"is also (read|written) by 0:pcapng:"):
                    plane.connect(other)
                other.close()
                plane.close()
    assert path.read_bytes() == before


def test_one_capture_can_go_into_several_ports_and_nothing_to_dev_null(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(HEAD + enhanced(A))
    plane = DataPlane()
    Rig(plane), Rig(plane)
    for number in (0, 1):
        plane.connect(parse_cable(f"{number}:pcapng:{path},/dev/null"))
    plane.step()
    plane.close()


def test_what_is_recorded_says_where_and_in_which_direction(tmp_path: Path) -> None:
    path = tmp_path / "out"
    plane, port, cable = plugged(f"0:pcapng:,{path}")
    for one in (A, B):
        port.send(one)
        plane.step()
    cable.close()
    with open(path, "rb") as file:
        found = list(packets(file))
    assert [(packet.data, packet.flags, packet.interface.name) for packet in found] == [
        (A, OUTBOUND, "port0"), (B, OUTBOUND, "port0"),
    ]  # fmt: skip
    assert found[0].interface.units == 1_000_000_000


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    plane, port, cable = plugged(f"0:pcapng:,{path}")
    port.send(A)
    plane.step()

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            port.send(B)
            plane.step()
    assert cable.notes == [f"{path}: No space left on device: no more frames are recorded"]
    assert cable.alive
    assert plane.notes == [f"cable 0:pcapng:,{path}: {cable.notes[0]}"]
    cable.close()
    with open(path, "rb") as file:
        assert [packet.data for packet in packets(file)] == [A]


def test_an_error_that_nobody_thought_of_ends_the_cable_alone() -> None:
    class Odd(OutsideCable):
        def read(self) -> int:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    plane = DataPlane()
    Rig(plane)
    cable = Odd("0:odd:", 0)
    plane.connect(cable)
    plane.step()
    assert not cable.alive
    assert plane.notes == ["cable 0:odd:: Operation not permitted: the cable is dead"]


def test_a_cut_capture_under_a_forwarder(simulator: StartSimulator, tmp_path: Path) -> None:
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcapng"
    source.write_bytes(HEAD + enhanced(A) * 5 + enhanced(B)[:40])
    sim = simulator(cables=[f"0:pcapng:{source},", f"1:pcapng:,{out}"])
    with forwarder(sim.helper, "--json") as process:
        wait_until("five frames", lambda: sim.ask("cables")["cables"][1]["sent"] == 5)
        wait_until("a note", lambda: bool(sim.ask("notes")["notes"]))
        assert process.poll() is None
        finish(process)
    note = f"cable 0:pcapng:{source},: {source} ends early: byte 516: 32 of 84 bytes of a block (packet) are there"
    assert sim.ask("notes") == {"notes": [f"{note}; 5 frames received"]}
    assert f"ixy-vfio sim: {note}; 5 frames received\n" in sim.stop()
    with open(out, "rb") as file:
        assert [packet.data for packet in packets(file)] == [A] * 5


def test_the_command_refuses_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(HEAD + enhanced(A))
    before = path.read_bytes()
    common = ("sim", "--dir", str(tmp_path / "dir"), "--no-helper")
    for words, says in (
        (("--cable", f"0:pcapng:{path},{path}"), "IN and OUT are the same file"),
        (("--cable", f"0:pcapng:,{path}", "--cable", f"1:pcapng:{path},"), f"{path} is also written by 0:pcapng:"),
        (("--cable", f"0:pcapng:{path},", "--trace", str(path)), f"--trace {path} is also read by 0:pcapng:"),
    ):
        done = run(*common, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert says in done.stderr
        assert path.read_bytes() == before
    with open(path, "r+b") as file:
        done = run(
            *common, "--cable", f"0:pcapng:,{path}", "--trace", f"/dev/fd/{file.fileno()}", pass_fds=[file.fileno()]
        )
    assert done.returncode == 2
    assert path.read_bytes() == before
