"""`ixy-vfio sim`: run simulated 82599 ports, and a helper that leases them."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from ixy_vfio_locks import calls

from ixy_vfio.core import signals
from ixy_vfio.core.errors import LeaseError, UsageError
from ixy_vfio.core.options import number
from ixy_vfio.sim.private import private_directory
from ixy_vfio.sim.specs import CABLES
from ixy_vfio.wires.files import is_regular, open_to_write

if TYPE_CHECKING:
    from ixy_vfio.sim.server import Server

HELPER_DEADLINE = 30.0  # seconds for the helper to say `ready`
HELPER_GRACE = 5.0
SUMMARY_LINES = 10
PR_SET_TIMERSLACK = 29  # linux/prctl.h
MAX_PORTS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = CABLES
    parser.add_argument(
        "--dir",
        type=Path,
        required=True,
        help="directory for the sockets, which only you can write to; made if it is not there",
    )
    parser.add_argument("--ports", type=number(1, MAX_PORTS), default=2, help="how many ports (default: 2)")
    parser.add_argument(
        "--cable",
        action="append",
        default=[],
        metavar="SPEC",
        help="what a port is plugged into, PORT:KIND:DETAILS (see below); repeatable",
    )
    parser.add_argument("--trap", action="store_true", help="no register page can be mapped: every access is a message")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write every register access to FILE")
    parser.add_argument("--seed", type=number(0, 2**63 - 1), help="seed of generators without a seed of their own")
    parser.add_argument(
        "--hostile",
        metavar="SEED[,KIND...]",
        help="ports that lie, and write whatever they can reach: length, endless, early, order, twice, torn, format, "
        "status, heads, rings, packets, ones, garbage, reset, stuck, eeprom, link, storm, counters (default: all)",
    )
    parser.add_argument("--no-helper", action="store_true", help="serve the ports only; nobody leases them")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started this one does"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or the control socket's `stop`."""
    if arguments.die_with_parent:
        parent = os.getppid()
        calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 1
    calls.prctl(PR_SET_TIMERSLACK, 1)  # naps of 50 us shall not take 100
    from ixy_vfio.sim.server import Server

    made = [path for path in (arguments.dir, *arguments.dir.parents) if not path.exists()]
    try:
        private_directory(arguments.dir)
    except UsageError as error:
        raise UsageError(f"--dir: {error}") from None
    with signals.unwinding(), contextlib.ExitStack() as stack:
        for path in reversed(made):
            stack.callback(_remove_if_empty, path)
        server = Server(arguments.dir, arguments.ports, trap=arguments.trap)
        stack.callback(server.close)
        _set_up(server, arguments)
        helper = None if arguments.no_helper else _Helper(server, arguments.dir, arguments.ports)
        if helper is not None:
            stack.callback(helper.end)
            helper.wait_ready()
        _stop_by_signal(server)
        # The socket to be given to the commands; without a helper, the directory of the ports' own.
        print(f"ready {arguments.dir if helper is None else arguments.dir / 'helper.sock'}", flush=True)
        server.run()
        if helper is not None:
            helper.check()
    _summary(server)
    return 0


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def _stop_by_signal(server: "Server") -> None:
    """From now on a signal is how it is meant to end."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.stopping = True

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # by nohup
            signal.signal(name, stop)


def _set_up(server: "Server", arguments: argparse.Namespace) -> None:
    """Cables and trace; and compile what has to be compiled before anybody waits for an answer."""
    _claim_outputs(server)
    for spec in arguments.cable:
        server.connect(_seeded(spec, arguments.seed))
    if arguments.trace is not None:
        trace = _Trace(server, arguments.trace)
        for nic in server.nics:
            nic.bar.trace_file = trace
            nic.bar.label = f"{nic.number} "
    if arguments.hostile is not None:
        for nic in server.nics:
            server.make_hostile(nic.number, arguments.hostile)
    server.turn()


def _claim_outputs(server: "Server") -> None:
    """No capture goes where standard output or error goes, when that is a file."""
    for fd, name in ((1, "standard output"), (2, "standard error")):
        # Closed, or both the same: nothing to be said.
        with contextlib.suppress(OSError, UsageError):
            server.plane.files.claim(fd, name, name, writes=True)


class _Trace:
    """The file of --trace. When it takes no more (a full disk), that is told once, and the ports go on."""

    def __init__(self, server: "Server", path: Path) -> None:
        try:
            fd, _ = open_to_write(str(path))
            server.plane.files.claim(fd, str(path), "--trace", writes=True)
        except UsageError as error:
            raise UsageError(f"--trace {error}") from None
        if is_regular(fd):
            os.truncate(fd, 0)
        self._server, self._path = server, path
        self._file: TextIO | None = os.fdopen(fd, "w", buffering=1)

    def write(self, text: str) -> None:
        """Add a line."""
        if self._file is None:
            return
        try:
            self._file.write(text)
        except OSError as error:
            self._file = None
            self._server.plane.notes.append(f"--trace {self._path}: {error.strerror or error}: no more is traced")


def _seeded(spec: str, seed: int | None) -> str:
    """A generator without a seed of its own gets the command's."""
    if seed is None or ":gen:" not in spec or "seed=" in spec:
        return spec
    return f"{spec}{'' if spec.endswith(':') else ','}seed={seed}"


