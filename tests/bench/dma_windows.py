"""What DMA windows of a simulated port cost: `python -m tests.bench.dma_windows [COUNT]` (262,144 if left out).

Pages of one file, as Linux's VFIO tests map them: one by one, and unmapped one by one. Fails above 10 s of processor
time for all of them.
"""

import os
import sys
import time
from typing import Any

from ixy_vfio.sim.dma import DmaTable
from ixy_vfio.sim.windows import Windows

PAGE = 4096
GOAL = 10.0  # seconds


def main() -> int:
    """Measure, print, and return the exit status."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 262_144
    record: dict[str, Any] = {}
    windows = Windows(DmaTable(record))
    fd = os.memfd_create("pages")
    os.ftruncate(fd, count * PAGE)
    windows.map(0, PAGE, fd, 0, True, True)  # compiles
    windows.unmap(0, PAGE)
    start = time.process_time()
    for number in range(count):
        windows.map(number * PAGE, PAGE, fd, number * PAGE, True, True)
    mapped = time.process_time()
    for number in range(count):
        windows.unmap(number * PAGE, PAGE)
    unmapped = time.process_time()
    os.close(fd)
    print(f"{count} windows: mapped in {mapped - start:.2f} s, unmapped in {unmapped - mapped:.2f} s")
    return unmapped - start > GOAL


if __name__ == "__main__":
    sys.exit(main())
