"""`python -m tests.timed`: the tests that depend on time, many times in a row beside busy loops.

    python -m tests.timed [--times 20] [--busy 2] [--guests] [pytest arguments]

A test that depends on time carries the marker `timed`: it waits a set time, compares times, or has a deadline that a
busy machine comes near to. Each has to pass every time. Prints a line a run, then how often each test passed. Exit
status 0 if all passed each time, else 1.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

_RESULT = re.compile(r"^(tests/\S+?::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for one in loops:
            one.kill()
            one.wait()


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.timed", description="Run timed tests on a busy machine.")
    parser.add_argument("--times", type=int, default=20, help="how often (20)")
    parser.add_argument("--busy", type=int, default=2, help="how many busy loops beside them (2)")
    parser.add_argument("--guests", action="store_true", help="those that boot a guest, too")
    arguments, more = parser.parse_known_args()
    counts: dict[str, Counter[str]] = {}
    which = "timed" if arguments.guests else "timed and not vm"
    pytest = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", which, *more]
    failed = False
    with busy(arguments.busy):
        for number in range(1, arguments.times + 1):
            begun = time.monotonic()
            done = subprocess.run(pytest, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            for test, result in _RESULT.findall(done.stdout):
                counts.setdefault(test, Counter())[result] += 1
            ended = done.stdout.splitlines()[-1:] or [done.stderr.strip()]
            print(f"run {number}: {time.monotonic() - begun:.0f} s, {ended[0].strip('= ')}", flush=True)
            if done.returncode:
                failed = True
                print(done.stdout, flush=True)
    for test, results in sorted(counts.items()):
        print(f"{results['PASSED']:4} of {results.total()}  {test}")
    return int(failed or not counts)


if __name__ == "__main__":
    sys.exit(main())
