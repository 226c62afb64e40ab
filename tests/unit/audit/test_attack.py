"""`--attack` on simulated devices: all holds at a sound helper's; at a broken one exactly its own attack gets through.

(What stands between device and memory there is the simulator. In guests the same code meets the IOMMU.)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ixy_vfio.audit.attack import run
from ixy_vfio.audit.attack.field import ControlFailed, Field
from ixy_vfio.audit.model import CHECKS, Check, Findings, Scope, Severity, Status, passed
from ixy_vfio.core.errors import UsageError
from ixy_vfio.transport.lease import Lease
from tests.broken import ATTACKS as FAULTS
from tests.conftest import Simulator, address, command

NIC = address(0)
ATTACKS = {name for name, check in CHECKS.items() if check.scope is Scope.ATTACK}
NOT_SIMULATED = {"attack.physical", "attack.sibling_bar", "attack.msi"}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Simulated ports, with a sound helper."""
    directory = tmp_path_factory.mktemp("ports")
    sim = Simulator(directory, 1, [], [])
    yield sim
    sim.stop()


@contextlib.contextmanager
def broken(ports: Simulator, directory: Path, fault: str) -> Iterator[str]:
    """A helper with a fault, for the same ports; its socket."""
    (directory / "port0.sock").symlink_to(ports.directory / "port0.sock")
    argv = [sys.executable, "-m", "tests.unit.audit.broken_lease", fault, "--dir", str(directory), "--ports", "1"]
    process = subprocess.Popen([*argv, "--die-with-parent"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield str(directory / "helper.sock")
    finally:
        process.terminate()
        process.communicate(timeout=30)


IMPATIENT = """
import sys
from ixy_vfio.audit.attack import engine
from ixy_vfio.cli import main
engine.wait.__defaults__ = (1.0,)
sys.exit(main(sys.argv[1:]))
"""


def attack(helper: str, *words: str, impatient: bool = False) -> tuple[int, Any, str]:
    """Exit status, report, progress. An impatient one waits 1 s for what must happen, where it will not."""
    argv = command("audit", NIC, "--attack", "--yes", "--json", "--helper", helper, *words)
    if impatient:
        argv[1:3] = ["-c", IMPATIENT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def having(report: Any, status: str) -> set[str]:
    return {one["check"] for one in report["results"] if one["status"] == status}


def test_a_sound_device_holds(ports: Simulator) -> None:
    status, report, progress = attack(ports.helper)
    assert status == 0
    skipped = NOT_SIMULATED | ({"attack.refused"} if os.geteuid() == 0 else set())
    assert having(report, "SKIP") == skipped
    assert having(report, "PASS") == ATTACKS - skipped
    assert {one["subject"] for one in report["results"]} == {NIC}
    assert progress.splitlines()[0].startswith(f"[1/{len(ATTACKS)}] attack.")
    assert len(progress.splitlines()) == len(ATTACKS)


@pytest.mark.parametrize("options", ["", ",dst=ff-ff-ff-ff-ff-ff"])
def test_a_port_that_receives_is_judged(tmp_path: Path, options: str) -> None:
    """Loopback leaves the wire connected in the model: none of its frames may be taken for what the device read."""
    sim = Simulator(tmp_path, 1, [f"0:gen:pace=0.05{options}"], [])
    try:
        chosen = ("attack.read_unmapped", "attack.read_only", "attack.ring")
        status, report, _ = attack(sim.helper, *(word for name in chosen for word in ("--only", name)))
        (cable,) = sim.ask("cables")["cables"]
    finally:
        sim.stop()
    assert (status, having(report, "PASS")) == (0, set(chosen))
    assert cable["sent"] > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_helper_fails_its_own_attacks_and_no_other(ports: Simulator, tmp_path: Path, fault: str) -> None:
    beside = {"deaf": {"attack.read_unmapped"}, "keeper": set[str]()}  # the deaf wait, a kept device is gone for good
    chosen = FAULTS[fault] | beside.get(fault, ATTACKS - NOT_SIMULATED)
    with broken(ports, tmp_path, fault) as helper:
        status, report, _ = attack(helper, *(word for name in sorted(chosen) for word in ("--only", name)))
    assert having(report, "FAIL") == FAULTS[fault]
    assert having(report, "SKIP") <= {"attack.refused"}
    assert status == 1


def test_a_control_that_fails_is_not_clean(ports: Simulator, tmp_path: Path) -> None:
    with broken(ports, tmp_path, "mute") as helper:
        status, report, _ = attack(helper, "--only", "attack.read_unmapped", impatient=True)
    text = "could not be judged: positive control failed: the device does not write to memory of its own lease"
    assert (status, [one["text"] for one in report["results"][0]["findings"]]) == (2, [text])


def endless(field: Field) -> Findings:
    yield passed("begun")
    signal.pause()


def dies(field: Field) -> Findings:
    yield passed("begun")
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_control(field: Field) -> Findings:
    yield passed("one part held")
    raise ControlFailed("positive control failed: of the test")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (endless, "could not be judged: it took longer than 1 s"),
        (dies, "could not be judged: its process died"),
        (out_of_control, "could not be judged: positive control failed: of the test"),
    ],
)
def test_what_could_not_be_tried_is_a_skip(function: Callable[[Field], Findings], text: str) -> None:
    check = Check("attack.test", Scope.ATTACK, Severity.HIGH, False, function)
    (result,) = run.run(Field(NIC, "/nowhere"), [check], lambda line: None, deadline=1.0)
    assert (result.status, result.findings[0].text) == (Status.SKIP, text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--attack",), "--attack: name the device, a PCI address like 0000:03:00.0"),
        ((NIC, "--attack"), "--attack: nobody is there to be asked; --yes says that you mean it"),
        ((NIC, "--attack", "--yes", "--only", "attack.all"), "--only attack.all: no such attack; there are attack."),
        (("8259:00:01.0", "--attack", "--yes"), "8259:00:01.0: the helper does not offer it to you"),
    ],
)
def test_what_is_not_attacked(ports: Simulator, words: tuple[str, ...], says: str) -> None:
    argv = command("audit", *words, "--helper", ports.helper)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ixy-vfio audit: {says}")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("answer", "status", "targets", "says"),
    [
        ("no", 2, [], "ixy-vfio audit: --attack: not wanted; nothing was done\n"),
        ("yes", 0, [NIC], "[1/1] attack.refused"),
    ],
)
def test_it_asks_first(ports: Simulator, answer: str, status: int, targets: list[str], says: str) -> None:
    """At a terminal, with the report going into a file: that has the report alone."""
    person, terminal = os.openpty()
    os.write(person, f"{answer}\n".encode())
    argv = command("audit", NIC, "--attack", "--only", "attack.refused", "--json", "--helper", ports.helper)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=terminal, timeout=60)
    os.close(person)
    os.close(terminal)
    question, _, rest = done.stderr.partition("Go on? [yes/no] ")
    assert question.startswith(f"{NIC} will be leased, reset, and told to read and write where it must not.\n")
    assert rest.startswith(says)
    assert done.returncode == status
    assert [report["target"] for report in map(json.loads, filter(None, [done.stdout]))] == targets


def test_a_leased_device_is_left_alone(ports: Simulator) -> None:
    with Lease(ports.helper) as lease:
        lease.attach(NIC)
        with pytest.raises(UsageError, match="it is leased; end that session first"):
            run.require_idle(NIC, ports.helper)
