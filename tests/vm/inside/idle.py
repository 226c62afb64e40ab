"""Runs in a guest: what a forwarder and its worker do while no packet comes.

    idle.py PID FAR...

Brings the interfaces at the far ends up, silent. Prints a JSON object: how often the worker was woken in SECONDS, what
share of a processor each took, and how many interrupts the devices have raised up to then.
"""

import json
import os
import sys
import time
from pathlib import Path

from tests.vm.inside.flows import carrier, run, up
from tests.vm.inside.killed import children
from tests.vm.inside.two_hosts import interface

SECONDS = 5.0


def used(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wakes(pid: int) -> int:
    """How often it has gone to sleep."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary")]
    return int(line.split()[1])


def interrupts() -> int:
    """Of all devices of vfio-pci."""
    lines = [line.split() for line in Path("/proc/interrupts").read_text().splitlines() if "vfio-msix" in line]
    return sum(int(word) for words in lines for word in words[1 : 1 + (os.cpu_count() or 1)])


def main(control: int, *far: str) -> None:
    """Both processes over the same time."""
    names = [interface(address) for address in far]
    for name in names:
        up(name)
    for name in names:
        carrier(name)
    time.sleep(2)  # the forwarder has seen the link, too
    (worker,) = children(control)
    slept = wakes(worker)
    before = {"control": used(control), "worker": used(worker)}
    time.sleep(SECONDS)
    after = {"control": used(control), "worker": used(worker)}
    slept = wakes(worker) - slept
    for name in names:
        run("ip", "link", "set", name, "down")
    shares = {name: round((after[name] - before[name]) / SECONDS, 3) for name in before}
    print(json.dumps({"wakes": slept, "interrupts": interrupts(), **shares}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
