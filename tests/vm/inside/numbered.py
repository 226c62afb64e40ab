"""Runs in a guest: numbered frames of mixed sizes go from one interface to another, both ways at once.

    numbered.py FIRST SECOND FRAMES LONGEST

FIRST and SECOND are PCI addresses of NICs that a forwarder stands between; LONGEST is the bytes of the longest frame.
At most WINDOW frames are under way: what lies between may be slow, and is to lose none. Beside them, frames with an
address of the forwarder's own ports' wire that is nobody's (STRANGER) are sent when a third word, `strangers`, follows.

Prints a JSON object: `arrived` (frames each way that came in order, whole), `wrong` (others), `strangers` that came.
"""

import json
import os
import socket
import struct
import sys
import threading
import time

from tests.vm.inside.flows import carrier, mac, run, up
from tests.vm.inside.two_hosts import interface

TYPE = 0x88B5  # IEEE 802, local experimental EtherType 1
SHORTEST = 60
WINDOW = 64
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

    def __init__(self, source: str, target: str, frames: int, longest: int) -> None:
        self.out, self.into = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in range(2))
        self.out.bind((source, 0))
        self.into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.into.bind((target, TYPE))
        self.into.settimeout(PATIENCE)
        self.head = mac(target) + mac(source) + struct.pack(">H", TYPE)
        self.frames, self.longest = frames, longest
        self.arrived = self.wrong = 0
        self.room = threading.Semaphore(WINDOW)

    def send(self) -> None:
        """All, as there is room under way."""
        for number in range(self.frames):
            if not self.room.acquire(timeout=PATIENCE):
                return
            self.out.send(frame(self.head, number, self.longest))

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


def first_frame(way: Way) -> None:
    """Wait until what lies between forwards: frames of another type, until one comes through."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as ear:
        ear.bind((way.into.getsockname()[0], TYPE + 1))
        ear.settimeout(0.2)
        end = time.monotonic() + 4 * PATIENCE
        probe = (way.head[:12] + struct.pack(">H", TYPE + 1)).ljust(SHORTEST, b"\0")
        while True:
            way.out.send(probe)
            try:
                ear.recv(2048)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise


def main(first: str, second: str, frames: int, longest: int) -> None:
    names = [interface(first), interface(second)]
    for name in names:
        run("ip", "link", "set", name, "mtu", str(longest - 14))
        up(name)
    for name in names:
        carrier(name)
    ways = [Way(source, target, frames, longest) for source, target in (names, names[::-1])]
    for way in ways:
        first_frame(way)
    threads = [threading.Thread(target=act) for way in ways for act in (way.send, way.receive)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {"arrived": [way.arrived for way in ways], "wrong": [way.wrong for way in ways]}
    print(json.dumps({**told, "seconds": round(time.monotonic() - begin, 1)}), flush=True)
    for name in names:
        run("ip", "link", "set", name, "down")
        run("ip", "link", "set", name, "mtu", "1500")
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
