"""Runs in a guest: two hosts, each behind an interface and a namespace of its own, talk through what lies between.

    hosts_beside.py FIRST SECOND FORWARDER

As two_hosts.py, but both ways, and with what every kernel has. Prints a JSON object of what was seen. FORWARDER is a
process: the interfaces come up when it has reset its ports, as Linux's driver, too, resets (and loses what it holds)
some time after it has lost a link with frames to send.
"""

import json
import os
import sys
import time

from pyroute2 import netns

from tests.vm.inside.killed import children
from tests.vm.inside.two_hosts import (
    NAMES,
    address,
    echoes,
    give_back,
    interface,
    move,
    serve,
    stream,
    wait_for_carrier,
)

FIRST_DEADLINE = 240.0
ADDRESSES = ("10.82.59.1", "10.82.59.2")


def talk(here: int) -> dict[str, object]:
    """What host `here` sees of the other one."""
    netns.setns(NAMES[here])
    other = ADDRESSES[1 - here]
    end = time.monotonic() + FIRST_DEADLINE
    while not echoes(other, range(1, 2), 1.0) and time.monotonic() < end:  # what lies between may be starting still
        time.sleep(0.2)
    return {"echoes": echoes(other, range(1, 1473, 97)), "stream": stream(other)}


def main(first: str, second: str, forwarder: str) -> None:
    end = time.monotonic() + FIRST_DEADLINE
    while not children(int(forwarder)):  # its worker, which it starts when its ports are initialised
        if time.monotonic() > end:
            raise TimeoutError(f"the forwarder has no worker after {FIRST_DEADLINE:.0f} s")
        time.sleep(0.1)
    names = [interface(first), interface(second)]
    spaces = [move(name, space, 1500) for name, space in zip(names, NAMES, strict=True)]
    carrier = wait_for_carrier(list(zip(spaces, names, strict=True)))
    for number, space in enumerate(spaces):
        address(space, names[number], ADDRESSES[number])
    servers = [serve(name) for name in NAMES]
    time.sleep(1)
    seen = []
    for here in range(2):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(talk(here)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            seen.append(json.loads(answer.read() or "null"))
    give_back(list(zip(spaces, names, strict=True)), servers)
    print(json.dumps({"carrier": carrier, "seen": seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
