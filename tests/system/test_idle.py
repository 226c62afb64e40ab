"""A driver with little or nothing to do: it sleeps, and an interrupt wakes it."""

import time
from pathlib import Path

import pytest

from tests.conftest import StartSimulator, address, finish, forwarder, wait_until

SECONDS, TRIES = 5.0, 6
MILLISECOND = 1e6  # in ns


def cpu_seconds(pid: int) -> float:
    """What a process has used (proc_pid_stat is too coarse)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.timed
def test_idle_it_uses_less_than_a_hundredth_of_a_core(simulator: StartSimulator) -> None:
    sim = simulator(cables=[f"{port}:gen:count=0" for port in range(2)])
    with forwarder(sim.helper, "--json") as process:
        (worker,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        used = []
        for _ in range(TRIES):  # what else runs on the machine makes it more, and never less
            before = cpu_seconds(process.pid) + cpu_seconds(worker)
            time.sleep(SECONDS)
            used.append((cpu_seconds(process.pid) + cpu_seconds(worker) - before) / SECONDS)
            if used[-1] < 0.01:
                break
        print(used)
        assert 0 < used[-1] < 0.01
        finish(process)


@pytest.mark.timed
def test_polling_it_uses_a_core(simulator: StartSimulator) -> None:
    """That the measurement above would see it."""
    sim = simulator(cables=[f"{port}:gen:count=0" for port in range(2)])
    with forwarder(sim.helper, "--json", "--idle", "poll") as process:
        (worker,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        before = cpu_seconds(worker)
        wait_until("a fifth of a second used", lambda: cpu_seconds(worker) - before > 0.2)
        finish(process)


@pytest.mark.timed
def test_an_interrupt_wakes_it(simulator: StartSimulator) -> None:
    """Ten packets a second, one way: it sleeps before each of them. Without interrupts half would wait for 50 ms."""
    cables = ["0:gen:count=40,sizes=60,pace=0.00001", "1:gen:count=0,expect=0"]
    sim = simulator(cables=cables)
    with forwarder(sim.helper, "--json", "--packets", "40") as process:
        wait_until("all arrived", lambda: sim.ask("cables")["cables"][1]["received"] == 40)
        summary = finish(process)
    end = sim.ask("cables")["cables"][1]
    assert [end[k] for k in ("lost", "duplicated", "reordered", "corrupted")] == [0, 0, 0, 0]
    assert summary["directions"][0]["from"] == address(0)
    assert summary["directions"][0]["forwarded"] == 40
    print(end["latency_ns"])
    quick = sum(n for least, n in end["latency_ns"]["histogram"].items() if int(least) < 10 * MILLISECOND)
    assert quick > 30
