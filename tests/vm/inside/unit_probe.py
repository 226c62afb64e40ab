"""Run as a service with the lines of the helper's unit: what it may do, as JSON into the file that is named first.

Standard library only, and nothing of the tree: the service sees no more than the helper would.
"""

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable


def personality() -> None:
    """PER_LINUX32; personality(2) answers -1 when it is refused."""
    if ctypes.CDLL(None).personality(8) == -1:
        raise PermissionError


def opened(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def may(attempt: Callable[[], object]) -> bool:
    try:
        return attempt() is not False
    except OSError:
        return False


def main(result: str, host_uts: str, group: str) -> None:
    """Try everything."""
    found = {
        "MemoryDenyWriteExecute": may(lambda: mmap.mmap(-1, 4096, prot=7).close()),
        "LockPersonality": may(personality),
        "ProtectHostname": os.stat("/proc/self/ns/uts").st_ino == int(host_uts),
        "ProcSubset": os.path.exists("/proc/meminfo"),
        "/dev/vfio/vfio rw": may(lambda: opened("/dev/vfio/vfio", os.O_RDWR)),
        "char-vfio* rw": may(lambda: opened(f"/dev/vfio/{group}", os.O_RDWR)),
        "/dev/kmsg r": may(lambda: opened("/dev/kmsg", os.O_RDONLY)),
        "/dev/kmsg w": may(lambda: opened("/dev/kmsg", os.O_WRONLY)),
    }
    with open(result, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
