"""Instructions a packet: the same number in every run, on every machine. The gate of CI.

The driver's part is single-stepped (stepping.py): every instruction of two calls, from entry to return. Callgrind, as a
second opinion, counts the same by the name of a function; compiled Python has none, so it is called by one of the C
reference (a compiler is needed), which adds less than a hundredth of an instruction a packet.

The code is compiled for one kind of CPU (Haswell: AVX2), not for the one it runs on. Blind to stalls and caches.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from ixy_vfio.core import signals
from ixy_vfio.core.guard import DEBUG, guarded
from ixy_vfio.core.options import number
from ixy_vfio.core.temporary import workplace

LIMIT = 60.0  # instructions a packet at batch 32
SLACK = 1.05
CPU = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+fma,+lzcnt,+movbe,+popcnt"}
MARCH = "haswell"
SIDES = ("forward", "gcc -O3", "gcc -O3 LTO")
BURST, TIMES, BATCH = 256, 2, 32
DEADLINE = 600.0


def _side(name: str) -> Any:
    from ixy_vfio.bench import reference
    from ixy_vfio.bench.sides import Product, Reference
    from ixy_vfio.datapath import kernels
    from ixy_vfio.datapath.compile import forwarding_loop
    from ixy_vfio.datapath.loop import Formats
    from ixy_vfio.drivers.ixgbe.format import FORMAT

    if name == "forward":
        return Product(forwarding_loop(Formats(FORMAT, FORMAT), kernels.load("touch")), "touch")
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


def _called(side: Any) -> None:
    """TIMES calls through the function that Callgrind is told of."""
    from ixy_vfio.bench import measure, reference
    from ixy_vfio.bench.entry import Entry

    (build, *_), _ = reference.builds(march=MARCH, everything=False)
    build.library.reference_driver(reference.ffi.cast("int64_t (*)(uint64_t)", side.driver.address))
    driver, side.driver = side.driver, Entry(reference.address_of(build.library, "reference_call"))
    measure.sample(side, 2 * BURST * TIMES)
    side.driver = driver


def inner(name: str, batch: int, callgrind: bool) -> None:
    """The process that holds the side: prints the instructions of TIMES calls, or makes the calls for Callgrind."""
    from ixy_vfio.bench import measure

    side = _side(name)
    side.configure(batch, BURST)
    measure.sample(side, 2 * BURST * 4)  # rings in their steady state
    if callgrind:
        _called(side)
    else:
        print(_stepped(side))


def count(name: str = "forward", batch: int = BATCH, callgrind: bool = False) -> float:
    """Instructions a packet. Raises CalledProcessError where it cannot be measured."""
    inner = [sys.executable, "-P", "-m", "ixy_vfio.bench.instructions", "--batch", str(batch), "--inner", name]
    environment = {**os.environ, **CPU, "OPENBLAS_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=DEADLINE)
        return done.stdout

    if not callgrind:
        return int(run(*inner)) / (2 * BURST * TIMES)
    run(*inner, "--callgrind")  # compiles, outside Valgrind
    with workplace("ixy_vfio-bench-") as directory:
        out = directory / "out"
        valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=reference_call"]
        run(*valgrind, f"--callgrind-out-file={out}", *inner, "--callgrind")
        found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
        return (int(found[1]) if found else 0) / (2 * BURST * TIMES)


def main() -> int:
    """Print the number beside its goal; 1 when it is missed or something fails, 2 when it cannot be measured here."""
    parser = argparse.ArgumentParser(prog="scripts/instructions", description="Instructions a packet.")
    parser.add_argument("--inner", metavar="SIDE", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=number(1, 512), default=BATCH, metavar="N", help=f"packets a poll ({BATCH})")
    parser.add_argument("--callgrind", action="store_true", help="count with Callgrind (a minute)")
    parser.add_argument("--reference", action="store_true", help="the C reference, too")
    parser.add_argument(DEBUG, action="store_true", help="show where an error comes from (a traceback)")
    arguments = parser.parse_args()
    if arguments.inner:
        inner(arguments.inner, arguments.batch, arguments.callgrind)
        return 0
    if arguments.callgrind and not (shutil.which("valgrind") and shutil.which("gcc")):
        print("scripts/instructions: --callgrind needs Valgrind and gcc (Debian: valgrind, gcc)", file=sys.stderr)
        return 2
    missed = False
    for name in SIDES if arguments.reference else SIDES[:1]:
        try:
            found = count(name, arguments.batch, arguments.callgrind)
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
    signals.leave()
    with signals.unwinding():
        sys.exit(guarded("scripts/instructions", ["scripts/instructions", *sys.argv[1:]], main))
