"""Captures of every kind that is read; each that is not, by name; what is broken ends with the packets before it."""

import bz2
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires.capture import Capture, packets
from ixy_vfio.wires.packets import BrokenCapture, Packet, ethernet_frame
from tests.wires.blocks import block, enhanced, frame, interface, old, option, pcap, section, simple

A, B, C = frame(60), frame(61, 0x33), frame(1514, 0x44)
DATA = Path(__file__).with_name("data")
CRC = bytes.fromhex("deadbeef")


def read(data: bytes) -> list[Packet]:
    return list(packets(io.BytesIO(data)))


def frames(data: bytes) -> list[bytes]:
    return [ethernet_frame(packet) for packet in read(data)]


def broken(data: bytes) -> tuple[int, str]:
    """How many packets there are before the capture ends early, and what is said of its end."""
    count, found = 0, packets(io.BytesIO(data))
    while True:
        try:
            next(found)  # the end would be a StopIteration, and an error of the test
        except BrokenCapture as error:
            return count, str(error)
        count += 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_all_packet_blocks_in_either_byte_order(order: str) -> None:
    data = section(order) + interface(order) + enhanced(A, order) + simple(B, order) + old(C, order)
    assert frames(data) == [A, B, C]
    assert [packet.number for packet in read(data)] == [1, 2, 3]


def test_sections_have_their_own_byte_order_and_interfaces() -> None:
    data = section(">") + interface(">", 101) + interface(">") + enhanced(A, ">", 1)
    data += section("<") + interface("<") + enhanced(B) + section(">") + interface(">") + simple(C, ">")
    assert frames(data) == [A, B, C]


def test_blocks_without_packets_are_left_out() -> None:
    other = [block("<", kind, b"\x01" * 24) for kind in (4, 5, 9, 10, 0x0BAD, 0x4000_0BAD, 0x8000_0001)]
    large = block("<", 0x0BAD, bytes(17 << 20))  # longer than any block with packets may be
    assert frames(section() + interface() + b"".join(other) + large + enhanced(A)) == [A]


@pytest.mark.parametrize(
    ("resolution", "offset", "stamp", "time"),
    [
        (None, None, 1_500_000, 1_500_000_000),
        (9, None, 1_500_000_001, 1_500_000_001),
        (3, None, 1_500, 1_500_000_000),
        (0, 5, 2, 7_000_000_000),
        (0x80 | 10, None, 1536, 1_500_000_000),
        (9, -3, 4_000_000_000, 1_000_000_000),
        (127, None, 1 << 60, 0),
    ],
)
def test_stamps(resolution: int | None, offset: int | None, stamp: int, time: int) -> None:
    for order in ("<", ">"):
        options = b"" if resolution is None else option(order, 9, bytes([resolution]))
        options += b"" if offset is None else option(order, 14, struct.pack(order + "q", offset))
        data = section(order) + interface(order, options=options)
        data += enhanced(A, order, stamp=stamp) + old(A, order, stamp=stamp)
        assert [packet.time for packet in read(data)] == [time, time]


@pytest.mark.parametrize("told", [4, 32])
def test_check_sequences_are_taken_off(told: int) -> None:
    """The specification says bits, and writes 4: both are met."""
    options = option("<", 13, bytes([told]))
    data = section() + interface(options=options) + enhanced(A + CRC) + simple(B + CRC)
    data += enhanced(C, length=len(C) + 4)  # captured but for the check sequence
    assert frames(data) == [A, B, C]
    flags = option("<", 2, struct.pack("<I", 4 << 5))
    assert frames(section() + interface() + enhanced(A + CRC, options=flags) + enhanced(A)) == [A, A]
    assert frames(pcap([A + CRC], network=1 | 0x0400_0000 | 2 << 28)) == [A]


def test_a_snapshot_length_ends_simple_packets() -> None:
    data = section() + interface(snaplen=20) + simple(A[:20], length=60)
    (packet,) = read(data)
    assert (packet.data, packet.length) == (A[:20], 60)
    with pytest.raises(CaptureError, match=r"^packet 1: 20 of its 60 bytes were captured: .*tcpdump -s 0"):
        ethernet_frame(packet)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap(order: str, magic: int, unit: int) -> None:
    data = pcap([A, B, C], order, magic)
    assert frames(data) == [A, B, C]
    assert [packet.time for packet in read(data)] == [(7 + i) * 1_000_000_000 + 9 * unit for i in range(3)]
    assert frames(gzip.compress(data)) == [A, B, C]


