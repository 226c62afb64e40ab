"""The main job, as users run it: simulator, helper, forwarder and worker are processes of their own."""

import json
import os
import pwd
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Simulator, StartSimulator, address, command, finish, forwarder, run, wait_until

MILLION = 1_000_000
TOUCHED = 48  # the byte that the touch kernel changes


def generators(count: int, sizes: str = "60-1514") -> list[str]:
    return [f"{p}:gen:count={count},sizes={sizes},pace=fit,expect={1 - p},touched={TOUCHED}" for p in range(2)]


def settled(end: dict[str, Any]) -> bool:
    return bool(end["done"] and end["outstanding"] == 0)


def wait_for_sinks(sim: Simulator, deadline: float) -> list[dict[str, Any]]:
    wait_until("generators and sinks done", lambda: all(settled(c) for c in sim.ask("cables")["cables"]), deadline)
    ends: list[dict[str, Any]] = sim.ask("cables")["cables"]
    return ends


def check_everything_arrived(sim: Simulator, summary: dict[str, Any], ends: list[dict[str, Any]], count: int) -> None:
    for port in range(2):
        end, other = ends[port], ends[1 - port]
        assert (end["sent"], end["received"]) == (count, count)
        assert [end[k] for k in ("lost", "duplicated", "reordered", "corrupted")] == [0, 0, 0, 0]
        counters = sim.ask("counters", port=port)
        assert counters["misses"] == 0
        mine = summary["ports"][port]
        assert mine["address"] == address(port)
        assert mine["rx_packets"] == mine["tx_packets"] == count
        assert mine["rx_bytes"] == end["sent_bytes"]
        assert mine["tx_bytes"] == other["sent_bytes"]
        assert mine["nic"]["GPRC"] == mine["nic"]["GPTC"] == count
        assert mine["nic"]["GORC"] == end["sent_bytes"] + 4 * count  # the book counts the CRC
        assert mine["nic"]["GOTC"] == other["sent_bytes"] + 4 * count
    assert sim.ask("violations")["violations"] == []


def test_ten_million_packets_both_ways(simulator: StartSimulator) -> None:
    """None lost, duplicated, reordered or changed; the counters of both sides agree to the packet and byte."""
    count = 5 * MILLION
    sim = simulator(cables=generators(count))
    with forwarder(sim.helper, "--json", "--kernel", "touch") as process:
        ends = wait_for_sinks(sim, 170.0)
        summary = finish(process)
    check_everything_arrived(sim, summary, ends, count)


@pytest.mark.parametrize(
    ("ring", "batch", "sizes", "mtu"),
    [(64, 1, "60", 1500), (64, 64, "60-1514", 1500), (4096, 256, "1514", 1500), (512, 32, "60-9014", 9000)],
)
def test_rings_batches_and_sizes(simulator: StartSimulator, ring: int, batch: int, sizes: str, mtu: int) -> None:
    count = 50_000
    sim = simulator(cables=generators(count, sizes))
    words = ["--json", "--kernel", "touch", "--ring", str(ring), "--batch", str(batch), "--mtu", str(mtu)]
    with forwarder(sim.helper, *words) as process:
        ends = wait_for_sinks(sim, 60.0)
        summary = finish(process)
    check_everything_arrived(sim, summary, ends, count)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> list[str]:
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def as_owner_of_the_tree(directory: Path) -> dict[str, Any]:
    """What makes a process run as the ordinary user whose tree this is, with a directory of its own."""
    user = pwd.getpwuid(Path(__file__).stat().st_uid)
    if user.pw_uid == 0:
        pytest.skip("this tree belongs to root: clone it as an ordinary user, and run its tests with -m root as root")
    os.chown(directory, user.pw_uid, user.pw_gid)
    environment = {"HOME": user.pw_dir, "PATH": os.defpath}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "env": environment}


