"""Checksums, tags and segmentation on transmit; packet types, checksums and RSS on receive. Frames built by hand."""

import socket
import struct

import pytest

from tests.sim.dataplane_rig import BUFFERS, DATA, IOVA, MAC, OTHER, Rig, back_to_back, rig

DD_EOP = 3
TCP, UDP, SCTP = 6, 17, 132
CONTEXT = 0x2020_0000  # DEXT, DTYP = context
IXSM, TXSM = 1 << 40, 1 << 41
VLE, TSE = 1 << 30, 1 << 31
EOP_RS = 1 << 24 | 1 << 27


def total(data: bytes) -> int:
    """The folded ones' complement sum of 16-bit words."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    value = sum(words)
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return int(value)


def ipv4(payload: bytes, protocol: int, source: str, target: str, identification: int = 0, fragment: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    return head[:10] + struct.pack(">H", total(head) ^ 0xFFFF) + head[12:] + payload


def ipv6(payload: bytes, protocol: int, source: str, target: str) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def with_l4_checksum(segment: bytes, protocol: int, addresses: bytes) -> bytes:
    at = 16 if protocol == TCP else 6
    value = total(addresses + struct.pack(">HH", protocol, len(segment)) + segment) ^ 0xFFFF
    return segment[:at] + struct.pack(">H", value) + segment[at + 2 :]


def udp(payload: bytes, source: int = 1000, target: int = 2000) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload


def tcp(payload: bytes, source: int = 1000, target: int = 2000, sequence: int = 1, flags: int = 0x18) -> bytes:
    return struct.pack(">HHIIBBHHH", source, target, sequence, 7, 5 << 4, flags, 500, 0, 0) + payload


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bit by bit."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def sctp(payload: bytes) -> bytes:
    """A packet with its checksum (RFC 9260, 6.8 and appendix A)."""
    head = struct.pack(">HHI", 1000, 2000, 0x1234_5678)
    return head + struct.pack("<I", crc32c(head + bytes(4) + payload)) + payload


def ethernet(packet: bytes, destination: bytes = MAC) -> bytes:
    frame = destination + OTHER + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet
    return frame + bytes(max(0, 60 - len(frame)))


def context(mac: int = 14, ip: int = 20, tag: int = 0, l4: int = 0, v4: bool = True, l4_size: int = 0, mss: int = 0,
            index: int = 0) -> tuple[int, int]:  # fmt: skip
    return (
        ip | mac << 9 | tag << 16,
        CONTEXT | v4 << 10 | l4 << 11 | index << 36 | l4_size << 40 | mss << 48,
    )


@pytest.fixture
def port() -> Rig:
    one = rig()
    one.plane.step()
    one.give(*(BUFFERS + 2048 * i for i in range(32)))
    return one


def transmit(port: Rig, packet: bytes, setup: tuple[int, int], command: int, payload: int | None = None) -> list[bytes]:
    at = BUFFERS + 0x40000
    port.put(at, packet)
    length = len(packet) if payload is None else payload
    port.ring_transmit(setup, (IOVA + at, DATA | command | len(packet) | length << 46))
    port.plane.step()
    assert port.port.violations == []
    return port.on_wire()


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("size", [0, 1, 37, 1000])
def test_ipv4_and_l4_checksums_are_inserted(port: Rig, protocol: int, size: int) -> None:
    segment = (tcp if protocol == TCP else udp)(bytes(i & 0xFF for i in range(size)))
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("192.168.7.9")
    packet = ipv4(with_l4_checksum(segment, protocol, addresses), protocol, "10.0.0.1", "192.168.7.9", 0x1234)
    seed = total(addresses + struct.pack(">HH", protocol, len(segment)))
    at = 16 if protocol == TCP else 6
    raw = bytearray(ethernet(packet)[: 14 + len(packet)])
    raw[24:26] = bytes(2)
    raw[34 + at : 36 + at] = struct.pack(">H", seed)
    sent = transmit(port, bytes(raw), context(l4=int(protocol == TCP)), IXSM | TXSM)
    assert sent == [ethernet(packet)]


@pytest.mark.parametrize("size", [0, 1, 36, 1001])
def test_sctp_checksums_are_inserted(port: Rig, size: int) -> None:
    assert crc32c(b"123456789") == 0xE306_9283  # the check value of the CRC
    packet = ipv4(sctp(bytes(i & 0xFF for i in range(size))), SCTP, "10.0.0.1", "192.168.7.9")
    for field in (bytes(4), b"\xff\xee\xdd\xcc"):
        raw = bytearray(ethernet(packet)[: 14 + len(packet)])
        raw[42:46] = field
        assert transmit(port, bytes(raw), context(l4=2), IXSM | TXSM) == [ethernet(packet)]


def test_sctp_is_not_cut_into_segments(port: Rig) -> None:
    port.put(BUFFERS, ethernet(ipv4(sctp(bytes(2000)), SCTP, "10.0.0.1", "192.168.7.9")))
    setup = context(l4=2, l4_size=12, mss=1000)
    port.ring_transmit(setup, (IOVA + BUFFERS, DATA | TSE | IXSM | TXSM | 2046 | 2000 << 46))
    port.plane.step()
    assert [text.partition(" (")[0] for text in port.port.violations] == ["queue 0: TX context does not fit the packet"]
    port.port.violations.clear()


def test_ipv6_udp_checksum_is_inserted(port: Rig) -> None:
    segment = udp(b"some data")
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")
    packet = ipv6(with_l4_checksum(segment, UDP, addresses), UDP, "fd00::1", "fd00::2")
    raw = bytearray(ethernet(packet))
    raw[60:62] = struct.pack(">H", total(addresses + struct.pack(">HH", UDP, len(segment))))
    sent = transmit(port, bytes(raw), context(ip=40, v4=False, index=1), TXSM | 1 << 36)
    assert sent == [ethernet(packet)]


def test_a_tag_is_inserted(port: Rig) -> None:
    frame = ethernet(ipv4(udp(bytes(40)), UDP, "1.1.1.1", "2.2.2.2"))
    assert transmit(port, frame, context(tag=0x6123), VLE) == [frame[:12] + b"\x81\x00\x61\x23" + frame[12:]]


def test_a_tag_counts_for_padding(port: Rig) -> None:
    assert transmit(port, ethernet(b"\x45" + bytes(20))[:50], context(tag=5), VLE) == [
        (MAC + OTHER + b"\x81\x00\x00\x05\x08\x00\x45").ljust(60, b"\0")
    ]


SEQUENCE = 0xFFFF_FF00  # so that it wraps


@pytest.mark.parametrize("tag", [None, 0x0042])
def test_tcp_segmentation_over_ipv4(port: Rig, tag: int | None) -> None:
    data = bytes((7 * i) & 0xFF for i in range(3000))
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    template = tcp(b"", sequence=SEQUENCE, flags=0x19)  # FIN, PSH, ACK
    template = template[:16] + struct.pack(">H", total(addresses + struct.pack(">HH", TCP, 0))) + template[18:]
    packet = ethernet(ipv4(template, TCP, "10.0.0.1", "10.0.0.2", 0xFFFF), OTHER)[:54] + data
    command = IXSM | TXSM | TSE | (VLE if tag is not None else 0)
    setup = context(l4=1, l4_size=20, mss=1448, tag=tag or 0)
    expected = []
    for i, (start, flags) in enumerate([(0, 0x10), (1448, 0x10), (2896, 0x19)]):
        piece = data[start : start + 1448]
        segment = tcp(piece, sequence=(SEQUENCE + start) & 0xFFFF_FFFF, flags=flags)
        segment = with_l4_checksum(segment, TCP, addresses)
        frame = ethernet(ipv4(segment, TCP, "10.0.0.1", "10.0.0.2", (0xFFFF + i) & 0xFFFF), OTHER)
        if tag is not None:
            frame = frame[:12] + struct.pack(">HH", 0x8100, tag) + frame[12:]
        expected.append(frame)
    assert transmit(port, packet, setup, command, payload=3000) == expected
    assert port.port.statistics["GPTC"] == 3
    assert port.tx_descriptor(1) == (0, 1 << 32)


def test_tcp_segmentation_over_ipv6_from_several_buffers(port: Rig) -> None:
    data = bytes((3 * i) & 0xFF for i in range(2500))
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")
    template = tcp(b"", flags=0x10)
    template = template[:16] + struct.pack(">H", total(addresses + struct.pack(">HH", TCP, 0))) + template[18:]
    packet = ethernet(ipv6(template, TCP, "fd00::1", "fd00::2"))[:74] + data
    at = BUFFERS + 0x40000
    port.put(at, packet)
    command = (DATA | TSE) & ~EOP_RS
    port.ring_transmit(
        context(ip=40, v4=False, l4=1, l4_size=20, mss=1000),
        (IOVA + at, command | TXSM | 74 | 2500 << 46),
        (IOVA + at + 74, command | 1500),
        (IOVA + at + 1574, DATA | TSE | 1000),
    )
    port.plane.step()
    expected = []
    for start in (0, 1000, 2000):
        segment = with_l4_checksum(tcp(data[start : start + 1000], sequence=1 + start, flags=0x10), TCP, addresses)
        expected.append(ethernet(ipv6(segment, TCP, "fd00::1", "fd00::2")))
    assert port.on_wire() == expected
    assert port.port.violations == []


def test_a_context_that_does_not_fit_is_a_violation(port: Rig) -> None:
    port.put(BUFFERS, bytes(60))
    port.ring_transmit(context(mac=14, ip=60, l4=1), (IOVA + BUFFERS, DATA | TXSM | 60 | 60 << 46))
    port.plane.step()
    assert [text.partition(" (")[0] for text in port.port.violations] == ["queue 0: TX context does not fit the packet"]
    assert port.on_wire() == []


def received(port: Rig, frame: bytes) -> tuple[int, int]:
    """(first word, extended status and error) of the write-back."""
    index = port.read(0x1010)
    port.from_wire(frame)
    port.plane.step()
    first, second = port.rx_descriptor(index)
    assert second >> 32 & 0xFFFF == len(frame)
    return first, second & 0xFFFF_FFFF


IPV4, IPV4E, IPV6, IPV6E, TYPE_TCP, TYPE_UDP, TYPE_SCTP = (1 << bit for bit in (4, 5, 6, 7, 8, 9, 10))
IPCS, L4CS, UDPCS, TCPE, IPE = 1 << 6, 1 << 5, 1 << 4, 1 << 30, 1 << 31
A4 = socket.inet_aton("1.2.3.4") + socket.inet_aton("5.6.7.8")
A6 = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")


def v4(segment: bytes, protocol: int, **more: int) -> bytes:
    return ipv4(segment, protocol, "1.2.3.4", "5.6.7.8", **more)


def v6(segment: bytes, protocol: int) -> bytes:
    return ipv6(segment, protocol, "fd00::1", "fd00::2")


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


GOOD_TCP4 = v4(with_l4_checksum(tcp(b"odd"), TCP, A4), TCP)
TYPES = [
    ("TCP over IPv4", GOOD_TCP4, IPV4 | TYPE_TCP, IPCS | L4CS),
    ("UDP over IPv4", v4(with_l4_checksum(udp(b"data"), UDP, A4), UDP), IPV4 | TYPE_UDP, IPCS | L4CS | UDPCS),
    ("UDP without checksum", v4(udp(b"data"), UDP), IPV4 | TYPE_UDP, IPCS),
    ("bad TCP checksum", flip(GOOD_TCP4, 41), IPV4 | TYPE_TCP, IPCS | L4CS | TCPE),
    ("bad IPv4 checksum", flip(GOOD_TCP4, 8), IPV4 | TYPE_TCP, IPCS | L4CS | IPE),
    ("SCTP", v4(sctp(b"chunks"), SCTP), IPV4 | TYPE_SCTP, IPCS | L4CS),
    ("SCTP over IPv6", v6(sctp(b""), SCTP), IPV6 | TYPE_SCTP, L4CS),
    ("wrong SCTP checksum", v4(flip(sctp(b"chunks"), 13), SCTP), IPV4 | TYPE_SCTP, IPCS | L4CS | TCPE),
    ("SCTP without a checksum", v4(bytes(12), SCTP), IPV4 | TYPE_SCTP, IPCS | L4CS | TCPE),
    ("SCTP without a header", v4(bytes(11), SCTP), IPV4, IPCS),
    ("fragment", v4(bytes(40), UDP, fragment=0x2000), IPV4, IPCS),
    ("ICMP", v4(bytes(40), 1), IPV4, IPCS),
    ("TCP over IPv6", v6(with_l4_checksum(tcp(b""), TCP, A6), TCP), IPV6 | TYPE_TCP, L4CS),
    ("UDP over IPv6", v6(with_l4_checksum(udp(b""), UDP, A6), UDP), IPV6 | TYPE_UDP, L4CS | UDPCS),
    ("IPv6 with an option header", v6(bytes([UDP, 0, 1, 4, 0, 0, 0, 0]) + with_l4_checksum(udp(b"x"), UDP, A6), 0),
     IPV6 | IPV6E | TYPE_UDP, L4CS | UDPCS),
    ("truncated IPv4", v4(bytes(100), UDP)[:60], 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "kind", "status"), [t[1:] for t in TYPES], ids=[t[0] for t in TYPES])
def test_packet_types_and_checksums(port: Rig, packet: bytes, kind: int, status: int) -> None:
    assert received(port, ethernet(packet)) == (kind, DD_EOP | status)


# The verification suite for RSS that the authors of the hash published with it: key, addresses, ports, hashes.
KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)  # fmt: skip
HASHES = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4B61E985, 0x02D1FEEF),
]


def start_rss(port: Rig, fields: int) -> None:
    for i in range(10):
        port.write(0x5C80 + 4 * i, int.from_bytes(KEY[4 * i : 4 * i + 4], "little"))
    for i in range(32):
        port.write(0x5C00 + 4 * i, 0x0302_0100)
    port.write(0x5000, 1 << 13)  # RXCSUM.PCSD
    port.write(0x5818, 1 | fields)
    for queue in range(1, 4):
        port.start_receive(queue, ring=0x400 * queue)
    port.plane.step()
    for queue in range(1, 4):
        port.rx_tail = 0
        port.give(BUFFERS + 0x20000 + 2048 * queue, queue=queue, ring=0x400 * queue)


@pytest.mark.parametrize(("source", "sport", "target", "dport", "addresses", "four"), HASHES)
def test_rss_hashes_and_queues(
    port: Rig, source: str, sport: int, target: str, dport: int, addresses: int, four: int
) -> None:
    make, sixth = (ipv6, True) if ":" in source else (ipv4, False)
    for fields, protocol, value, kind in (
        (1 << 16 | 1 << 21, TCP, four, 3 if sixth else 1),
        (1 << 22 | 1 << 23, UDP, four, 8 if sixth else 7),
        (1 << 17 | 1 << 20, TCP, addresses, 5 if sixth else 2),
    ):
        port = rig()
        port.plane.step()
        port.give(BUFFERS)
        start_rss(port, fields)
        segment = tcp(b"", sport, dport) if protocol == TCP else udp(b"", sport, dport)
        port.from_wire(ethernet(make(segment, protocol, source, target)))
        port.plane.step()
        queue = value & 3
        first, _ = port.rx_descriptor(0, ring=0x400 * queue)
        assert (first >> 32, first & 15) == (value, kind)
        assert port.port.receive_causes.nonzero()[0].tolist() == [queue]


def test_what_is_not_hashed_goes_to_queue_0(port: Rig) -> None:
    start_rss(port, 1 << 16)
    assert received(port, ethernet(v4(udp(b""), UDP)))[0] == IPV4 | TYPE_UDP


def test_a_checksum_inserted_is_found_good_by_the_other_port() -> None:
    one, other = back_to_back()
    one.plane.step()
    other.give(BUFFERS)
    segment = tcp(b"hello")
    raw = bytearray(ethernet(v4(segment, TCP), OTHER))
    raw[24:26] = bytes(2)
    raw[50:52] = struct.pack(">H", total(A4 + struct.pack(">HH", TCP, len(segment))))
    one.put(BUFFERS, bytes(raw[:59]))
    one.ring_transmit(context(l4=1), (IOVA + BUFFERS, DATA | IXSM | TXSM | 59 | 59 << 46))
    one.plane.step()
    assert other.rx_descriptor(0) == (IPV4 | TYPE_TCP, 60 << 32 | DD_EOP | IPCS | L4CS)
