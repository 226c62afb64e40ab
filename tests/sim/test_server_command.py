"""`ixy-vfio sim` as a process: sockets, signals, bad input, the end of its parent."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim import cables, generator_cable
from tests.sim.vfio_client import Client

START_DEADLINE = 180.0  # a cold compilation of the data plane, on a busy machine
SIM = [sys.executable, "-m", "ixy_vfio.cli", "sim"]


def start(directory: Path, *words: str) -> "subprocess.Popen[str]":
    argv = [*SIM, "--dir", str(directory), "--die-with-parent", "--no-helper", *words]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"ready {directory}\n"  # there is no helper's socket to be named
    return process


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "sim"


@pytest.mark.timed
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_cleanly(directory: Path, name: signal.Signals) -> None:
    process = start(directory, "--ports", "1")
    assert sorted(path.name for path in directory.iterdir()) == ["control.sock", "port0.sock"]
    process.send_signal(name)
    assert finish(process) == (0, "")
    assert not directory.exists()  # it made it


def test_it_sums_up_the_violations_and_writes_the_trace(directory: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    process = start(directory, "--ports", "2", "--cable", "0:port:1", "--trace", str(trace))
    with Client(directory / "port1.sock") as client:
        client.version()
        client.write(ixgbe.FWSM.offset(), 1)
        assert client.read(ixgbe.FWSM.offset()) == 0x8000
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.connect(str(directory / "control.sock"))
        control.sendall(b'{"cmd": "stop"}\n')
        assert json.loads(control.makefile().readline()) == {}
    status, errors = finish(process)
    assert status == 0
    assert errors == (
        "ixy-vfio sim: 1 violation of the datasheet:\n  port 1: FWSM: write of 0x00000001 to a read-only register\n"
    )
    assert trace.read_text() == "1 write 0x10148 0x00000001 FWSM\n1 read 0x10148 0x00008000 FWSM\n"


def test_a_second_one_in_the_same_directory_is_refused(directory: Path) -> None:
    process = start(directory, "--ports", "1")
    second = subprocess.run([*SIM, "--dir", str(directory), "--no-helper"], capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert second.stderr == (
        f"ixy-vfio sim: {directory}: in use by a running simulator: stop it, or give another --dir\n"
    )
    with Client(directory / "port0.sock") as client:
        client.version()
    process.terminate()
    assert finish(process) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ports", "0"], "argument --ports: '0' is not a whole number from 1 to 32"),
        (["--ports", "33"], "argument --ports: '33' is not a whole number from 1 to 32"),
        (["--cable", "0:nonsense:1"], "cable 0:nonsense:1"),
        (["--cable", "0:port:7"], "cable 0:port:7: there is no port 7"),
        (["--trace", "/nonexistent/trace"], "--trace /nonexistent/trace: No such file or directory"),
        (["--dir", "/proc/nonexistent"], "--dir: /proc/nonexistent: "),
        (["--dir", "/tmp/" + "x" * 120], "too long"),
    ],
)
def test_bad_input_is_one_line_and_status_2(directory: Path, words: list[str], message: str) -> None:
    argv = [*SIM, "--dir", str(directory), "--no-helper", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_DEADLINE)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not directory.exists() or list(directory.iterdir()) == []
    assert list(Path("/tmp").glob("x" * 120)) == []


@pytest.mark.timed
def test_it_dies_with_its_parent(directory: Path) -> None:
    code = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen({[*SIM, '--dir', str(directory), '--ports', '1', '--no-helper', '--die-with-parent']!r},"
        " stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=START_DEADLINE)
    child = int(parent.stdout)
    end = time.monotonic() + 10
    while (directory / "port0.sock").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_help_lists_every_cable_and_every_key_of_the_generator() -> None:
    text = subprocess.run([*SIM, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    listed = {line.split("=")[0].strip() for line in text.partition("keys of gen:\n")[2].splitlines() if "=" in line}
    assert listed == set(generator_cable.KEYS)
    assert {line.split(":")[1] for line in text.splitlines() if line.startswith("  0:")} == set(cables.KINDS)