class _Helper:
    """The simulated helper, a child process. The server goes on serving while it starts, and ends when it dies."""

    def __init__(self, server: "Server", directory: Path, ports: int) -> None:
        command = [sys.executable, "-P", "-m", "ixy_vfio.sim.lease", "--dir", str(directory), "--ports", str(ports)]
        parent = os.getpid()
        self._server, self._directory = server, directory
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=lambda: die_with(parent)
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self._said = b""
        self.dead = False
        server.watch(self._pipe.fileno(), self._hear)

    @property
    def ready(self) -> bool:
        """Whether it has said so."""
        return b"ready" in self._said

    def _hear(self) -> int:
        data = os.read(self._pipe.fileno(), 4096)
        self._said = (self._said + data)[-4096:]
        if not data:
            self.dead = True
            self._server.stopping = True
            self._server.forget(self._pipe.fileno())
        return 1

    def wait_ready(self) -> None:
        """Serve until it is ready. Raises LeaseError when it dies or takes too long."""
        deadline = time.monotonic() + HELPER_DEADLINE
        while not self.ready and not self._server.stopping:
            if time.monotonic() > deadline:
                raise LeaseError(f"the simulated helper did not start within {HELPER_DEADLINE:.0f} s")
            self._server.turn()
        self.check()

    def check(self) -> None:
        """Raise LeaseError when it has died."""
        if self.dead:
            raise LeaseError(f"the simulated helper has ended, status {self._process.wait(HELPER_GRACE)}")

    def end(self) -> None:
        """SIGTERM, and serve on while it gives back what it leased; SIGKILL after HELPER_GRACE."""
        self._process.terminate()
        deadline = time.monotonic() + HELPER_GRACE
        try:
            while not self.dead and time.monotonic() < deadline:
                self._server.turn()
        finally:
            if not self.dead:
                self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._remove()

    def _remove(self) -> None:
        """What a helper leaves for the next one: here there is none."""
        for name in ("helper.sock", "helper.sock.lock"):
            (self._directory / name).unlink(missing_ok=True)
        shutil.rmtree(self._directory / "leases", ignore_errors=True)


def die_with(parent: int) -> None:
    """In a child before its program: SIGTERM when the parent dies, also if that was already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it, too, but it ends with the simulator
    calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _summary(server: "Server") -> None:
    """What the driver did against the book, on stderr."""
    count = sum(nic.violation_count for nic in server.nics)
    if not count:
        return
    print(f"ixy-vfio sim: {count} violation{'s' if count > 1 else ''} of the datasheet:", file=sys.stderr)
    texts = [text for nic in server.nics for text in nic.violations]
    for text in texts[:SUMMARY_LINES]:
        print(f"  {text}", file=sys.stderr)
    if count > SUMMARY_LINES:
        print(f"  ... and {count - min(len(texts), SUMMARY_LINES)} more", file=sys.stderr)
