"""What the forwarder says of a run: what the NIC dropped, rates, the last numbers of a run that an error ends."""

import json
import os
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.conftest import StartSimulator, address, command, finish, forwarder, run, wait_until

A, B = address(0), address(1)


def test_what_the_nic_drops_is_told_everywhere(simulator: StartSimulator) -> None:
    """50 frames that are longer than the mtu: in the table, in the summary, in --json, with what to do."""
    sim = simulator(cables=["0:gen:count=50,sizes=9014,expect=1", "1:gen:count=0,expect=0"])
    result = run("forward", A, B, "--helper", sim.helper, "--duration", "1.2", "--interval", "0.5")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"\n{A}: dropped 50 too long (try --mtu 9000)\n" in result.stdout
    assert f"\n{A} -> {B}: 50 received = 0 forwarded + 50 too long\n" in result.stdout
    advice = f"{A}: 50 frames were longer than the mtu of 1500 and dropped by the NIC; try --mtu 9000"
    assert f"\nnote: {advice}\n" in result.stdout

    sim = simulator(cables=["0:gen:count=50,sizes=9014,expect=1", "1:gen:count=0,expect=0"])
    result = run("forward", A, B, "--helper", sim.helper, "--duration", "1.2", "--interval", "0.4", "--json-lines")
    *intervals, summary = map(json.loads, result.stdout.splitlines())
    assert {one["kind"] for one in intervals} == {"interval"}
    assert summary["kind"] == "summary"
    for one in (intervals[-1], summary):
        assert one["directions"][0]["received"] == one["directions"][0]["dropped"]["too_long"] == 50
    assert summary["advice"] == [advice]
    assert summary["balanced"]


@pytest.mark.timed
def test_missed_packets_are_received_packets(simulator: StartSimulator) -> None:
    """More than a worker takes: what the NIC had no room for is on the left of the balance, too."""
    sim = simulator(cables=["0:gen:count=50000,pace=wire,expect=1", "1:gen:count=0,expect=0"])
    with forwarder(sim.helper, "--json", "--ring", "64", "--batch", "1") as process:
        wait_until("all sent", lambda: sim.ask("cables")["cables"][0]["done"])
        summary = finish(process)
    one = summary["directions"][0]
    assert one["dropped"]["missed"] == summary["ports"][0]["rx_missed"] > 0
    assert one["received"] == one["forwarded"] + sum(one["dropped"].values()) == 50_000
    assert summary["balanced"]


@pytest.mark.timed
def test_rates_are_right_from_the_first_interval_on(simulator: StartSimulator) -> None:
    """Each is of the time that has passed since the line before, or since packets may come."""
    sim = simulator(cables=["0:gen:pace=0.01,expect=1", "1:gen:count=0,expect=0"])
    argv = ["forward", A, B, "--helper", sim.helper, "--json-lines", "--interval", "0.3", "--duration", "1.4"]
    *intervals, summary = map(json.loads, run(*argv).stdout.splitlines())
    assert intervals
    before: Any = {"seconds": 0.0, "directions": [{"forwarded": 0}]}
    for one in intervals:
        assert one["interval"] == pytest.approx(one["seconds"] - before["seconds"])
        packets = one["directions"][0]["forwarded"] - before["directions"][0]["forwarded"]
        assert one["directions"][0]["packets_per_second"] * one["interval"] == pytest.approx(packets)
        before = one
    assert before["seconds"] <= summary["seconds"] + 0.1
    assert 1.4 <= summary["seconds"] < 10


@pytest.mark.timed
@pytest.mark.expects_violations  # doorbells to a device that is not there
def test_the_last_numbers_when_a_device_vanishes(simulator: StartSimulator) -> None:
    sim = simulator(cables=["0:gen:count=1000,expect=1", "1:gen:count=0,expect=0"])
    with forwarder(sim.helper, "--interval", "0.2") as process:
        assert process.stdout is not None
        while " 1,000\n" not in process.stdout.readline():
            pass
        sim.ask("vanish", port=1)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.startswith(f"ixy-vfio forward: {B}: ")
    assert errors.count("\n") == 1
    assert f"\n{A} -> {B}: 1000 received = 1000 forwarded\n" in output
    assert output.endswith("these are the last numbers that are known\n")


@pytest.mark.timed
def test_the_summary_when_the_terminal_is_closed(simulator: StartSimulator) -> None:
    """SIGHUP ends a run like Ctrl-C, unless it is ignored, as nohup does it."""
    sim = simulator(cables=["0:gen:count=1000,expect=1", "1:gen:count=0,expect=0"])
    with forwarder(sim.helper, "--json") as process:
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(output)["error"] is None
    with forwarder(sim.helper, "--json", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.timed
def test_the_first_line_comes_before_what_takes_long() -> None:
    """It says what is being waited for; nothing that is slow to import has been imported by then."""
    code = (
        "import sys\n"
        "from ixy_vfio import cli\n"
        "class Stream:\n"
        "    def write(self, text):\n"
        "        sys.stderr.write(text + str([m for m in ('numba', 'numpy') if m in sys.modules]) + '\\n')\n"
        "    def isatty(self): return False\n"
        "    def flush(self): pass\n"
        "sys.stdout = Stream()\n"
        f"cli.main(['forward', '{A}', '{B}', '--helper', '/nonexistent', '--kernel', '/nonexistent.py:f'])\n"
    )
    environment: dict[str, Any] = dict(os.environ)
    argv = [command()[0], "-c", code]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert result.stderr.startswith("asking the helper ...\n[]\nloading the compiler ...\n[]\n")