def test_gzip_in_several_members() -> None:
    data = section() + interface() + enhanced(A) + enhanced(B)
    assert frames(gzip.compress(data[:50]) + gzip.compress(data[50:]) + bytes(100)) == [A, B]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b"abc", "neither a pcapng nor a pcap file"),
        (b"GET / HTTP/1.1\r\n", "neither a pcapng nor a pcap file"),
        (pcap([A], magic=0xA1B2CD34), r"a modified pcap file \(Kuznetzov's\): convert it \(editcap"),
        (pcap([A], ">", magic=0xA1B2CD34), r"a modified pcap file \(Kuznetzov's\): convert it \(editcap"),
        (pcap([A], version=(2, 2)), r"a pcap file of version 2.2, not 2.4: convert it \(editcap"),
        (bz2.compress(A), r"a bzip2 file: decompress it \(bzip2 -d\)"),
        (lzma.compress(A), r"an xz file: decompress it \(xz -d\)"),
        (bytes.fromhex("28b52ffd 00"), r"a zstd file: decompress it \(zstd -d\)"),
        (bytes.fromhex("04224d18 00"), r"an lz4 file: decompress it \(lz4 -d\)"),
        (gzip.compress(gzip.compress(A)), "compressed twice"),
        (b"snoop\0\0\0", "a snoop file: convert it"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        read(data)
    if data[:2] != b"\x1f\x8b":
        with pytest.raises(CaptureError, match=says):
            read(gzip.compress(data))


@pytest.mark.parametrize(
    ("link", "says"),
    [
        (101, r"101 \(raw IP\)"),
        (113, r"113 \(Linux cooked\)"),
        (276, r"276 \(Linux cooked, version 2\)"),
        (4711, "4711"),
    ],
)
def test_link_types_that_are_not_ethernet(link: int, says: str) -> None:
    ending = f"^packet 1: link type {says} is not Ethernet$"
    for data in (pcap([A], network=link), section() + interface() + interface(link=link) + enhanced(A, index=1)):
        with pytest.raises(CaptureError, match=ending):
            frames(data)


def test_what_is_no_frame() -> None:
    with pytest.raises(CaptureError, match=r"^packet 2: 13 bytes are no Ethernet frame: its header has 14$"):
        frames(pcap([A, A[:13]]))
    options = option("<", 13, b"\x10")
    with pytest.raises(CaptureError, match=r"^packet 1: a check sequence of 2 bytes is not Ethernet's, which has 4$"):
        frames(section() + interface(options=options) + enhanced(A))


HEAD = section() + interface() + enhanced(A) + enhanced(B)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (enhanced(C)[:300], "292 of 1536 bytes of a block (packet) are there"),
        (b"\6\0\0\0\0", "5 of 8 bytes of a block's header are there"),
        (struct.pack("<II", 6, 0) + bytes(100), "a block (packet) of 0 bytes: 32 at least, and a multiple of 4"),
        (struct.pack("<II", 6, 61) + bytes(100), "a block (packet) of 61 bytes: 32 at least, and a multiple of 4"),
        (struct.pack("<II", 6, 0x7FFF_FFF0) + bytes(99), "a block (packet) of 2147483632 bytes; 16777216 are the most"),
        (struct.pack("<II", 0x0BAD, 0x7FFF_FFF0) + bytes(100), "100 of 65536 bytes of a block are there"),
        (struct.pack("<II", 0x0BAD, 8), "a block (type 0xbad) of 8 bytes: 12 at least, and a multiple of 4"),
        (enhanced(A)[:-4] + b"\1\2\3\4", "a block of 92 bytes that ends as one of 67305985"),
        (enhanced(A, index=7), "a packet of interface 7; the section has 1 interfaces"),
        (section() + simple(A), "a packet of interface 0; the section has 0 interfaces"),
        (block("<", 6, struct.pack("<IIIII", 0, 0, 0, 500, 500) + A), "a packet of 500 bytes that does not fit"),
        (simple(A, length=500), "a packet of 500 bytes that does not fit into its block"),
        (enhanced(A, options=struct.pack("<HH", 2, 400)), "an option of 400 bytes that does not fit into its block"),
        (block("<", 0x0A0D0D0A, bytes(16)), "a section without a byte order"),
        (section()[:13], "1 of 4 bytes of a section header are there"),
        (block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "a section of version 2.0, not 1"),
    ],
)  # fmt: skip
def test_a_pcapng_file_that_ends_early(more: bytes, says: str) -> None:
    count, text = broken(HEAD + more)
    assert count == 2
    assert text.startswith("byte ")
    assert says in text
    assert "\n" not in text


