"""In a guest, as some other user: locks, shared, all that it can open of the helper's and of setup's, and what comes.

Prints the paths as JSON after its first round, and goes on until it is killed.
"""

import contextlib
import fcntl
import json
import os
import struct
import time
from pathlib import Path

FOLDERS = (Path("/run/ixy_vfio"), Path("/var/lib/ixy_vfio"), Path("/etc/ixy_vfio"), Path("/usr/local/lib/ixy_vfio"))
SHARED = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)


def lock(held: dict[Path, int]) -> None:
    """Lock what is not locked yet, by both kinds of lock."""
    for folder in FOLDERS:
        found = [folder]
        with contextlib.suppress(OSError):  # what is listed may go meanwhile
            found += folder.rglob("*")
        for path in found:
            with contextlib.suppress(OSError):
                if path in held or path.is_socket():
                    continue
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                held[path] = fd
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, SHARED)


def main() -> None:
    """Lock for ever."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    held: dict[Path, int] = {}
    lock(held)
    print(json.dumps(sorted(map(str, held))), flush=True)
    while True:
        lock(held)
        time.sleep(0.02)


if __name__ == "__main__":
    main()
