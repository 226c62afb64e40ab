"""A worker has no page that is writable and executable."""

import mmap
import os
from pathlib import Path

from ixy_vfio.runtime.sandbox import freeze_code


def executable_and_writable() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(line.split()[1].startswith("rwx") for line in lines)


def test_code_is_frozen() -> None:
    """In a child, because libffi's page, if there is one, is frozen too."""
    child = os.fork()
    if not child:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        before = executable_and_writable()
        freeze_code()
        os._exit(0 if before >= 1 and executable_and_writable() == 0 and page[0] == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
