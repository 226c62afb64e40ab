"""Odd surroundings: one line that names the cause and the remedy, the documented status, nothing left behind."""

import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ixy_vfio_locks import calls

from tests.conftest import Simulator, address, command, forwarder, wait_until

A, B = address(0), address(1)
PR_SET_MDWE = 65  # linux/prctl.h
TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    cables = ["0:gen:sizes=60,pace=0.001,expect=1", "1:gen:count=0,expect=0"]
    one = Simulator(tmp_path_factory.mktemp("sim"), 2, cables, [])
    yield one
    one.stop()


@pytest.fixture
def run(sim: Simulator, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """A command to its end, with a directory for temporary files in which it may leave nothing."""

    def call(
        *words: str, prefix: tuple[str, ...] = (), flags: tuple[str, ...] = (), **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        temporary = tmp_path / "tmp"
        temporary.mkdir(exist_ok=True)
        changes = {"TMPDIR": str(temporary), "IXY_VFIO_HELPER": sim.helper} | options.pop("env", {})
        environment = {name: value for name, value in (os.environ | changes).items() if value != "unset"}
        done = subprocess.run(
            [*prefix, sys.executable, *flags, "-m", "ixy_vfio.cli", *words],
            text=True, timeout=180, check=False, env=environment,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        )  # fmt: skip
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in (done.stderr or "")
        return done

    return call


Run = Callable[..., "subprocess.CompletedProcess[str]"]
FORWARD = ("forward", A, B, "--packets", "10", "--quiet")


def limited(limit: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(limit, (value, value))


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"HOME": "/proc", "XDG_CACHE_HOME": "unset"}, "/proc/.cache/ixy_vfio/"),
        ({"HOME": "/nobody/here", "XDG_CACHE_HOME": "unset"}, "/nobody/here: this user's home directory is not there"),
        ({"XDG_CACHE_HOME": "/sys/fs"}, "/sys/fs/ixy_vfio/"),
        ({"XDG_CACHE_HOME": "/etc/passwd"}, "/etc/passwd/ixy_vfio/"),
    ],
)
def test_without_a_home_it_compiles_anew_and_says_so(run: Run, environment: dict[str, str], why: str) -> None:
    done = run("forward", A, B, "--packets", "10", "--json", env=environment)
    assert done.returncode == 0
    assert done.stderr.startswith(f"ixy-vfio: note: compiled code is not kept ({why}")
    assert done.stderr.count("\n") == 1
    assert any(note.startswith("compiled code is not kept") for note in json.loads(done.stdout)["notes"])


def test_a_full_home_is_no_home(run: Run, tmp_path: Path) -> None:
    """By a limit for the length of files, which is refused where a full file system is, too."""
    home = tmp_path / "home"
    home.mkdir()
    preexec = limited(resource.RLIMIT_FSIZE, 4096)
    done = run(*FORWARD, env={"XDG_CACHE_HOME": str(home)}, preexec_fn=preexec)
    assert done.returncode == 0
    assert done.stderr.startswith("ixy-vfio: note: compiled code is not kept (")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(home.rglob("*.tmp.*")) == []


@pytest.mark.parametrize("words", [("list",), ("--help",), ("audit", "--explain", "iommu.present"), ("sim", "--help")])
def test_standard_output_that_is_full(run: Run, words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*words, stdout=full)
    assert done.returncode == 1
    name = "ixy-vfio" if words[0] == "--help" else f"ixy-vfio {words[0]}"
    text = "standard output: No space left on device; the rest of what was to be printed is lost"
    assert done.stderr == f"{name}: {text}\n"


