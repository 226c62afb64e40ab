"""Instructions a packet: the same number in every run, on every machine. The gate of CI.

The driver's part is single-stepped (stepping.py), or run under callgrind. Callgrind counts from the call of a function
to its return, by the function's name; compiled Python has no names that it could know. So there the driver's part is
called by `tfind` of the C library, which hardly anything uses, as the comparison of a search in a tree of one node.
That adds about 20 instructions a call, that is for 512 packets. Callgrind needs minutes.

The code is compiled for one kind of CPU (Haswell: AVX2), not for the one it runs on. Blind to stalls and caches.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cffi import FFI

LIMIT = 60.0  # instructions a packet at batch 32
SLACK = 1.05
CPU = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+fma,+lzcnt,+movbe,+popcnt"}
MARCH = "haswell"
SIDES = ("forward", "gcc -O3", "gcc -O3 LTO")
BURST, TIMES, BATCH = 256, 2, 32
DEADLINE = 600.0

ffi = FFI()
ffi.cdef("void *tfind(void *key, void **root, void *compare);")


def _side(name: str) -> Any:
    from ixy_vfio.apps import kernels
    from ixy_vfio.apps.compile import forwarding_loop
    from ixy_vfio.bench import reference
    from ixy_vfio.bench.sides import Product, Reference

    if name == "forward":
        return Product(forwarding_loop(kernels.load("touch")), "touch")
    found, _ = reference.builds(march=MARCH, everything=name != reference.MAIN)
    for build in found:
        if build.name == name:
            return Reference(build)
    raise SystemExit(f"{name} cannot be built here")


def _stepped(side: Any) -> int:
    from ixy_vfio.bench import measure, stepping

    def body() -> None:
        measure.sample(side, 2 * BURST * 2 * TIMES)

    return stepping.count(
        side.driver.address, body, 1, TIMES
    )  # measure.sample warms nothing: the first call is left out


def _searched(side: Any) -> None:
    from ixy_vfio.bench import model

    libc: Any = ffi.dlopen(None)
    key, compare = ffi.cast("void *", side.state), ffi.cast("void *", side.driver.address)
    node = ffi.new("void *[4]")  # key, left, right: all null
    root = ffi.new("void **", node)
    for _ in range(TIMES):
        model.step(side.bench.ctypes.data)
        libc.tfind(key, root, compare)


def inner(name: str, batch: int, way: str) -> None:
    """The process that holds the side: prints the instructions of TIMES calls, or makes the calls for callgrind."""
    from ixy_vfio.bench import measure

    side = _side(name)
    side.configure(batch, BURST)
    measure.sample(side, 2 * BURST * 4)  # rings in their steady state
    if way == "callgrind":
        _searched(side)
    elif way == "step":
        print(_stepped(side))


def count(name: str = "forward", batch: int = BATCH, callgrind: bool = False) -> float:
    """Instructions a packet. Raises CalledProcessError where it cannot be measured."""
    inner = [sys.executable, "-m", "ixy_vfio.bench.instructions", "--batch", str(batch), "--inner", name, "--way"]
    options: dict[str, Any] = {
        "env": {**os.environ, **CPU, "OPENBLAS_NUM_THREADS": "1"},
        "check": True,
        "capture_output": True,
        "text": True,
        "timeout": DEADLINE,
    }
    if not callgrind:
        instructions = int(subprocess.run([*inner, "step"], **options).stdout)
    else:
        subprocess.run([*inner, "none"], **options)  # compiles, outside Valgrind
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "out"
            valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=tfind"]
            subprocess.run([*valgrind, f"--callgrind-out-file={out}", *inner, "callgrind"], **options)
            found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
            instructions = int(found[1]) if found else 0
    return instructions / (2 * BURST * TIMES)


def main() -> int:
    """Print the number beside its goal; 1 when it is missed or something fails, 2 when it cannot be measured here."""
    parser = argparse.ArgumentParser(prog="scripts/instructions", description="Instructions a packet.")
    parser.add_argument("--inner", metavar="SIDE", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"packets a poll ({BATCH})")
    parser.add_argument("--callgrind", action="store_true", help="count with callgrind (minutes)")
    parser.add_argument("--reference", action="store_true", help="the C reference, too")
    arguments = parser.parse_args()
    if arguments.inner:
        inner(arguments.inner, arguments.batch, arguments.way)
        return 0
    if arguments.callgrind and shutil.which("valgrind") is None:
        print("scripts/instructions: Valgrind is needed (Debian: apt-get install valgrind)", file=sys.stderr)
        return 2
    missed = False
    for name in SIDES if arguments.reference else SIDES[:1]:
        try:
            found = count(name, arguments.batch, arguments.callgrind)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines() or ["no reason given"]
            print(f"scripts/instructions: {name}: {said[-1]}", file=sys.stderr)
            return 2 if "CannotStep" in said[-1] or arguments.callgrind else 1
        line = f"{name}: {found:.1f} instructions a packet at batch {arguments.batch}"
        if name == "forward" and arguments.batch == BATCH:
            missed = not 0 < found <= LIMIT * SLACK
            line += f" (goal: at most {LIMIT:.0f}, 5 % slack: {'MISSED' if missed else 'met'})"
        print(line, flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
