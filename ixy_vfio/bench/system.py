"""What is measured of whole processes: start, import, resident memory, CPU of an idle worker."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ixy_vfio.core.temporary import workplace

DEADLINE = 60.0  # a cold compilation on a busy machine
PORTS = ("8259:00:00.0", "8259:00:01.0")
CABLES = [f"{port}:gen:count=1000,sizes=60,pace=fit" for port in (0, 1)]
IDLE_SECONDS = 1.5


class NotMeasured(Exception):
    """Something did not start; the message says what."""


def command(*words: str) -> list[str]:
    """`ixy-vfio` with these words."""
    return [sys.executable, "-P", "-m", "ixy_vfio.cli", *words]


@contextlib.contextmanager
def running(
    what: str, ready: str, *words: str, environment: dict[str, str] | None = None
) -> "Iterator[subprocess.Popen[str]]":
    """`ixy-vfio` with these words, from its line that begins with `ready` to the end of the block."""
    process = subprocess.Popen(
        command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C ends this command, which ends its children
    )
    try:
        expect(process, ready, what)
        yield process
    finally:
        if process.poll() is None:
            end(process)


@contextlib.contextmanager
def simulator(directory: Path, cables: Sequence[str] = CABLES) -> Iterator[Path]:
    """A running simulator; yields its helper's socket."""
    words = [word for cable in cables for word in ("--cable", cable)]
    with running("the simulator", "ready", "sim", "--dir", str(directory), "--ports", "2", "--die-with-parent", *words):
        yield directory / "helper.sock"


def expect(process: "subprocess.Popen[str]", word: str, what: str) -> None:
    """Wait for a line that begins with `word`."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], DEADLINE)[0]:
        raise NotMeasured(f"{what} did not start within {DEADLINE:.0f} s")
    if not process.stdout.readline().startswith(word):
        process.kill()
        said = process.communicate()[1].strip().splitlines()
        raise NotMeasured(f"{what} did not start: {said[-1] if said else 'no reason given'}")


def end(process: "subprocess.Popen[str]") -> None:
    """Stop it, by force where asking does not do."""
    process.terminate()
    try:
        process.communicate(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _memory(pid: int) -> dict[str, float]:
    """MiB of a process: resident, and without shared memory (packets and rings)."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "RssShmem"):
            found[key] = int(value.split()[0]) / 1024
    return {"resident": found["VmRSS"], "own": found["VmRSS"] - found.get("RssShmem", 0.0)}


def _processor_time(pid: int) -> float:
    """Seconds of CPU that a process has used, to 10 ms or better."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _forward(cache: str | None, watch: bool) -> dict[str, Any]:
    """Start a simulator and a forwarder; seconds to its first packet, with `watch` also memory and idle CPU."""
    result: dict[str, Any] = {}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if cache:
        environment["XDG_CACHE_HOME"] = cache
    with (
        workplace("ixy_vfio-bench-") as directory,
        simulator(directory / "sim") as helper,
    ):
        words = ["--helper", str(helper), "--json", "--announce", "--duration", "4" if watch else "1"]
        with running("forward", "forwarding", "forward", *PORTS, *words, environment=environment) as process:
            if watch:
                result |= _watch(process.pid)
            output, errors = process.communicate(timeout=DEADLINE)
        if process.returncode != 0 or not output.strip():
            raise NotMeasured(f"forward: {(errors.strip().splitlines() or ['no output'])[-1]}")
        result["first_packet"] = json.loads(output.strip().splitlines()[-1])["first_packet_seconds"]
    return result


def _watch(pid: int) -> dict[str, Any]:
    time.sleep(1.0)  # the packets have come and gone
    workers = _children(pid)
    if not workers:
        return {}
    before, began = [_processor_time(one) for one in (pid, *workers)], time.monotonic()
    time.sleep(IDLE_SECONDS)
    after, ended = [_processor_time(one) for one in (pid, *workers)], time.monotonic()
    share = [100 * (b - a) / (ended - began) for a, b in zip(before, after, strict=True)]
    return {
        "worker_mib": _memory(workers[0])["own"],
        "idle_cpu_percent": max(share[1:]),
        "control_cpu_percent": share[0],
    }


_IMPORT = "import time; t = time.perf_counter(); import ixy_vfio; print(time.perf_counter() - t)"
_HELPER = (
    "import ixy_vfio_helper.__main__;"
    "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')))"
)


def _python(program: str) -> float:
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotMeasured((done.stderr.strip().splitlines() or ["no output"])[-1])
    return float(done.stdout)


def measure(cold: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Everything that can be had, and a line on what cannot."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    try:
        found["import_seconds"] = sorted(_python(_IMPORT) for _ in range(3))[1]
        found["helper_mib"] = _python(_HELPER) / 1024
        _forward(None, False)  # the cache is warm now
        found |= _forward(None, True)
        found["first_packet_warm"] = found.pop("first_packet")
        if cold:
            with workplace("ixy_vfio-cache-") as cache:
                found["first_packet_cold"] = _forward(str(cache), False)["first_packet"]
    except (NotMeasured, OSError, subprocess.TimeoutExpired) as error:
        notes.append(f"not all of the system was measured: {error}")
    return found, notes
