"""The forwarder on a kernel that lacks a layer of the sandbox: a note, or with --require-sealed a refusal."""

import errno
import json
import os
import signal
import subprocess
import sys

from tests.conftest import StartSimulator, address, command

# Runs a command under a kernel that seems to have no mseal: a filter answers for it.
LACKING = f"""
import os, sys
from ixy_vfio_locks import rights, seccomp
rights.no_new_privileges()
lacks = seccomp.Rule(462, (), seccomp.ERRNO | {errno.ENOSYS})
seccomp.install(seccomp.program([lacks], seccomp.ALLOW))
os.execv(sys.argv[1], sys.argv[1:])
"""
LAYERS = {"memory", "no-new-privs", "capabilities", "not-dumpable", "descriptors", "limits", "seccomp"}
NOTE = "mseal: mseal: Function not implemented"


def forward(sim_helper: str, *words: str) -> list[str]:
    words = ("--helper", sim_helper, "--json", "--duration", "0.5", *words)
    return [sys.executable, "-c", LACKING, *command("forward", address(0), address(1), *words)]


def test_a_layer_that_the_kernel_lacks(simulator: StartSimulator) -> None:
    sim = simulator(cables=["0:port:1"])
    result = subprocess.run(forward(sim.helper), capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    (worker,) = summary["workers"]
    assert set(worker["sealed"]) >= LAYERS
    assert "mseal" not in worker["sealed"]
    assert f"workers are not fully sealed: {NOTE}" in summary["notes"]

    result = subprocess.run(
        forward(sim.helper, "--require-sealed"), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 2
    assert all(line.endswith(" ...") for line in result.stdout.splitlines())  # nothing but what it waited for
    assert NOTE in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


def test_what_the_kernel_shows_of_a_running_worker(simulator: StartSimulator) -> None:
    """Its status and limits, read from outside."""
    sim = simulator(cables=["0:port:1"])
    argv = command("forward", address(0), address(1), "--helper", sim.helper, "--json", "--announce")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("forwarding")
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            (worker,) = file.read().split()
        with open(f"/proc/{worker}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"/proc/{worker}/limits") as file:
            limits = {line[:26].strip(): line[26:].split()[:2] for line in file}
        os.kill(process.pid, signal.SIGINT)
        summary = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("2", "1", "1")
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    for name in ("core file size", "open files", "file size", "processes", "locked memory", "msgqueue size"):
        assert limits[f"Max {name}"] == ["0", "0"], name
    assert limits["Max address space"][0].isdigit()
    assert set(summary["workers"][0]["sealed"]) >= LAYERS
