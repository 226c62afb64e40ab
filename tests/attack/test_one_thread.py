"""What is sealed has one thread: another one would keep what the first gives up, so it is refused, and named."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ixy_vfio.core.errors import SealError
from ixy_vfio.runtime.control import Control
from ixy_vfio.runtime.plan import Plan
from tests.attack.test_refused_calls import answered, seal_a_worker, seal_control
from tests.conftest import address, command
from tests.programs import program_of


def wait_for(event: threading.Event) -> None:
    event.wait()


@contextlib.contextmanager
def another_thread() -> Iterator[None]:
    event = threading.Event()
    thread = threading.Thread(target=wait_for, args=(event,), name="poller")
    thread.start()
    try:
        yield
    finally:
        event.set()
        thread.join()


POLLER = re.escape("cannot be sealed with more than one thread, as another keeps all rights: poller (") + (
    rf"{re.escape(__file__)}:\d+, wait_for\)"
)


def test_control_with_another_thread_is_refused_before_anything_is_done() -> None:
    plan = Plan((address(0), address(1)), program_of(), helper="/nonexistent", alone=True)
    with another_thread(), pytest.raises(SealError, match=f"^control {POLLER}$"), Control(plan):
        pass


def test_neither_control_nor_a_worker_is_sealed_with_another_thread() -> None:
    def control() -> str:
        with another_thread():
            return seal_control()

    def a_worker() -> str:
        os.register_at_fork(after_in_child=threading.Thread(target=signal.pause, name="after").start)
        return seal_a_worker()

    assert re.fullmatch(f"SealError: control {POLLER}", answered([], 0, control))
    told = answered([], 0, a_worker)
    assert told.startswith("a worker cannot be sealed with more than one thread, as another keeps all rights: after (")


def test_threads_of_libraries_are_named() -> None:
    """NumPy's linear algebra starts some when it may: a thread that Python knows nothing of."""
    program = "import numpy; from ixy_vfio.core import threads; threads.require_one('this')"
    for count in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": count}
        argv = [sys.executable, "-c", program]
        result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, "libscipy_openblas" in result.stderr) == (int(count) - 1, count == "2"), (
            result.stderr
        )


@pytest.mark.timed
def test_a_kernel_file_that_starts_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import threading, time\n"
        "def poll():\n    time.sleep(60)\n"
        "threading.Thread(target=poll, daemon=True).start()\n"
        "def kernel(packet, length):\n    return True\n"
    )
    argv = command(
        "forward", address(0), address(1), "--helper", "/nonexistent", "--quiet", "--kernel", f"{path}:kernel"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}  # the command knows better
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    said = "control cannot be sealed with more than one thread, as another keeps all rights: Thread-1 (poll)"
    assert (result.stdout, result.returncode) == ("", 2)
    assert result.stderr == f"ixy-vfio forward: {said} ({path}:2, poll)\n"
