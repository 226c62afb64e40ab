"""Instructions a packet: the same number in every run, on every machine. The gate of CI.

The driver's part is single-stepped (stepping.py): every instruction of two calls, from entry to return. The code is
compiled for one kind of CPU (Haswell: AVX2), not for the one it runs on. Blind to stalls and caches.
"""

import argparse
import os
import subprocess
import sys
from typing import Any

LIMIT = 60.0  # instructions a packet at batch 32
SLACK = 1.05
CPU = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+fma,+lzcnt,+movbe,+popcnt"}
MARCH = "haswell"
SIDES = ("forward", "gcc -O3", "gcc -O3 LTO")
BURST, TIMES, BATCH = 256, 2, 32
DEADLINE = 600.0


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

    return stepping.count(side.driver.address, body, 1, TIMES)  # but for the first call, which may warm something


def inner(name: str, batch: int) -> None:
    """The process that holds the side: prints the instructions of TIMES calls."""
    from ixy_vfio.bench import measure

    side = _side(name)
    side.configure(batch, BURST)
    measure.sample(side, 2 * BURST * 4)  # rings in their steady state
    print(_stepped(side))


def count(name: str = "forward", batch: int = BATCH) -> float:
    """Instructions a packet. Raises CalledProcessError where it cannot be measured."""
    inner = [sys.executable, "-m", "ixy_vfio.bench.instructions", "--batch", str(batch), "--inner", name]
    environment = {**os.environ, **CPU, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(inner, env=environment, check=True, capture_output=True, text=True, timeout=DEADLINE)
    return int(done.stdout) / (2 * BURST * TIMES)


def main() -> int:
    """Print the number beside its goal; 1 when it is missed or something fails, 2 when it cannot be measured here."""
    parser = argparse.ArgumentParser(prog="scripts/instructions", description="Instructions a packet.")
    parser.add_argument("--inner", metavar="SIDE", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"packets a poll ({BATCH})")
    parser.add_argument("--reference", action="store_true", help="the C reference, too")
    arguments = parser.parse_args()
    if arguments.inner:
        inner(arguments.inner, arguments.batch)
        return 0
    missed = False
    for name in SIDES if arguments.reference else SIDES[:1]:
        try:
            found = count(name, arguments.batch)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines() or ["no reason given"]
            print(f"scripts/instructions: {name}: {said[-1]}", file=sys.stderr)
            return 2 if "CannotStep" in said[-1] else 1
        line = f"{name}: {found:.1f} instructions a packet at batch {arguments.batch}"
        if name == "forward" and arguments.batch == BATCH:
            missed = not 0 < found <= LIMIT * SLACK
            line += f" (goal: at most {LIMIT:.0f}, 5 % slack: {'MISSED' if missed else 'met'})"
        print(line, flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