@pytest.mark.root  # to look into a process that is not dumpable
def test_what_the_worker_holds() -> None:
    """Not root, no capabilities; one socketpair, an epoll, no device; memory of packets, rings and queue pages only."""
    with tempfile.TemporaryDirectory(prefix="ixy_vfio-") as name:
        options = as_owner_of_the_tree(Path(name))
        sim = Simulator(Path(name), 2, generators(1000), [], **options)
        try:
            with forwarder(sim.helper, "--json", **options) as process:
                (worker,) = children(process.pid)
                facts = status(worker)
                assert set(facts["Uid"].split()) == {str(options["user"])}
                assert [facts[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")] == ["0" * 16] * 4
                assert facts["NoNewPrivs"] == "1"
                assert sorted(link.split(":")[0] for link in descriptors(worker)) == ["anon_inode", "socket"]
                assert "anon_inode:[eventpoll]" in descriptors(worker)
                assert Path(f"/proc/{worker}/maps").read_text().count("memfd:ixy-sim-bar0") == 4  # 2 pages a port
                held = [link.split(":")[0] for link in descriptors(process.pid)]
                assert held.count("socket") == 4  # the lease, two devices, the worker
                finish(process)
        finally:
            sim.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_puts_it_back(simulator: StartSimulator, number: int) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    for _ in range(2):  # the second lease shows that the first left nothing behind
        with forwarder(sim.helper, "--json") as process:
            workers = children(process.pid)
            summary = finish(process, number)
            assert summary["balanced"] is True
            assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        assert all(sim.ask("counters", port=port)["bus_master"] is False for port in range(2))
        assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


def test_a_worker_that_dies_ends_the_run_and_says_why(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    with forwarder(sim.helper) as process:
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert str(worker) in errors
    assert "SIGKILL" in errors
    assert all(sim.ask("counters", port=port)["windows"] == 0 for port in range(2))


def test_control_that_dies_takes_its_worker_along(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    with forwarder(sim.helper) as process:
        (worker,) = children(process.pid)
        process.kill()
        wait_until("the worker's end", lambda: not Path(f"/proc/{worker}").exists())
    wait_until(
        "bus master off and nothing mapped",
        lambda: all(not c["bus_master"] and c["windows"] == 0 for c in (sim.ask("counters", port=p) for p in range(2))),
    )


@pytest.mark.expects_violations  # doorbells to a device that is not there
def test_a_port_that_vanishes_is_named(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    with forwarder(sim.helper) as process:
        sim.ask("vanish", port=1)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    text = "LINKS reads all ones; the device was removed, or its power is off"
    assert errors == f"ixy-vfio forward: {address(1)}: {text}\n"


def test_a_simulator_killed_in_mid_run(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    with forwarder(sim.helper) as process:
        sim.process.kill()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    reasons = ("the device is gone: the simulated device closed the connection", "the helper was stopped")
    assert errors in {  # its helper dies with it: which of the two is seen first is chance
        f"ixy-vfio forward: the helper ended the lease: {reason}\n" for reason in reasons
    }


def test_a_simulator_that_is_ended_gives_everything_back_first(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(100_000_000, "60"))
    with forwarder(sim.helper) as process:
        log = sim.stop()
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, sim.process.returncode) == (1, 0)
    assert errors == "ixy-vfio forward: the helper ended the lease: the helper was stopped\n"
    assert "end of lease" not in log


def test_a_link_that_stays_down_is_named(simulator: StartSimulator) -> None:
    sim = simulator(ports=3, cables=[*generators(10)[:1]])  # port 2 has no cable
    argv = ["forward", address(0), address(2), "--helper", sim.helper, "--link-deadline", "1"]
    result = run(*argv)
    assert result.returncode == 1
    assert address(2) in result.stderr
    assert "link" in result.stderr


def test_packet_limit_and_one_way(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(10_000))
    argv = ["forward", address(0), address(1), "--helper", sim.helper, "--json", "--packets", "5000", "--one-way"]
    result = run(*argv)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["ports"][1]["tx_packets"] == 5000
    assert summary["ports"][0]["tx_packets"] == 0
    assert summary["balanced"] is True


@pytest.mark.parametrize(("streams", "queues", "packets"), [(1, 2, 2000), (1, 4, 3), (64, 2, 20_001)])
def test_several_queues_share_the_packet_limit(
    simulator: StartSimulator, streams: int, queues: int, packets: int
) -> None:
    """It ends after exactly so many, also when all of them come to one queue; and short as it is, it knows the link."""
    sim = simulator(cables=[f"0:gen:streams={streams},expect=1", "1:gen:count=0,expect=0"])
    argv = ["forward", address(0), address(1), "--helper", sim.helper, "--json"]
    result = run(*argv, "--packets", str(packets), "--queues", str(queues), timeout=60)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["ports"][0]["rx_packets"] == summary["ports"][1]["tx_packets"] == packets
    assert [port["link"] for port in summary["ports"]] == ["up, 10 Gbit/s"] * 2


def test_info_and_list(simulator: StartSimulator) -> None:
    sim = simulator(cables=generators(10))
    listed = json.loads(run("list", "--helper", sim.helper, "--json").stdout)
    assert [device["address"] for device in listed] == [address(0), address(1)]
    info = json.loads(run("info", address(0), "--helper", sim.helper, "--json").stdout)
    assert info["address"] == address(0)
    assert len(info["mac"].split(":")) == 6


def test_demo() -> None:
    result = subprocess.run(
        command("demo", "--megabytes", "5"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "20 of 20 answered" in result.stdout
    assert result.stdout.count("the same at both ends") == 2
    assert "saw 0 violations" in result.stdout


def test_a_kernel_sends_packets_back(simulator: StartSimulator, tmp_path: Path) -> None:
    """By their length: what is short goes on, what is longer goes back, the longest are dropped."""
    kernel = tmp_path / "mine.py"
    kernel.write_text(
        "from ixy_vfio import DROP, RETURN, SEND\n\n\n"
        "def sort(packet, length):\n    return SEND if length < 500 else RETURN if length < 1000 else DROP\n"
    )
    sim = simulator(cables=["0:gen:count=20000,sizes=60-1514,pace=fit", "1:gen:count=0"])
    words = ["--helper", sim.helper, "--kernel", f"{kernel}:sort", "--packets", "20000"]
    result = run("forward", address(0), address(1), *words, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    there, back = summary["directions"]
    assert summary["balanced"] is True
    assert there["received"] == 20_000 == there["forwarded"] + there["returned"] + there["dropped"]["refused"]
    assert min(there["forwarded"], there["returned"], there["dropped"]["refused"]) > 4000
    assert (back["received"], back["forwarded"]) == (0, 0)
    assert [port["tx_packets"] for port in summary["ports"]] == [there["returned"], there["forwarded"]]
    assert [port["nic"]["GPTC"] for port in summary["ports"]] == [there["returned"], there["forwarded"]]
