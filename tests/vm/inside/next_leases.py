"""Runs in a guest: leases one after the other, each timed from its first byte to its end.

    next_leases.py HELPER DEVICE PAUSE

Prints a line a lease: how many seconds it took to get the device and 1 MiB, or why there was none.
"""

import sys
import time

from ixy_vfio.core.errors import IxyError
from ixy_vfio.transport.lease import Lease, Purpose


def main(helper: str, device: str, pause: float) -> None:
    """Until it is killed."""
    while True:
        begun = time.monotonic()
        try:
            with Lease(helper) as lease:
                lease.memory(1 << 20, [lease.attach(device)], Purpose.PACKETS)
                took = time.monotonic() - begun
            print(f"{took:.3f}", flush=True)
        except IxyError as error:
            print(f"refused: {error}", flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
