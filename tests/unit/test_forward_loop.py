"""The fused loop against two model NICs: both directions, verdicts, a full ring, the limit, the kernels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ixy_vfio.core.compiled import inlined
from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.forwarding import loop_for, loop_state
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.queue import PortCounters, counters
from ixy_vfio.datapath.rings import BLOCK
from ixy_vfio.drivers.ixgbe.format import FORMAT
from tests.model_nic import World, deliver, transmit

PLAIN = 60 << 32 | 3


class Lab:
    """Two ports, armed, and a loop over them."""

    def __init__(
        self, kernel: str, *, batch: int = 32, both: bool = True, limit: int = 0, widest: int = 1, **world: Any
    ) -> None:
        self.world = World(**world)
        for pair in self.world.pairs:
            pair.arm()
        self.loop = forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(kernel))
        self.state, self._scratch = loop_state(self.world.pairs[0], self.world.pairs[1], batch, both, limit, widest)

    def run(self, rounds: int = 8, patience: int = 1) -> int:
        self.state["rounds"], self.state["patience"] = rounds, patience
        return self.loop(self.state)

    def counters(self) -> list[PortCounters]:
        return [counters(pair) for pair in self.world.pairs]


@pytest.mark.parametrize("batch", [1, 2, 5, 32, 33, 64])
def test_both_directions_carry_every_packet(batch: int) -> None:
    lab = Lab("touch", batch=batch, buffers=1024)
    sent = [0, 0]
    for k in range(100):
        for port in range(2):
            sent[port] += deliver(lab.world.nics[port], 7 + 11 * port + k % 13, PLAIN, 60)
        while lab.run():
            pass
        for port in range(2):
            transmit(lab.world.nics[port], 1000)
    assert [int(nic["sent"][0]) for nic in lab.world.nics] == [sent[1], sent[0]]
    assert [c.received for c in lab.counters()] == sent
    assert [c.sent_bytes for c in lab.counters()] == [60 * sent[1], 60 * sent[0]]
    lab.world.check()


def test_touch_changes_its_byte_and_no_other() -> None:
    lab = Lab("touch")
    deliver(lab.world.nics[0], 1, PLAIN, 60)
    assert lab.run() == 1
    before = lab.world.template.tobytes()[:60]
    after = bytes(lab.world.pool.data(int(lab.world.pairs[1].tx_slots[0, 0]), 60))
    assert after == before[:48] + bytes([before[48] + 1]) + before[49:]


def test_swap_exchanges_the_addresses() -> None:
    lab = Lab("swap")
    deliver(lab.world.nics[0], 1, PLAIN, 60)
    assert lab.run() == 1
    before = lab.world.template.tobytes()[:60]
    after = bytes(lab.world.pool.data(int(lab.world.pairs[1].tx_slots[0, 0]), 60))
    assert after == before[6:12] + before[:6] + before[12:]


def test_none_changes_nothing_and_drop_sends_nothing() -> None:
    lab = Lab("none")
    deliver(lab.world.nics[1], 3, PLAIN, 60)
    assert lab.run() == 3
    assert bytes(lab.world.pool.data(int(lab.world.pairs[0].tx_slots[2, 0]), 60)) == lab.world.template.tobytes()[:60]
    lab = Lab("drop")
    deliver(lab.world.nics[0], 40, PLAIN, 60)
    assert lab.run() == 40
    first, second = lab.counters()
    assert (first.received, first.refused, second.sent) == (40, 40, 0)
    lab.world.check()


def frame(*, kind: int = 0x0800, protocol: int = 17) -> NDArray[np.uint8]:
    """The 64 bytes that the model brings as the beginning of each packet."""
    data: NDArray[np.uint8] = np.zeros(64, np.uint8)
    data[12:14], data[23] = (kind >> 8, kind & 255), protocol
    return data


@pytest.mark.parametrize(
    ("kind", "protocol", "length", "sent"),
    [(0x0800, 17, 60, 1), (0x0800, 6, 60, 0), (0x86DD, 17, 60, 0), (0x0801, 17, 60, 0), (0x0800, 17, 33, 0)],
)
def test_udp_forwards_udp_alone(kind: int, protocol: int, length: int, sent: int) -> None:
    lab = Lab("udp")
    lab.world.template[:] = frame(kind=kind, protocol=protocol).view(np.uint64)
    deliver(lab.world.nics[0], 1, length << 32 | 3, 60)
    assert lab.run() == 1
    assert (lab.counters()[1].sent, lab.counters()[0].refused) == (sent, 1 - sent)


def test_sample_forwards_one_packet_in_16_by_its_headers() -> None:
    lab = Lab("sample", buffers=1024)
    data = frame()
    sent = []
    for value in range(64):
        data[40], data[42] = value, value + 1  # byte 42 is no part of the headers
        lab.world.template[:] = data.view(np.uint64)
        deliver(lab.world.nics[0], 1, PLAIN, 60)
        before = lab.counters()[1].sent
        lab.run()
        transmit(lab.world.nics[1], 1)
        sent += [value] * (lab.counters()[1].sent - before)
    assert sent == [value for value in range(64) if (8 + 17 + value) % 16 == 0]


@pytest.mark.parametrize(
    ("errors", "sent"), [(0, 1), (3 << 5, 1), (1 << 5 | 1 << 30, 0), (1 << 6 | 1 << 31, 0), (1 << 31, 1)]
)
def test_intact_drops_what_the_device_found_wrong(errors: int, sent: int) -> None:
    lab = Lab("intact")
    deliver(lab.world.nics[0], 1, PLAIN | errors, 60)
    assert lab.run() == 1
    assert lab.counters()[1].sent == sent


def test_a_users_kernel_may_be_named_like_one_that_is_shipped(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def touch(packet):\n    return True\n")
    with pytest.raises(UsageError, match="it must be a plain function"):
        forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(f"{path}:touch"))


def test_a_kernel_of_the_users_own_drops_by_content(tmp_path: Path) -> None:
    """Of each batch the packets that stay keep their order; what is dropped is counted and freed, chains too."""
    path = tmp_path / "odd.py"
    path.write_text("def odd(packet, length):\n    return length % 2 == 1\n")
    lab = Lab(f"{path}:odd")
    lengths = [60, 61, 62, 63, 2050, 65]
    for length in lengths:
        while length > 2048:
            deliver(lab.world.nics[0], 1, 2048 << 32 | 1, 0)
            length -= 2048
        deliver(lab.world.nics[0], 1, length << 32 | 3, 0)
    assert lab.run() == 6
    assert transmit(lab.world.nics[1], 100) == 3
    assert int(lab.world.nics[1]["sent_bytes"][0]) == 61 + 63 + 65
    assert lab.counters()[0].refused == 3
    lab.world.check()


def test_chains_pass_through() -> None:
    lab = Lab("touch")
    for length, end in ((2048, 0), (2048, 0), (52, 2)):
        deliver(lab.world.nics[0], 1, length << 32 | 1 | end, 60)
    assert lab.run() == 1
    assert transmit(lab.world.nics[1], 100) == 3
    assert int(lab.world.nics[1]["sent_bytes"][0]) == 4148
    lab.world.check()


def test_a_full_ring_leaves_packets_with_the_receiving_device() -> None:
    """Nothing is lost: they come when there is room again."""
    lab = Lab("none", both=False, buffers=512)
    received = sum(deliver(lab.world.nics[0], 63, PLAIN, 60) + 0 * lab.run() for _ in range(4))
    first, second = lab.counters()
    assert (first.received, second.sent, second.no_room) == (63, 63, 0)
    while lab.run() or transmit(lab.world.nics[1], 16):
        pass
    first, second = lab.counters()
    assert (first.received, second.sent, second.no_room) == (received, received, 0)
    assert received > 63
    lab.world.check()


def test_a_long_packet_that_waits_for_room_gets_it() -> None:
    """Also amid a run of plain ones: what was sent meanwhile is freed."""
    lab = Lab("none", both=False, widest=5, buffers=512)
    assert deliver(lab.world.nics[0], 60, PLAIN, 60) == lab.run() == 60
    transmit(lab.world.nics[1], 60)
    for end in (0, 0, 0, 0, 2):
        deliver(lab.world.nics[0], 1, 2048 << 32 | 1 | end, 0)
    assert lab.run() == 1
    lab.world.check()


@pytest.mark.parametrize("batch", [1, 32, 64])
def test_long_packets_into_a_small_ring_lose_nothing(batch: int) -> None:
    lab = Lab("none", batch=batch, both=False, widest=5, buffers=512)
    delivered = 0
    for _ in range(200):
        for end in (False, False, False, False, True):
            delivered += deliver(lab.world.nics[0], 1, 2048 << 32 | 1 | (2 if end else 0), 0)
        lab.run()
        transmit(lab.world.nics[1], 7)
    while lab.run() or transmit(lab.world.nics[1], 100):
        pass
    assert int(lab.world.nics[1]["sent"][0]) == delivered // 5 == lab.counters()[0].received
    assert lab.counters()[1].no_room == 0
    lab.world.check()


def test_one_way_leaves_the_other_alone() -> None:
    lab = Lab("none", both=False)
    for port in range(2):
        deliver(lab.world.nics[port], 5, PLAIN, 60)
    assert lab.run() == 5
    assert [c.received for c in lab.counters()] == [5, 0]


def test_the_limit_is_exact() -> None:
    lab = Lab("none", limit=37)
    for port in range(2):
        deliver(lab.world.nics[port], 30, PLAIN, 60)
    assert lab.run(1000) == 37
    assert lab.run(1000) == 0
    assert sum(c.received for c in lab.counters()) == 37
    lab.world.check()


@pytest.mark.parametrize("batch", [1, 4, 32, 64])
@pytest.mark.parametrize("port", [0, 1])
def test_the_last_packets_before_the_limit_may_come_by_either_port(port: int, batch: int) -> None:
    lab = Lab("none", limit=41, batch=batch, buffers=1024)
    deliver(lab.world.nics[0], 20, PLAIN, 60)
    deliver(lab.world.nics[1], 20, PLAIN, 60)
    assert sum(lab.run(rounds=1) for _ in range(40)) == 40
    deliver(lab.world.nics[port], 5, PLAIN, 60)
    assert [lab.run(rounds=1) for _ in range(3)] == [1, 0, 0]
    assert [c.received for c in lab.counters()] == [20 + (port == 0), 20 + (port == 1)]
    assert int(lab.state["received"][0]) == 41


def test_each_port_has_a_format_of_its_own() -> None:
    """By one of them nothing of under 100 bytes is whole, and no ring of its port has more than a block of room."""

    @inlined
    def room(size: Any, used: Any) -> Any:
        return np.uint64(BLOCK) - min(np.uint64(used), np.uint64(BLOCK))

    other = FORMAT._replace(shortest=np.uint64(100), room=room)
    for formats, wrong in ((Formats(FORMAT, other), 1), (Formats(other, FORMAT), 0)):
        lab = Lab("none")
        lab.loop = loop_for(formats, kernels.none, "", cache=False)
        for port in range(2):
            deliver(lab.world.nics[port], 40, PLAIN, 60)
        while lab.run():
            pass
        found = [0, 0], [0, 0]
        for port, one in enumerate(lab.counters()):
            found[0][port], found[1][port] = one.rx_errors, one.sent
        assert found == ([40 * (port == wrong) for port in range(2)], [BLOCK * (port == wrong) for port in range(2)])
        lab.world.check()


def test_no_packets_returns_when_patience_ends() -> None:
    lab = Lab("none")
    assert lab.run(rounds=1 << 62, patience=1000) == 0


def test_a_kernel_that_reads_outside_the_packet_raises(tmp_path: Path) -> None:
    path = tmp_path / "far.py"
    path.write_text("def far(packet, length):\n    return packet[60] == 0\n")
    lab = Lab(f"{path}:far")
    deliver(lab.world.nics[0], 1, PLAIN, 60)
    with pytest.raises(IndexError):
        lab.run()


@pytest.mark.parametrize("batch", [1, 32])
def test_what_a_kernel_raises_leaves_every_buffer_with_one_owner(tmp_path: Path, batch: int) -> None:
    """Of the run in which it raises nothing has happened: neither what it kept, nor what it refused."""
    path = tmp_path / "trap.py"
    path.write_text("def trap(packet, length):\n    return packet[61] == 0 if length == 61 else length % 2 == 0\n")
    lab = Lab(f"{path}:trap", batch=batch)
    for length in (60, 63, 62, 61, 64):
        deliver(lab.world.nics[0], 1, length << 32 | 3, 60)
    before = 0 if batch == 32 else 3
    for _ in range(2):  # the packet stays where it is
        with pytest.raises(IndexError):
            lab.run()
        assert lab.counters()[0].received == before
        lab.world.check()
    transmit(lab.world.nics[1], 100)
    assert int(lab.world.nics[1]["sent"][0]) == (0 if batch == 32 else 2)


def test_a_long_packet_stays_where_it_is_until_the_kernel_raises_no_more(tmp_path: Path) -> None:
    path = tmp_path / "past.py"
    path.write_text("def past(packet, length):\n    return packet[length] == 0\n")
    past = forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(f"{path}:past"))
    lab = Lab("none", widest=5)
    for length, end in ((2048, 0), (2048, 0), (1500, 2)):
        deliver(lab.world.nics[0], 1, length << 32 | 1 | end, 2048)
    lab.state["rounds"], lab.state["patience"] = 8, 1
    for _ in range(3):
        with pytest.raises(IndexError):
            past(lab.state)
        assert lab.counters()[0].received == 0
        lab.world.check()
    assert lab.run() == 1
    assert (lab.counters()[0].received_bytes, lab.counters()[1].sent_bytes) == (5596, 5596)
    lab.world.check()


@pytest.mark.parametrize("batch", [1, 4, 31, 32, 64])
def test_any_mixture_goes_through_in_order(tmp_path: Path, batch: int) -> None:
    """Plain and long packets, errors, and refusals, against what a few lines of Python make of the same."""
    path = tmp_path / "third.py"
    path.write_text("def third(packet, length):\n    return length % 3 != 0\n")
    lab = Lab(f"{path}:third", batch=batch, widest=5, buffers=512, both=False)
    random = np.random.default_rng(batch)
    expected = received = dropped = refused = 0
    for _ in range(400):
        length = int(random.choice([60, 61, 62, 1514, 2048, 2049, 6000, 10240, 5]))
        error = 1 << 29 if random.random() < 0.1 else 0
        left = length
        while left > 2048:
            deliver(lab.world.nics[0], 1, 2048 << 32 | 1, 0)
            left -= 2048
        deliver(lab.world.nics[0], 1, left << 32 | 3 | error, 0)
        wrong = bool(error) or length < 17
        dropped += wrong
        refused += not wrong and length % 3 == 0
        expected += length if not wrong and length % 3 else 0
        received += length if not wrong else 0
        if random.random() < 0.3:
            lab.run()
            transmit(lab.world.nics[1], int(random.integers(40)))
        while lab.world.pairs[0].armed < 24 and (lab.run() or transmit(lab.world.nics[1], 100)):
            pass
    while lab.run() or transmit(lab.world.nics[1], 100):
        pass
    assert int(lab.world.nics[1]["sent_bytes"][0]) == expected == lab.counters()[1].sent_bytes
    assert (lab.counters()[0].rx_errors, lab.counters()[0].refused) == (dropped, refused)
    assert lab.counters()[0].received_bytes == received
    lab.world.check()


def test_an_edited_kernel_is_compiled_anew(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    seen = []
    for verdict in ("True", "False"):
        path.write_text(f"def k(packet, length):\n    return {verdict}\n")
        lab = Lab(f"{path}:k")
        deliver(lab.world.nics[0], 4, PLAIN, 60)
        lab.run()
        seen.append(lab.counters()[1].sent)
    assert seen == [4, 0]


def test_counters_are_plain_integers() -> None:
    lab = Lab("none")
    assert lab.counters() == [PortCounters(), PortCounters()]
    assert not isinstance(lab.counters()[0].received, np.generic)
