"""Starts `ixy-vfio sim`, whose ports a guest gets as PCI devices."""

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.vm.harness.errors import Missing, VmError
from tests.vm.harness.kernel import TREE

START_DEADLINE = 180.0  # a cold compilation on a busy machine
ASK_DEADLINE = 30.0


class Simulator:
    """A running simulator with its sockets in `folder`."""

    def __init__(self, folder: Path, ports: int, cables: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """Start it and wait until it listens. Raises Missing when the project's packages are not installed."""
        self.folder = folder
        argv = [sys.executable, "-m", "ixy_vfio.cli", "sim", "--dir", str(folder), "--ports", str(ports)]
        argv += [word for cable in cables for word in ("--cable", cable)] + list(options)
        self._errors = open(folder / "sim.err", "w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],
            cwd=TREE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_ready(self) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_DEADLINE)
        line = self.process.stdout.readline() if ready else b""
        if not line.startswith(b"ready"):
            reason = (self.errors().strip().splitlines() or ["it said nothing"])[-1]
            if "ModuleNotFoundError" in reason:
                raise Missing(f"{reason}: run scripts/venv test, and scripts/vm from that environment")
            raise VmError(f"the simulator did not start: {reason}")

    def errors(self) -> str:
        """What it has written to standard error."""
        return (self.folder / "sim.err").read_text(errors="replace")

    def ask(self, cmd: str, **more: object) -> dict[str, Any]:
        """One command to its control socket (a line of JSON each way); returns the answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(ASK_DEADLINE)
            control.connect(str(self.folder / "control.sock"))
            control.sendall(json.dumps({"cmd": cmd, **more}).encode() + b"\n")
            with control.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def stop(self) -> None:
        """End it, at last by force. Idempotent."""
        self.process.terminate()
        end = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()
