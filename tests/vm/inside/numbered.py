"""Runs in a guest: numbered frames of mixed sizes go from one interface to another, both ways at once.

    numbered.py FIRST SECOND FRAMES LONGEST [broadcast]

FIRST and SECOND are PCI addresses of NICs that a forwarder stands between; LONGEST is the bytes of the longest frame.
At most WINDOW frames are under way: what lies between may be slow, and is to lose none. With `broadcast` the frames
are for all, and each is followed by one for the far NIC alone, which a forwarder that is not promiscuous leaves.

Prints a JSON object. Each is a list, first to second and second to first: `arrived` frames (in order, whole), `wrong`
(others), `strangers` (frames for the far NIC alone that came with `broadcast`), `sent` and `received`: all that the
kernel counted of the sender and of the receiver meanwhile.
"""

import contextlib
import json
import socket
import struct
import sys
import threading
import time

from tests.vm.inside.flows import carrier, mac, run, up
from tests.vm.inside.two_hosts import interface

TYPE, STRANGER = 0x88B5, 0x88B6  # IEEE 802, local experimental EtherTypes
PROBE = 0x88B7
SHORTEST = 60
WINDOW = 16  # of the longest frames five descriptors each, in rings of 128
PATIENCE = 60.0  # seconds without a frame


def size(number: int, longest: int) -> int:
    """Each size comes, in an order of its own; every eighth frame is one of the longest, every ninth the shortest."""
    if number % 8 == 0:
        return longest
    if number % 9 == 0:
        return SHORTEST
    return SHORTEST + number * 7919 % (longest - SHORTEST + 1)


def frame(head: bytes, number: int, longest: int) -> bytes:
    """Head, number, and bytes that follow from the number."""
    start = head + struct.pack(">I", number)
    fill = bytes((number + i) & 0xFF for i in range(256))
    length = size(number, longest)
    return (start + fill * (length // 256 + 1))[:length]


class Way:
    """One direction."""

    def __init__(self, source: str, target: str, frames: int, longest: int, broadcast: bool) -> None:
        self.source, self.target = source, target
        self.out, self.into = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in range(2))
        self.out.bind((source, 0))
        self.into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.into.bind((target, TYPE))
        self.into.settimeout(PATIENCE)
        self.stranger = mac(target) + mac(source) + struct.pack(">H", STRANGER)
        self.head = (b"\xff" * 6 if broadcast else mac(target)) + mac(source) + struct.pack(">H", TYPE)
        self.broadcast = broadcast
        self.strangers = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.strangers.bind((target, STRANGER))
        self.strangers.setblocking(False)
        self.frames, self.longest = frames, longest
        self.arrived = self.wrong = 0
        self.room = threading.Semaphore(WINDOW)

    def send(self) -> None:
        """All, as there is room under way."""
        for number in range(self.frames):
            if not self.room.acquire(timeout=PATIENCE):
                return
            self.out.send(frame(self.head, number, self.longest))
            if self.broadcast:
                self.out.send(self.stranger.ljust(SHORTEST, b"\0"))

    def receive(self) -> None:
        """All, until nothing comes any more."""
        while self.arrived + self.wrong < self.frames:
            try:
                got = self.into.recv(1 << 16)
            except TimeoutError:
                return
            if got == frame(self.head, self.arrived, self.longest):
                self.arrived += 1
            else:
                self.wrong += 1
            self.room.release()

    def heard(self) -> int:
        """Frames for the far NIC alone that came."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while self.strangers.recv(2048):
                count += 1
        return count


def counted(name: str, what: str) -> int:
    """A statistic of an interface. `ip` asks its driver, which may have to ask its device."""
    (link,) = json.loads(run("ip", "-j", "-s", "-s", "link", "show", name))
    return int(link["stats64"][what]["packets"])


def first_frame(way: Way) -> None:
    """Wait until what lies between forwards: frames of another type, until one comes through."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as ear:
        ear.bind((way.into.getsockname()[0], PROBE))
        ear.settimeout(0.2)
        end = time.monotonic() + 4 * PATIENCE
        probe = (way.head[:12] + struct.pack(">H", PROBE)).ljust(SHORTEST, b"\0")
        while True:
            way.out.send(probe)
            try:
                ear.recv(2048)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise


def main(first: str, second: str, frames: int, longest: int, *more: str) -> None:
    names = [interface(first), interface(second)]
    for name in names:
        run("ip", "link", "set", name, "mtu", str(longest - 14))
        up(name)
    for name in names:
        carrier(name)
    ways = [Way(source, target, frames, longest, "broadcast" in more) for source, target in (names, names[::-1])]
    before = [(counted(way.source, "tx"), counted(way.target, "rx")) for way in ways]
    for way in ways:
        first_frame(way)
    threads = [threading.Thread(target=act, daemon=True) for way in ways for act in (way.send, way.receive)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    time.sleep(1)  # for what comes when all should be there
    told = {
        "arrived": [way.arrived for way in ways],
        "wrong": [way.wrong for way in ways],
        "strangers": [way.heard() for way in ways],
        "sent": [counted(way.source, "tx") - sent for way, (sent, _) in zip(ways, before, strict=True)],
        "received": [counted(way.target, "rx") - got for way, (_, got) in zip(ways, before, strict=True)],
        "seconds": round(seconds, 1),
    }
    print(json.dumps(told), flush=True)
    for name in names:
        run("ip", "link", "set", name, "down")
        run("ip", "link", "set", name, "mtu", "1500")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
