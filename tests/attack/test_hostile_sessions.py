"""Whole sessions with hostile ports, over the socket: `ixy-vfio forward`, sealed workers and all.

Each ends by itself, in its time, with status 0, or 1 and an error of one line. Then the lease is over (no window, no
bus master), and the next one, with the ports honest again, forwards every packet.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ixy_vfio.core.errors import DeviceError
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.runtime.session import Session
from tests.conftest import Simulator, StartSimulator, address, run, wait_until

pytestmark = pytest.mark.expects_violations
A, B = address(0), address(1)
ENDS_WITHIN = 60.0  # seconds: links, deadlines of the driver, a worker that is slow to stop; on a busy machine
DATA = "length,endless,early,order,twice,torn,format,status,heads,rings,packets"
ERROR = re.compile(r"ixy-vfio forward: .+")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    cables = ["0:gen:sizes=60-1514,pace=0.2", "1:gen:sizes=60-1514,pace=0.2"]
    one = Simulator(tmp_path_factory.mktemp("sim"), 2, cables, ["--hostile", "0"])  # compiled before it is ready
    yield one
    one.stop()


def forward(sim: Simulator, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Status, standard error and summary of a short run."""
    result = run("forward", A, B, "--helper", sim.helper, "--duration", "0.7", "--json", *words, timeout=ENDS_WITHIN)
    return result.returncode, result.stderr, json.loads(result.stdout) if result.stdout else {}


def be(sim: Simulator, spec: str) -> None:
    for port in range(2):
        assert sim.ask("hostile", port=port, spec=spec) == {}


def ended(sim: Simulator) -> None:
    """The lease is over: neither port can do any DMA."""
    for port in range(2):
        wait_until("the end of the lease", lambda port=port: not sim.ask("counters", port=port)["windows"])  # type: ignore[misc]
        assert sim.ask("counters", port=port)["bus_master"] is False


def works(sim: Simulator) -> None:
    """The next session, with honest ports: no note, no error, packets both ways."""
    be(sim, "")
    with Session(A, B, helper=sim.helper, config=PortConfig(promiscuous=True)) as ports:
        end = time.monotonic() + ENDS_WITHIN
        while min(port.counted.received for port in ports) < 1000:
            assert time.monotonic() < end, [port.counted for port in ports]
            for one, other in (ports, ports[::-1]):
                other.tx(one.rx())
        for port in ports:
            assert port.device.notes == []
            assert (port.counted.rx_errors, port.counted.oversize) == (0, 0)
    ended(sim)


@pytest.mark.parametrize(
    ("spec", "statuses"),
    [
        *((f"{seed},ones", {0, 1}) for seed in range(1, 5)),
        ("5,garbage", {0, 1}),
        ("6,garbage", {0, 1}),
        ("7,reset", {1}),
        ("8,stuck", {1}),
        ("9,eeprom", {0, 1}),
        ("10,link", {0, 1}),
        ("11,storm", {0}),
        ("12,counters", {0}),
        ("13,length,endless,early,order,twice,torn,format,status,packets", {0}),
        ("14,twice,rings", {0}),
        ("15,heads", {0, 1}),
        (f"16,{DATA},storm,link", {0, 1}),
        ("17", {0, 1}),
    ],
)
def test_a_session_ends_in_order_and_the_next_one_works(sim: Simulator, spec: str, statuses: set[int]) -> None:
    be(sim, spec)
    status, errors, summary = forward(sim)
    assert status in statuses, errors
    assert bool(summary) or status == 1  # a run that has begun has a summary, however it ends
    assert not summary or (summary["error"] is None) == (status == 0)
    if status:
        assert ERROR.fullmatch(errors.strip()), errors
    else:
        assert errors == ""
        assert summary["balanced"]
    told = [sim.ask("hostile", port=port) for port in range(2)]
    if any(kind in spec for kind in ("twice", "heads")) and statuses == {0}:  # descriptors
        assert all(one["descriptors"] - one["honest"] > 1000 for one in told)
    if statuses != {0, 1}:  # else the seed may have told nothing in this short time
        assert all(one["lies"] or one["moves"] for one in told)
    ended(sim)
    works(sim)


@pytest.mark.parametrize("kind", ["ones", "reset", "stuck", "eeprom", "link", "storm", "counters", DATA])
def test_a_port_that_turns_hostile_in_the_middle(sim: Simulator, kind: str) -> None:
    """A script with `open_ports`: it goes on, or gets a DeviceError; closing works, and so does the next session."""
    be(sim, "")
    config = PortConfig(promiscuous=True)
    with contextlib.suppress(DeviceError), Session(A, B, helper=sim.helper, config=config) as (one, other):
        be(sim, f"{len(kind)},{kind}")
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            other.tx(one.rx())
            one.tx(other.rx())
            assert isinstance(one.link.up, bool)
            one.counters()
    told = [sim.ask("hostile", port=port) for port in range(2)]
    assert all(one["lies"] or one["moves"] for one in told), told  # so there was something to withstand
    ended(sim)
    works(sim)


def test_the_command_line_option(simulator: StartSimulator, tmp_path: Path) -> None:
    """`--hostile SEED,KIND` from the start; what it did is told, and a wrong one is refused."""
    sim = simulator(
        cables=["0:gen:sizes=60,pace=0.2", "1:gen:sizes=60,pace=0.2"], options=["--hostile", "7,torn,status"]
    )
    assert forward(sim)[0] == 0
    told = sim.ask("hostile", port=0)
    assert told["descriptors"] > told["honest"] > 0
    assert {name for name, count in told["moves"].items() if count} == {"honest", "torn", "status"}
    with pytest.raises(DeviceError, match=r"hostile 7,nonsense: give SEED\[,KIND\.\.\.\]"):
        sim.ask("hostile", port=1, spec="7,nonsense")
    result = run("sim", "--dir", str(tmp_path / "other"), "--hostile", "x")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "give SEED[,KIND...]" in result.stderr


@pytest.mark.parametrize("spec", ["1,garbage", "2,ones", "3,eeprom", "4,link", "5,counters", "6"])
def test_info_about_a_hostile_port(sim: Simulator, spec: str) -> None:
    be(sim, spec)
    result = run("info", A, "--helper", sim.helper, timeout=ENDS_WITHIN)
    assert result.returncode in (0, 1)
    assert (result.stderr == "") if result.returncode == 0 else re.fullmatch(r"ixy-vfio info: .+\n", result.stderr)
    ended(sim)
