"""Runs in a guest: TCP and UDP flows from one interface to another, and how the receiver's RSS spread them.

    flows.py SENDER RECEIVER

Prints a JSON object: queues of the receiver, packets each was to get and got, and how many of the packets carried the
hash that the Toeplitz function gives. It is computed here, with the key and the table that `ethtool -x` shows.
"""

import ctypes
import json
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.inside.two_hosts import interface

FLOWS = 48  # of each kind
LOAD_HASH = (0x20, 0, 0, 0xFFFFF000 + 32)  # BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_RXHASH
SO_ATTACH_FILTER = 26


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def toeplitz(key: bytes, data: bytes) -> int:
    """The RSS hash, as Microsoft's specification has it: for each bit that is set, 32 bits of the key from there on."""
    number, bits, value = int.from_bytes(key, "big"), 8 * len(key), 0
    for i in range(8 * len(data)):
        if data[i // 8] >> (7 - i % 8) & 1:
            value ^= number >> (bits - 32 - i) & 0xFFFF_FFFF
    return value


def spread(name: str) -> tuple[bytes, list[int]]:
    """Key and indirection table."""
    said = run("ethtool", "-x", name)
    key = re.search(r"RSS hash key:\s+([0-9a-f:]+)", said)
    assert key, said
    rows = re.findall(r"^\s+\d+:((?:\s+\d+)+)$", said, re.MULTILINE)
    return bytes.fromhex(key[1].replace(":", "")), [int(word) for row in rows for word in row.split()]


def statistics(name: str) -> dict[str, int]:
    """ethtool -S."""
    return {
        key: int(value) for key, value in re.findall(r"^\s+(\S+): (\d+)$", run("ethtool", "-S", name), re.MULTILINE)
    }


def frames(sender: bytes, receiver: bytes) -> list[tuple[bytes, bytes]]:
    """(frame, what of it is hashed). Without a UDP port: Linux hashes the addresses alone, for fragments' sake."""
    found = []
    four = [socket.inet_pton(socket.AF_INET, text) for text in ("10.82.59.1", "10.82.59.2")]
    six = [socket.inet_pton(socket.AF_INET6, text) for text in ("fd82::1", "fd82::2")]
    for n in range(FLOWS):
        ports = struct.pack(">HH", 40000 + 7 * n, 80)
        tcp = ports + struct.pack(">IIBBHHH", n, 0, 0x50, 0x10, 512, 0, 0)
        udp = ports + struct.pack(">HH", 8, 0)
        source = four[0][:3] + bytes([n + 10])
        for protocol, l4, hashed in ((6, tcp, four[0] + four[1] + ports), (17, udp, source + four[1])):
            address = four[0] if protocol == 6 else source
            head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(l4), 0, 0, 64, protocol, 0, address, four[1])
            found.append((receiver + sender + b"\x08\x00" + head + l4, hashed))
        head = struct.pack(">IHBB", 6 << 28, len(tcp), 6, 64) + six[0] + six[1]
        found.append((receiver + sender + b"\x86\xdd" + head + tcp, six[0] + six[1] + ports))
    return [(frame.ljust(60, b"\0"), hashed) for frame, hashed in found]


def listener(name: str, value: int) -> socket.socket:
    """A packet socket that hears what has this hash, by a filter in the kernel."""
    program = b"".join(struct.pack("HBBI", *row) for row in
                       (LOAD_HASH, (0x15, 0, 1, value), (0x06, 0, 0, 65536), (0x06, 0, 0, 0)))  # fmt: skip
    memory = ctypes.create_string_buffer(program)
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    packets.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", 4, ctypes.addressof(memory)))
    packets.bind((name, 3))  # ETH_P_ALL
    packets.settimeout(60)
    return packets


def mac(name: str) -> bytes:
    return bytes.fromhex(Path(f"/sys/class/net/{name}/address").read_text().strip().replace(":", ""))


def up(name: str) -> None:
    """Up, with nothing of the kernel's own to say."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    run("ip", "link", "set", name, "up")


def carrier(name: str) -> None:
    end = time.monotonic() + 240
    while Path(f"/sys/class/net/{name}/carrier").read_text() != "1\n":
        if time.monotonic() > end:
            raise SystemExit(f"{name}: no carrier")
        time.sleep(0.05)


def main(first: str, second: str) -> None:
    """Send them all, and count."""
    sender, receiver = interface(first), interface(second)
    for name in (sender, receiver):
        up(name)
    for name in (sender, receiver):
        carrier(name)
    key, table = spread(receiver)
    packets = frames(mac(sender), mac(receiver))
    hashes = [toeplitz(key, hashed) for _, hashed in packets]
    expected = [0] * (max(table) + 1)
    for value in hashes:
        expected[table[value % len(table)]] += 1
    ears = [listener(receiver, value) for value in hashes]
    before = statistics(receiver)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((sender, 0))
        for frame, _ in packets:
            out.send(frame)
    heard = 0
    for ear, (frame, _) in zip(ears, packets, strict=True):
        heard += ear.recv(2048) == frame
    after = statistics(receiver)
    got = [after[f"rx_queue_{i}_packets"] - before[f"rx_queue_{i}_packets"] for i in range(len(expected))]
    print(json.dumps({"sent": len(packets), "expected": expected, "got": got, "hashes": heard}))


if __name__ == "__main__":
    main(*sys.argv[1:])
