"""Fixtures that tests share: a running simulator, and the commands of the project as users call them."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from ixy_vfio.sim.ask import ask
from tests.guarantees import not_shown

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
START_DEADLINE = 120.0  # a cold compilation of everything, on a busy machine


def address(port: int) -> str:
    """The PCI address of a simulated port."""
    return f"8259:00:{port:02x}.0"


def command(*words: str) -> list[str]:
    """The command line of `ixy-vfio`."""
    return [sys.executable, "-m", "ixy_vfio.cli", *words]


def run(*words: str, timeout: float = START_DEADLINE, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `ixy-vfio` to its end."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=timeout, check=False, **options)


def wait_until(what: str, ready: Callable[[], bool], deadline: float = 30.0) -> None:
    """Poll until `ready()`; fails the test with `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not ready():
        assert time.monotonic() < end, f"{what}: not within {deadline:.0f} s"
        time.sleep(0.02)


def pytest_configure() -> None:
    """What is started here heeds Ctrl-C, also where a shell has this process in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)  # the helper's programs have it, too; tests of another umask set that


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root where there is none, and say how to run it."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root: in a copy of root's own, ./scripts/test -m root")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """After a run of everything: which guarantees of SECURITY.md it has not shown, as a test of theirs did not pass."""
    if config.option.keyword or config.option.markexpr or config.args != config.getini("testpaths"):
        return
    nodes = {
        outcome: [report.nodeid for report in terminalreporter.stats.get(outcome, [])]
        for outcome in ("passed", "failed", "error", "skipped")
    }
    lacking = not_shown(nodes.pop("passed"), itertools.chain(*nodes.values()))
    terminalreporter.section(f"SECURITY.md: {len(lacking) or 'no'} tests of its table have not passed in this run")
    for one in lacking:
        terminalreporter.line(one)


class Simulator:
    """A running `ixy-vfio sim`."""

    def __init__(
        self, directory: Path, ports: int, cables: Sequence[str], options: Sequence[str], **process: Any
    ) -> None:
        self.directory = directory
        self.helper = str(directory / "helper.sock")
        words = [word for cable in cables for word in ("--cable", cable)]
        fds = [int(cable.split(":")[2]) for cable in cables if cable.split(":")[1] == "fd"]
        argv = command("sim", "--dir", str(directory), "--ports", str(ports), "--die-with-parent", *words, *options)
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=fds,
            **process,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            self.process.kill()
            raise AssertionError(f"the simulator did not start: {line}{self.process.communicate()[1]}")

    def ask(self, cmd: str, **more: Any) -> Any:
        """One command to the control socket."""
        return ask(self.directory / "control.sock", cmd=cmd, **more)

    def stop(self) -> str:
        """End it; returns what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return str(self.process.communicate(timeout=15)[1])
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class StartSimulator(Protocol):
    """The `simulator` fixture's type."""

    def __call__(self, ports: int = 2, cables: Sequence[str] = (), options: Sequence[str] = ()) -> Simulator:
        """Start one with these cables; it ends with the test, which fails if it saw a violation or a DMA miss."""


@pytest.fixture
def simulator(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartSimulator]:
    """Starts simulators. A violation of the datasheet fails the test, unless it is marked `expects_violations`."""
    with contextlib.ExitStack() as stack:
        started: list[Simulator] = []

        def start(ports: int = 2, cables: Sequence[str] = (), options: Sequence[str] = ()) -> Simulator:
            directory = tmp_path / f"sim{len(started)}"
            directory.mkdir()
            one = Simulator(directory, ports, cables, options)
            stack.callback(one.stop)
            started.append(one)
            return one

        yield start
        if request.node.get_closest_marker("expects_violations") is None:
            for one in started:
                if one.process.poll() is None:
                    assert one.ask("violations")["violations"] == []
                    assert "end of lease" not in one.stop()  # the helper could undo everything


@contextlib.contextmanager
def forwarder(helper: str, *words: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A running `ixy-vfio forward` between two ports."""
    with application("forward", address(0), address(1), "--helper", helper, *words, **options) as process:
        yield process


@contextlib.contextmanager
def application(*words: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A running command that moves packets, past its start; killed when the block is left with it still running."""
    argv = command(*words, "--announce")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        assert process.stdout is not None
        line = "\n"
        while line and not line.startswith(f"{words[0]}ing "):  # before: what it waits for
            line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[str]", signal_number: int = signal.SIGINT) -> Any:
    """End an application that was started with --json; returns its summary."""
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return json.loads(output)
