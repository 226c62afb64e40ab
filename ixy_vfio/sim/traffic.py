"""Traffic of the real network stack, run on a host of the lab: an ICMP ping, and a TCP transfer with a hash.

python -m ixy_vfio.sim.traffic ping ADDRESS COUNT      {"sent": .., "received": .., "median_ms": ..}
python -m ixy_vfio.sim.traffic receive ADDRESS         {"bytes": .., "sha256": ..}   (prints "listening" first)
python -m ixy_vfio.sim.traffic send ADDRESS BYTES      {"bytes": .., "sha256": .., "seconds": ..}
"""

import hashlib
import json
import os
import socket
import statistics
import struct
import sys
import time

PORT = 8259
CHUNK = 1 << 20
DEADLINE = 60.0


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ping(address: str, count: int) -> dict[str, object]:
    """Send `count` ICMP echo requests (RFC 792), one after the other, each answered within a second or lost."""
    times = []
    identifier = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(1.0)
        for number in range(count):
            body = os.urandom(56)
            packet = struct.pack(">BBHHH", 8, 0, 0, identifier, number) + body
            start = time.perf_counter()
            sock.sendto(packet[:2] + struct.pack(">H", _checksum(packet)) + packet[4:], (address, 0))
            wanted = struct.pack(">HH", identifier, number) + body
            try:
                while time.perf_counter() - start < 1.0:
                    reply = sock.recv(2048)[20:]  # behind the IP header
                    if reply[0] == 0 and reply[4:] == wanted:
                        times.append(time.perf_counter() - start)
                        break
            except TimeoutError:
                continue
    median = statistics.median(times) * 1e3 if times else None
    return {"sent": count, "received": len(times), "median_ms": median}


def receive(address: str) -> dict[str, object]:
    """Take one TCP connection, hash what comes until its end, and answer with the hash."""
    digest, total = hashlib.sha256(), 0
    with socket.create_server((address, PORT)) as server:
        server.settimeout(DEADLINE)
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(DEADLINE)
            while data := connection.recv(CHUNK):
                digest.update(data)
                total += len(data)
            connection.sendall(digest.digest())
    return {"bytes": total, "sha256": digest.hexdigest()}


def send(address: str, size: int) -> dict[str, object]:
    """Send `size` random bytes by TCP; fails unless the receiver's hash is the same."""
    digest = hashlib.sha256()
    with socket.create_connection((address, PORT), DEADLINE) as connection:
        start = time.perf_counter()
        for begin in range(0, size, CHUNK):
            data = os.urandom(min(CHUNK, size - begin))
            digest.update(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(32, socket.MSG_WAITALL)
        seconds = time.perf_counter() - start
    if answer != digest.digest():
        sys.exit(f"the receiver's hash {answer.hex()} is not the sender's {digest.hexdigest()}")
    return {"bytes": size, "sha256": digest.hexdigest(), "seconds": seconds}


if __name__ == "__main__":
    _, verb, host, *rest = sys.argv
    result = {"ping": ping, "receive": receive, "send": send}[verb](host, *map(int, rest))  # type: ignore[operator]
    print(json.dumps(result), flush=True)