@pytest.mark.parametrize("words", [("list",), ("--help",), ("forward", A, B, "--duration", "5", "--interval", "0.1")])
def test_standard_output_that_nobody_reads(run: Run, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_ends_the_forwarding_in_order(run: Run, sim: Simulator) -> None:
    with open("/dev/full", "w") as full:
        done = run("forward", A, B, "--duration", "5", "--interval", "0.1", stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("ixy-vfio forward: standard output: No space left on device")
    assert done.stderr.count("\n") == 1
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


@pytest.mark.parametrize("words", [("list",), FORWARD, ("info", A), ("audit", "--explain", "iommu.present")])
def test_closed_standard_streams(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, prefix=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", [FORWARD, ("sim", "--dir", "unused")])
def test_no_executable_memory(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, preexec_fn=lambda: calls.prctl(PR_SET_MDWE, 1))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ixy-vfio {words[0]}: this process may not make memory executable, and its compiler, Numba, must: start it "
        "without MemoryDenyWriteExecute= (systemd), or allow execmem (SELinux)\n"
    )


@pytest.mark.parametrize("words", [FORWARD, ("sim", "--dir", "unused")])
def test_a_compiler_that_is_switched_off(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, env={"NUMBA_DISABLE_JIT": "1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ixy-vfio {words[0]}: NUMBA_DISABLE_JIT is set")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "value", "status", "text"),
    [
        (resource.RLIMIT_AS, 300 << 20, 2, "this process may have 300 MiB of memory, and its compiler needs 768"),
        (resource.RLIMIT_DATA, 100 << 20, 2, "allow more (ulimit -d)"),
        (resource.RLIMIT_NOFILE, 8, 1, "this process may have 8; allow more (ulimit -n)"),
        (resource.RLIMIT_NOFILE, 14, 1, "this process may have 14; allow more (ulimit -n)"),
    ],
)
def test_limits(run: Run, sim: Simulator, limit: int, value: int, status: int, text: str) -> None:
    done = run(*FORWARD, preexec_fn=limited(limit, value))
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


@pytest.mark.parametrize(
    "words",
    [
        ("list",), ("list", "--json"), ("info", A), ("info", A, "--json"), ("in-use", "0000:00:00.0"), FORWARD,
        ("forward", A, B, "--packets", "10", "--json", "--idle", "poll"), ("forward", A, "8259:00:1f.0"),
        ("audit",), ("audit", "--json"), ("audit", "--explain", "iommu.present"),
        ("bench", "--help"), ("sim", "--help"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("flags", [("-X", "dev", "-W", "error"), ("-OO",)], ids=["dev", "OO"])
def test_python_s_own_modes_change_nothing(run: Run, words: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """Every warning an error, and without assertions and docstrings."""
    plain, other = run(*words), run(*words, flags=flags)
    assert (other.returncode, other.stderr) == (plain.returncode, plain.stderr)


@pytest.mark.parametrize(
    "words",
    [("demo", "--generator"), ("audit", A, "--attack", "--yes", "--only", "attack.read_unmapped")],
    ids=" ".join,
)
def test_commands_that_start_others_with_every_warning_an_error(
    run: Run, words: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("d")  # a short name, for the sockets in it
    strict = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1", "TMPDIR": str(directory)}
    done = run(*words, flags=("-X", "dev", "-W", "error"), env=strict)
    assert done.returncode == 0, done.stderr
    assert not re.search("warning", done.stderr, re.IGNORECASE)
    wait_until("an empty directory", lambda: list(directory.iterdir()) == [])


def test_the_simulator_with_every_warning_an_error(tmp_path: Path) -> None:
    directory = tmp_path / "sim"
    argv = [sys.executable, "-X", "dev", "-W", "error", "-m", "ixy_vfio.cli", "sim", "--dir", str(directory)]
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}  # for its helper, too
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    process.terminate()
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert not directory.exists()  # it made it


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.timed
def test_a_signal_at_any_moment_of_a_start(sim: Simulator, tmp_path: Path) -> None:
    """From the program's first line until packets come: quiet, 128 + the number, or, when packets may come, 0.

    Every 50 ms, and less often from a second on, as long as it takes on a busy machine.
    """
    environment = os.environ | {"IXY_VFIO_HELPER": sim.helper, "TMPDIR": str(tmp_path)}
    ends: list[int] = []
    pause = 0.0
    while ends[-6:] != [0] * 6:
        assert pause < 60
        number = SIGNALS[len(ends) % 3]
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("ixy-vfio")), "forward", A, B, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        wait_until("Python's own start", functools.partial(handles, process.pid, number))
        time.sleep(pause)
        pause = max(pause + 0.05, pause * 1.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert errors == ""
        assert process.returncode in (0, 128 + number)
        assert (output == "") == (process.returncode != 0)
        ends.append(process.returncode)
    assert list(tmp_path.iterdir()) == []
    assert {130, 143, 129, 0} == set(ends)
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


@pytest.mark.timed
def test_signals_while_it_stops_change_nothing(sim: Simulator) -> None:
    """A signal ends it; those that follow, every 2 ms and more, neither cut the summary nor what is given back."""
    counts = []
    for pause in (0.002, 0.01, 0.03):
        with forwarder(sim.helper, "--json") as process:
            counts.append(0)
            while process.poll() is None:
                process.send_signal(SIGNALS[counts[-1] % 3])
                counts[-1] += 1
                time.sleep(pause)
            output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        assert json.loads(output)["seconds"] > 0
        assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))
    assert max(counts) > 1


@pytest.mark.timed
def test_signals_while_the_simulator_stops_change_nothing(tmp_path: Path) -> None:
    for pause in (0.002, 0.01, 0.03):
        argv = command("sim", "--dir", str(tmp_path / "ports"), "--ports", "1", "--cable", "0:gen:count=0")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            while process.poll() is None:
                for number in SIGNALS:
                    process.send_signal(number)
                time.sleep(pause)
            _, errors = process.communicate()
        assert (process.returncode, [line for line in errors.splitlines() if not line.startswith("helper[")]) == (0, [])
        assert list(tmp_path.iterdir()) == []


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for this signal and for SIGHUP, which Python has none for."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)
    return all(caught >> (one - 1) & 1 for one in (number, signal.SIGHUP))


@pytest.mark.timed
@pytest.mark.parametrize("moment", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing(tmp_path: Path, moment: float, number: int) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command("demo", "--generator"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    wait_until("Python's own start", lambda: handles(process.pid, signal.SIGTERM))
    time.sleep(moment)
    os.killpg(process.pid, number)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert [line for line in errors.splitlines() if not line.startswith("helper[")] == []  # the simulated helper's log
    wait_until("an empty directory", lambda: list(tmp_path.iterdir()) == [])
    wait_until("no process left", lambda: not named(str(tmp_path)))


def named(text: str) -> list[str]:
    """The command lines of running processes that have this in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_an_environment_that_cannot_be_used_is_made_anew(tmp_path: Path) -> None:
    """As when the system's Python has become another one. Installing is not tried here, for want of an index."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/venv", "scripts/owner", "pyproject.toml"):
        (tmp_path / name).write_bytes((TOP / name).read_bytes())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to("/bin/false")
    (tmp_path / ".venv/ixy_vfio.place").write_text(str(tmp_path))
    sums = subprocess.run(
        "cksum < pyproject.toml", shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / ".venv/ixy_vfio.test").write_text(f"{sums.stdout.strip()} {tmp_path} test")
    done = subprocess.run(
        ["sh", "scripts/venv", "test"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PIP_NO_INDEX": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(".venv cannot be used any more (another Python, or another place): making it anew\n")
    assert "installing failed" in done.stderr
    assert subprocess.run([tmp_path / ".venv/bin/python", "-c", "import pip"], check=False).returncode == 0
