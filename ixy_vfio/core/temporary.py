"""Temporary directories that do not stay, however their process ends."""

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ixy_vfio.core.errors import UsageError

_LONGEST = 107 - len("/control.sock")  # bytes that the name of a socket may have (unix(7)), without the longest of ours

# Makes the directory, waits until nobody has the other end of its standard input, and removes it. What ends with our
# process, but later, may still be at work in it: so it tries for 10 s.
_KEEPER = """
mkdir -m 700 -- "$1" && echo made && cat > /dev/null
for try in 0 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" && exit; sleep 1; done
"""


@contextlib.contextmanager
def workplace(prefix: str) -> Iterator[Path]:
    """An empty directory of this user's alone, until the end of the block or of this process, even by SIGKILL.

    A child process keeps it: one that is killed removes nothing. Raises UsageError when there is no room for one.
    """
    directory = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(8)}"
    if len(os.fsencode(directory)) > _LONGEST:
        text = "too long for the sockets that will be in it; let TMPDIR name a shorter one, like /tmp"
        raise UsageError(f"no temporary directory: {directory.parent}: {text}")
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    with keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        try:
            if keeper.stdout.readline() != b"made\n":
                raise UsageError(f"no temporary directory: {keeper.stderr.read().decode(errors='replace').strip()}")
            yield directory
        finally:
            keeper.stdin.close()
