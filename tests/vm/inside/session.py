"""In the guest: a session of the helper, a control process that holds the device and a worker that has a page of it.

    session.py sound|leaky|wide|unaccounted ADDRESS UID

leaky: the worker keeps the device's descriptor; wide: it has all of the BAR mapped; unaccounted: as sound (what is
broken is the ledger). Prints the process ids, and stays.
"""

import json
import os
import sys
import time

from ixy_vfio_locks import rights

from ixy_vfio.core.memory import Mapping
from tests.vm.inside.leased import Client

QUEUE_PAGE = 0x1000


def main(how: str, address: str) -> None:
    """Lease, map, fork."""
    client = Client()
    device = client.attach(address)
    _, memory = client.memory(b"packets.")
    start, size = device.region(0)
    page = Mapping(device.fd, 0x1000, start + QUEUE_PAGE)
    registers = Mapping(device.fd, size, start) if how == "wide" else None
    child = os.fork()
    if not child:
        rights.no_new_privileges()
        keep = {device.fd} if how == "leaky" else set()
        for fd in (int(name) for name in os.listdir("/proc/self/fd")):
            if fd not in keep:
                try:
                    os.close(fd)
                except OSError:
                    continue  # that of the listing
        time.sleep(600)
    registers = registers or Mapping(device.fd, size, start)
    print(json.dumps({"control": os.getpid(), "worker": child}), flush=True)
    time.sleep(600)
    print(memory[0], page.size, registers.size)  # they were in use until here


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
    main(sys.argv[1], sys.argv[2])
