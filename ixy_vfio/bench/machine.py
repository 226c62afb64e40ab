"""What the numbers were measured on."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
import llvmlite
import numba
import numpy as np

from ixy_vfio.bench import reference
from ixy_vfio.bench.clock import frequency


def describe() -> dict[str, Any]:
    """CPU, caches, kernel, compilers, versions, and how busy the machine was when the run began."""
    return {
        "cpu": _cpu("model name") or platform.processor(),
        "family": f"{_cpu('cpu family')}/{_cpu('model')}",
        "hypervisor": "hypervisor" in _cpu("flags").split(),
        "cores": len(os.sched_getaffinity(0)),
        "counter_ghz": round(frequency(), 3),
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "compilers": {name: _first_line([path, "--version"]) for name, path in reference.compilers().items()},
        "load_average": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "command": " ".join(["ixy-vfio", *sys.argv[1:]]),
    }


def _cpu(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        found[f"L{level} {kind.lower()}"] = size
    return found


def _first_line(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def _commit() -> str:
    top = Path(__file__).parents[2]
    return _first_line(["git", "-C", str(top), "describe", "--always", "--dirty"])
