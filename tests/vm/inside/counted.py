"""Runs in a guest: an interface receives so many frames of a generator and sends 50; prints `ethtool -S` as JSON."""

import json
import socket
import sys
import time

from tests.vm.inside.flows import carrier, mac, statistics, up
from tests.vm.inside.two_hosts import interface


def main(address: str, frames: int) -> None:
    """Sizes of what is sent: 60, 89, 118 ... 1481."""
    name = interface(address)
    up(name)
    carrier(name)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((name, 0))
        for size in range(60, 60 + 50 * 29, 29):
            out.send((b"\x02\0\0\0\0\1" + mac(name) + b"\x88\xb5").ljust(size, b"\x5a"))
    end = time.monotonic() + 120
    while statistics(name)["rx_packets"] < frames and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2.5)  # nothing more comes; Linux looks at the NIC's counters every 2 s
    print(json.dumps(statistics(name)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
