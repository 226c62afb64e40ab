"""Verdicts of kernels: where a packet goes, and that no buffer is lost on the way."""

from pathlib import Path

import numpy as np
import pytest

from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.forwarding import loop_state
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.queue import counters
from ixy_vfio.drivers.ixgbe.format import FORMAT
from tests.model_nic import World, deliver, transmit

DD, EOP = 1, 2
PLAIN = 60 << 32 | EOP | DD


def lab(path: Path, body: str, **options: object) -> tuple[World, object]:
    """Two ports, and a function that runs the loop over them until nothing comes."""
    path = path / "mine.py"
    path.write_text(f"from ixy_vfio import DROP, RETURN, SEND\ndef mine(packet, length):\n    {body}\n")
    world = World(buffers=2048)
    for pair in world.pairs:
        pair.arm()
    loop = forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(f"{path}:mine"))
    state, kept = loop_state(world.pairs[0], world.pairs[1], **{"batch": 32, "widest": 5, **options})  # type: ignore[arg-type]
    state["rounds"], state["patience"] = 8, 1

    def run() -> int:
        assert kept
        return loop(state)

    return world, run


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("batch", [1, 5, 32, 200])
def test_each_packet_goes_where_its_verdict_says(tmp_path: Path, both: bool, batch: int) -> None:
    """Drops, sends and returns in an order of chance, for thousands of packets, plain ones and chains."""
    random = np.random.default_rng(batch)
    world, run = lab(tmp_path, "return packet[20] % 3", both=both, batch=batch)
    assert callable(run)
    wanted = np.zeros((2, 3), int)
    for _ in range(400):
        for port in range(2 if both else 1):
            nic = world.nics[port]
            for _ in range(random.integers(1, 40)):
                what = int(random.integers(3))
                world.template.view(np.uint8)[20] = what
                if random.integers(10):
                    wanted[port, what] += deliver(nic, 1, PLAIN, 60)
                elif deliver(nic, 1, 2048 << 32 | DD, 2048):
                    while not deliver(nic, 1, 100 << 32 | EOP | DD, 100):
                        run()
                    wanted[port, what] += 1
        while run():
            pass
        for nic in world.nics:
            transmit(nic, 4096)
    found = [counters(pair) for pair in world.pairs]
    assert [one.received for one in found] == [int(row.sum()) for row in wanted]
    assert [one.refused for one in found] == [int(row[0]) for row in wanted]
    assert [one.returned for one in found] == [int(row[2]) for row in wanted]
    assert found[1].sent == wanted[0, 1] + wanted[1, 2]
    assert found[0].sent == wanted[1, 1] + wanted[0, 2]
    assert [one.no_room for one in found] == [0, 0]
    assert wanted.sum() > 4000
    world.check()


def test_what_comes_back_finds_no_room(tmp_path: Path) -> None:
    """The port never sends: its ring fills up, the rest is dropped and counted, and nothing is lost."""
    world, run = lab(tmp_path, "return RETURN")
    assert callable(run)
    total = 0
    for _ in range(20):
        total += deliver(world.nics[0], 32, PLAIN, 60)
        while run():
            pass
    found = [counters(pair) for pair in world.pairs]
    assert found[0].returned == found[0].sent == int(world.pairs[0].queue.tx.descriptors) - 1
    assert found[1].no_room == total - found[0].returned > 0
    assert found[0].received == total
    world.check()


@pytest.mark.parametrize("value", ["3", "-1", "256", "packet[0] * 1000 + 99"])
@pytest.mark.parametrize("chain", [False, True])
def test_another_verdict_is_an_error_that_changes_nothing(tmp_path: Path, value: str, chain: bool) -> None:
    world, run = lab(tmp_path, f"return {value}")
    assert callable(run)
    if chain:
        deliver(world.nics[0], 1, 2048 << 32 | DD, 2048)
    deliver(world.nics[0], 1, PLAIN, 60)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^a kernel returns True, False or a verdict: DROP \(0\), SEND \(1\), "):
            run()
    assert counters(world.pairs[0]).received == counters(world.pairs[1]).sent == 0
    world.check()
