"""Runs in a guest, as root: generated states of a NIC's interface, each bound and given back (tests/netstates.py).

    netstates.py ADDRESS OTHER SEED COUNT [SECONDS]

OTHER is a NIC that keeps the machine's own routes. Prints a JSON object: seed -> what is not as it was and was not said
to be so beforehand. With SECONDS it begins no state after that time, and says how many there were on standard error.
"""

import json
import os
import sys
import time
from pathlib import Path

from ixy_vfio_helper.kernel import PciDevice
from ixy_vfio_setup import bind
from ixy_vfio_setup.bound import Bound

from tests import netstates


def main(address: str, other: str, first: int, count: int, seconds: float = float("inf")) -> None:
    """One after the other."""
    device = PciDevice(address)
    os.makedirs("/run/netstates", exist_ok=True)
    journal = Bound(Path("/run/netstates"))
    own = bind._interfaces(PciDevice(other))[0].name
    name = bind._interfaces(device)[0].name

    def cycle() -> list[str]:
        with journal:
            bind.bind(device, journal, down=True, other=True)
            return bind.unbind(device, journal)

    def fresh() -> str:
        """As the driver makes it."""
        with journal:
            bind.bind(device, journal, down=True, other=True)
            journal.remove(address)
            bind._hand_over(device, "")
        while not bind._interfaces(device):
            time.sleep(0.05)
        return bind._interfaces(device)[0].name

    end, done = time.monotonic() + seconds, 0
    wrong: dict[int, dict[str, list[str]]] = {}
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break
        if found := netstates.judge(netstates.commands(seed, name, own), name, cycle):
            wrong[seed] = found
        name = fresh()
        netstates.run(f"ip address flush dev {own}")
        done += 1
    netstates.run(f"ip link set {own} down; ip link set {name} down")
    print(f"{done} states", file=sys.stderr)
    print(json.dumps(wrong, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *map(float, sys.argv[5:]))
