"""Wrong use of the commands: one clear line that says what to do, exit status 2, nothing left behind."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Simulator, StartSimulator, address, forwarder, run

A, B = address(0), address(1)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory = tmp_path_factory.mktemp("sim")
    one = Simulator(directory, 2, ["0:port:1"], [])
    yield one
    one.stop()


def refused(*words: str, says: str) -> None:
    result = run(*words)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert says in lines[-1], lines
    assert all(line.endswith(" ...") for line in result.stdout.splitlines())  # nothing but what it waited for


def test_a_helper_that_is_not_there_is_told_before_the_compiler_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; from ixy_vfio.cli import main; status = main(sys.argv[1:]); "
        "print('numba' in sys.modules); sys.exit(status)"
    )
    words = [sys.executable, "-c", program, "forward", A, B, "--quiet", "--helper", str(tmp_path / "nobody.sock")]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.returncode) == ("False\n", 2)
    assert result.stderr.startswith(f"ixy-vfio forward: {tmp_path}/nobody.sock: no helper is running there; start ")


def test_what_is_wrong_with_a_kernel_is_told_without_a_helper(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(packet, length):\n    return packet.nothing\n")
    helper = str(tmp_path / "nobody.sock")
    says = "mine.py:2: `return packet.nothing`: "
    refused("forward", A, B, "--kernel", f"{tmp_path}/mine.py:broken", "--helper", helper, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("forward", "nonsense", B), "nonsense"),
        (("forward", "8259:00:1f.0", B), "8259:00:1f.0"),
        (("forward", A, A), "twice"),
        (("forward", A, B, "--ring", "100"), "power of two"),
        (("forward", A, B, "--ring", "32"), "64"),
        (("forward", A, B, "--ring", "8192"), "4096"),
        (("forward", A, B, "--batch", "0"), "batch"),
        (("forward", A, B, "--batch", "1024", "--ring", "512"), "batch"),
        (("forward", A, B, "--queues", "1000"), "queues"),
        (("forward", A, B, "--mtu", "20"), "mtu"),
        (("forward", A, B, "--cores", "4096"), "core"),
        (("forward", A, B, "--duration", "-1"), "duration"),
        (("forward", A, B, "--packets", "0"), "packets"),
        (("forward", A, B, "--kernel", "nothing-of-the-kind"), "kernel"),
        (("forward", A, B, "--kernel", "/nowhere/kernel.py:f"), "/nowhere/kernel.py"),
        (("info", "8259:00:1f.0"), "8259:00:1f.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused_before_any_register_is_touched(sim: Simulator, words: tuple[str, ...], says: str) -> None:
    for port in range(2):
        sim.ask("trace", port=port, on=True)
    refused(*words, "--helper", sim.helper, says=says)
    for port in range(2):
        trace = sim.ask("trace", port=port)["trace"]
        assert [entry for entry in trace if entry[0] == "write"] == []


def test_a_kernel_that_does_not_compile(sim: Simulator, tmp_path: Path) -> None:
    kernel = tmp_path / "mine.py"
    kernel.write_text("def drop_it(packet, length):\n    return open('/etc/passwd')\n")
    refused("forward", A, B, "--kernel", f"{kernel}:drop_it", "--helper", sim.helper, says="drop_it")
    kernel.write_text("def broken(:\n")
    refused("forward", A, B, "--kernel", f"{kernel}:broken", "--helper", sim.helper, says="mine.py")


def test_no_socket_there(tmp_path: Path) -> None:
    refused("forward", A, B, "--helper", str(tmp_path / "none.sock"), says="none.sock")


def test_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(path))
    sock.close()
    refused("forward", A, B, "--helper", str(path), says="dead.sock")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n", bytes(256), os.urandom(256)])
def test_not_a_helper(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                if answer:
                    connection.send(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        refused("forward", A, B, "--helper", str(path), says="helper")
        thread.join(10)


def test_a_stream_socket_is_not_a_helper(tmp_path: Path) -> None:
    path = tmp_path / "stream.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        refused("forward", A, B, "--helper", str(path), says="helper")


def test_a_device_that_is_leased_already(simulator: StartSimulator) -> None:
    sim = simulator(ports=2, cables=["0:port:1"])
    with forwarder(sim.helper):
        refused("forward", A, B, "--helper", sim.helper, says="leased")


def test_nothing_is_left_behind(sim: Simulator) -> None:
    before = len(os.listdir(f"/proc/{sim.process.pid}/fd"))
    refused("forward", A, A, "--helper", sim.helper, says="twice")
    refused("forward", A, "8259:00:1f.0", "--helper", sim.helper, says="8259:00:1f.0")
    assert len(os.listdir(f"/proc/{sim.process.pid}/fd")) == before
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


def test_a_kernel_that_takes_too_long_is_named(simulator: StartSimulator, tmp_path: Path) -> None:
    """A second a packet: a worker cannot answer. The line says which kernel, and where its time may go."""
    kernel = tmp_path / "mine.py"
    kernel.write_text(
        "def slow(packet, length):\n    x = length\n    for i in range(length * 10_000_000):\n"
        "        x = (x * 1103515245 + packet[i % 16]) % 2147483648\n    return x != 5\n"
    )
    sim = simulator(cables=["0:gen:count=1000", "1:gen:count=0"])
    result = run("forward", A, B, "--helper", sim.helper, "--quiet", "--kernel", f"{kernel}:slow", "--interval", "0.5")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    where = f"{kernel.name}:3: `for i in range(length * 10_000_000):`"
    says = f"does kernel slow take more than 78 ms a packet ({where})? Let it do less for each, or try --batch 1"
    assert re.sub(r"worker \d+", "worker N", line) == f"ixy-vfio forward: worker N did not answer in 5 s; {says}"
