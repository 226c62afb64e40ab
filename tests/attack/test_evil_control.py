"""Attack code in control, after it has sealed itself. Each attack works where nothing is sealed."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ixy_vfio.runtime import control_seal
from ixy_vfio.runtime.seccomp import control_rules
from tests.attack import evil_calls
from tests.attack import evil_process as evil
from tests.attack.evil_calls import LAST_SYSCALL
from tests.attack.evil_process import Attack
from tests.attack.test_require_sealed import LACKING
from tests.conftest import StartSimulator, address, command, finish, forwarder

# attack, what comes of it without the seal, and in control
ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "read its program": (evil.read_program, "read", "read"),
    "map memory": (evil.map_private, "mapped", "mapped"),
    "device information": (evil.ioctl(evil.DEVICE_INFO), "ENOTTY", "ENOTTY"),
    "reset": (evil.ioctl(evil.RESET), "ENOTTY", "ENOTTY"),
    "take an interrupt": (evil.ioctl(evil.SET_IRQS), "ENOTTY", "EPERM"),
    "hot reset": (evil.ioctl(evil.HOT_RESET), "ENOTTY", "EPERM"),
    "device feature": (evil.ioctl(evil.DEVICE_FEATURE), "ENOTTY", "EPERM"),
    "detach": (evil.ioctl(evil.DETACH), "ENOTTY", "EPERM"),
    "read a file": (evil.read_secret, "as it was", "EACCES"),
    "write a file": (evil.write_secret, "opened", "EPERM"),
    "a new file": (evil.write_new, "made", "EPERM"),
    "thread": (evil_calls.thread, "ran", r"RuntimeError\(\"can't start new thread\"\)"),
    "memfd": (evil_calls.memfd, "made", "EPERM"),
} | {name: (attack, free, "EPERM") for name, (attack, free) in evil.REFUSED.items()}


def run(attack: Attack, directory: Path, sealed: bool, *workers: int) -> str:
    return evil.run(attack, directory, lambda: control_seal.seal(workers) if sealed else None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """What stands for the user's files."""
    lacks = run(lambda _: "; ".join(["lacks:", *control_seal.seal([]).missing]), tmp_path, False)
    if lacks != "lacks:":
        pytest.skip(f"this kernel cannot seal control: {lacks}")
    (tmp_path / "shadow").write_text("as it was")
    yield tmp_path
    assert (tmp_path / "shadow").read_text() == "as it was"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_from_control(place: Path, name: str) -> None:
    attack, free, sealed = ATTACKS[name]
    assert re.fullmatch(free, run(attack, place, False))
    assert re.fullmatch(sealed, run(attack, place, True))


BY_ARGUMENTS = {9, 10, 16, 62, 72, 257}  # mmap, mprotect, ioctl, kill, fcntl, openat: refused with these
NOT_TRIED = {15, 60, 231}  # the process would not go on


def test_every_system_call_of_control(place: Path) -> None:
    """Those that are not refused are those of the list, and none of them makes a process, socket, name or mapping."""
    told = {int(word) for word in run(evil.calls_that_answer, place, True).split()}
    allowed = {rule.number for rule in control_rules([])}
    assert told == allowed - BY_ARGUMENTS - NOT_TRIED
    assert not allowed & {2, 41, 42, 49, 53, 56, 57, 58, 59, 62, 82, 83, 86, 87, 101, 157, 165, 175, 272, 310, 319, 321,
                          322, 323, 425, 434, 435, 437}  # fmt: skip


def test_it_may_end_its_workers_and_nobody_else(place: Path) -> None:
    child = os.fork()
    if child == 0:
        signal.pause()

    def kill(pid: int) -> Attack:
        def attack(_: Path) -> str:
            os.kill(pid, 0)
            return "may"

        return attack

    try:
        assert run(kill(child), place, True, child) == "may"
        assert run(kill(child), place, True) == run(kill(-1), place, True, child) == "EPERM"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_the_kernel_shows_of_control(simulator: StartSimulator) -> None:
    """A running forwarder, from outside; and it says itself which layers there are."""
    sim = simulator(cables=["0:port:1"])
    with forwarder(sim.helper, "--json") as process:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        summary = finish(process)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    layers = {"no-new-privs", "capabilities", "landlock", "landlock-network", "landlock-scope", "seccomp"}
    lacks = {note.split(": ")[1] for note in summary["notes"] if note.startswith("control is not fully sealed: ")}
    assert set(summary["control"]["sealed"]) == layers - lacks


def test_control_on_a_kernel_without_landlock(simulator: StartSimulator) -> None:
    sim = simulator(cables=["0:port:1"])
    lacking = LACKING.replace("462", "444")
    words = ["forward", address(0), address(1), "--helper", sim.helper, "--quiet", "--require-sealed"]
    argv = [sys.executable, "-c", lacking, *command(*words, "--duration", "0.5")]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    lacks = f"landlock: landlock_create_ruleset: {os.strerror(errno.ENOSYS)}"
    assert result.stderr.count(lacks) == 1
    assert LAST_SYSCALL > 444