def test_a_pcap_file_that_ends_early() -> None:
    whole = pcap([A, B])
    assert broken(whole[:-1]) == (1, "byte 116: 60 of 61 bytes of packet 2 are there")
    assert broken(whole + b"\0\0\0") == (2, "byte 177: 3 of 16 bytes of a packet's header are there")
    assert broken(whole + struct.pack("<IIII", 0, 0, 0xFFFF_FFFF, 60)) == (
        2, "byte 177: a packet of 4294967295 bytes; 262144 are the most",
    )  # fmt: skip


def test_gzip_that_ends_early_or_is_damaged() -> None:
    whole = gzip.compress(pcap([A, B, C]), 0)
    count, text = broken(whole[:-600])
    assert count == 2
    assert "the gzip data are damaged or cut" in text
    assert "the gzip data are damaged or cut" in broken(whole[:-6] + b"\xff" * 6)[1]


def test_a_compressed_bomb_takes_no_memory(tmp_path: Path) -> None:
    """128 MiB that is a block without packets: read to its end in pieces."""
    body = 1 << 27
    head = section() + interface() + enhanced(A) + struct.pack("<II", 0x0BAD, body + 12)
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(body >> 24):
            file.write(bytes(1 << 24))
    assert path.stat().st_size < 2 << 20
    code = (
        "import resource, sys\n"
        "from ixy_vfio.wires.capture import Capture\n"
        "base = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (base + (48 << 20), base + (48 << 20)))\n"
        "print(Capture(sys.argv[1]).check())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "packets=1, ends_early='byte" in done.stdout


def test_a_file_is_checked_before_it_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "in.pcapng"
    path.write_bytes(HEAD + enhanced(C)[:300])
    with Capture(str(path)) as capture:
        assert capture.check() == (2, "byte 244: 292 of 1536 bytes of a block (packet) are there")
        assert capture.check().packets == 2  # from the beginning again
    path.write_bytes(section() + interface() + enhanced(A)[:50])
    with Capture(str(path)) as capture, pytest.raises(CaptureError, match=r"in\.pcapng: byte 56: 42 of 80 bytes"):
        capture.check()
    for name, says in (
        (str(tmp_path), "Is a directory|ordinary file"),
        ("/dev/zero", "ordinary file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(CaptureError, match=says):
            Capture(name)


@pytest.mark.skipif(shutil.which("editcap") is None, reason="needs editcap (Debian: apt-get install tshark)")
@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "pcapng", "modpcap", "snoop", "5views"])
def test_files_that_wireshark_writes(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(pcap([A, B, C]))
    subprocess.run(["editcap", "-F", kind, source, target], check=True, capture_output=True)
    if kind in ("pcap", "nsecpcap", "pcapng"):
        assert frames(target.read_bytes())[:3] == [A, B, C]
    else:
        with pytest.raises(CaptureError, match=r"this is (a|an|neither) "):
            read(target.read_bytes())


@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_files_that_other_programs_have_written(path: Path) -> None:
    """Three frames, as scapy 2.8.0, tcpdump 4.99.3, tcprewrite 4.4.3 and editcap 4.0.17 wrote them."""
    with Capture(str(path)) as capture:
        assert capture.check() == (3, "")
        assert list(capture.frames()) == [A, B, frame(100, 0x44)]
        assert next(iter(capture)).time // 1_000_000_000 == 7
