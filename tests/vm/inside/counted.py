"""Runs in a guest: an interface receives so many frames of a generator and sends SENT; prints `ethtool -S` as JSON."""

import json
import socket
import sys
import time

from tests.vm.inside.flows import carrier, mac, statistics, up
from tests.vm.inside.two_hosts import interface

SENT = 50


def main(address: str, frames: int) -> None:
    """Sizes of what is sent: 60, 89, 118 ... 1481."""
    name = interface(address)
    up(name)
    carrier(name)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((name, 0))
        for size in range(60, 60 + SENT * 29, 29):
            out.send((b"\x02\0\0\0\0\1" + mac(name) + b"\x88\xb5").ljust(size, b"\x5a"))
    end = time.monotonic() + 120
    said = statistics(name)
    # The driver's own counters, and the NIC's, which Linux looks at every 2 s.
    wanted = {"rx_packets": frames, "rx_pkts_nic": frames, "tx_pkts_nic": SENT}
    while any(said[key] < count for key, count in wanted.items()) and time.monotonic() < end:
        time.sleep(0.2)
        said = statistics(name)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
