"""The generator and the sink: exact bytes, pace, and what a sink finds out."""

import struct
from typing import Any

import numpy as np
import pytest

from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from ixy_vfio.sim.generator import least, time
from ixy_vfio.sim.generator_cable import GeneratorCable
from ixy_vfio.sim.state import FLOW
from tests.sim.dataplane_rig import BUFFERS, DATA, IOVA, MAC, OTHER, Rig

BUFFER = [BUFFERS + 2048 * i for i in range(64)]


class Bench:
    """Port 0 with a generator, port 1 with a sink that checks it, and a clock that the test sets."""

    def __init__(self, options: str = "count=3", sink: str = "count=0,expect=0") -> None:
        self.plane = DataPlane()
        self.now = 1_000_000
        self.plane.clock = lambda: self.now
        self.source, self.drain = Rig(self.plane), Rig(self.plane, mac=OTHER)
        self.generator, self.sink = parse_cable(f"0:gen:{options}"), parse_cable(f"1:gen:{sink}")
        self.plane.connect(self.generator)
        self.plane.connect(self.sink)
        self.source.start_receive()
        self.drain.start_transmit()
        self.plane.step()
        self.taken = 0

    def frames(self, steps: int = 1, budget: int = 256) -> list[bytes]:
        """What the generator sends in some steps."""
        found = []
        for _ in range(steps):
            self.source.give(*(BUFFER[(self.source.rx_tail + i) % 64] for i in range(32)))
            self.plane.step(budget)
            while self.taken != self.source.read(0x1010):
                _, second = self.source.rx_descriptor(self.taken)
                found.append(self.source.get(BUFFER[self.taken], second >> 32 & 0xFFFF))
                self.taken = (self.taken + 1) % 64
        return found

    def send(self, frame: bytes) -> None:
        """A frame to the sink."""
        self.drain.put(BUFFERS, frame)
        self.drain.ring_transmit((IOVA + BUFFERS, DATA | len(frame) | len(frame) << 46))
        self.plane.step()

    def found(self, *names: str) -> dict[str, object]:
        status = self.sink.status()
        return {name: status[name] for name in names}


def checksum(data: bytes) -> int:
    """The folded sum of 16-bit words: 0xFFFF where the data hold their checksum."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return total % 0xFFFF or 0xFFFF


def test_a_frame_byte_by_byte() -> None:
    first, second, third = Bench("count=3,seed=7,sizes=64").frames()
    assert first[:14] == MAC + bytes.fromhex("0282599000 00") + bytes.fromhex("0800")
    assert first[14:26] == bytes.fromhex("45 00 0032 0000 4000 40 11") + first[24:26]
    assert first[26:34] == bytes([10, 18, 0, 1, 10, 19, 0, 1])
    assert first[34:40] == struct.pack(">HHH", 49152, 9, 30)
    assert checksum(first[14:34]) == 0xFFFF
    pseudo = first[26:34] + struct.pack(">HH", 17, 30)
    assert checksum(pseudo + first[34:]) == 0xFFFF
    assert [struct.unpack("<QQ", frame[42:58]) for frame in (first, second, third)] == [
        (0, 1_000_000), (1, 1_000_000), (2, 1_000_000),
    ]  # fmt: skip
    assert len({first[58:], second[58:], third[58:]}) == 3


def test_the_same_seed_gives_the_same_frames_and_another_others() -> None:
    one, same, other = (Bench(f"count=20,seed={seed},sizes=60-1514").frames() for seed in (1, 1, 2))
    assert one == same
    assert [len(frame) for frame in one] != [len(frame) for frame in other]
    assert all(60 <= len(frame) <= 1514 for frame in one)


def test_streams_are_udp_source_ports_in_turn() -> None:
    ports = [struct.unpack_from(">H", frame, 34)[0] for frame in Bench("count=5,streams=3").frames()]
    assert ports == [49152, 49153, 49154, 49152, 49153]


def test_fit_offers_nothing_that_the_port_cannot_keep() -> None:
    bench = Bench("pace=fit")
    bench.source.write(0x3C00, 1 << 10)  # a packet buffer of 16 frames
    bench.plane.step()
    bench.plane.step()
    assert bench.generator.status()["sent"] == 16
    assert bench.source.port.statistics["RXMPC0"] == 0
    assert len(bench.frames(steps=2)) == 32


def test_fit_offers_no_more_than_there_are_buffers_where_the_queue_drops() -> None:
    bench = Bench("pace=fit")
    bench.source.write(0x1014, 1 << 28 | 1 << 25 | 2)
    bench.source.give(*BUFFER[:5])
    for _ in range(3):
        bench.plane.step()
    assert bench.source.port.statistics["QPRDC0"] == 0
    assert bench.source.port.statistics["QPRC0"] + bench.source.port.statistics["RXMPC0"] <= 256 + 5


def test_max_overflows_the_packet_buffer_and_the_port_counts() -> None:
    bench = Bench("pace=max")
    bench.source.write(0x3C00, 1 << 10)
    bench.plane.step(100)
    statistics = bench.source.port.statistics
    assert int(str(bench.generator.status()["sent"])) == statistics["TPR"] > 100
    assert statistics["RXMPC0"] > 0


@pytest.mark.parametrize(("pace", "sent"), [("0.5", 5), ("2", 20), ("wire", 148)])
def test_a_rate_is_kept_by_the_clock(pace: str, sent: int) -> None:
    bench = Bench(f"pace={pace}")
    bench.now += 10_000  # ns
    bench.plane.step()
    assert bench.generator.status()["sent"] == sent


def test_no_byte_of_a_short_frame_is_left_over_from_another() -> None:
    bench = Bench("sizes=60-75,seed=3")
    for memory in bench.plane._memory:
        memory.fill((1 << 64) - 1)
    frames = bench.frames(steps=8)
    assert {len(frame) for frame in frames} == set(range(60, 76))
    assert {frame[50:58] for frame in frames} == {struct.pack("<Q", bench.now)}


@pytest.mark.parametrize(("offset", "value"), [(0x1028, 1 << 25), (0x3000, 1)])  # RXDCTL.ENABLE, RXCTRL.RXEN
def test_a_rate_begins_when_somebody_receives(offset: int, value: int) -> None:
    bench = Bench("count=3,pace=1")
    bench.source.write(offset, 0)
    bench.plane.step()
    bench.now += 10**9
    assert bench.frames() == []
    assert bench.generator.status()["sent"] == 0
    bench.source.write(offset, value)
    bench.plane.step()  # the queue is seen to be open at the end of this step
    bench.now += 3000
    bench.plane.step()
    assert bench.generator.status()["sent"] == 3


def test_a_pause_is_made_up_for_by_100_us_at_most() -> None:
    bench = Bench("pace=1")
    bench.now += 10**9
    bench.plane.step(1000)
    assert bench.generator.status()["sent"] == 100


@pytest.mark.parametrize(("pace", "period"), [("0.0001", 10**7), ("0.000001", 10**9)])
def test_a_slow_rate_is_kept(pace: str, period: int) -> None:
    bench = Bench(f"pace={pace}")
    for sent in range(1, 4):
        bench.now += period
        bench.plane.step(1000)
        assert bench.generator.status()["sent"] == sent


def test_the_sink_counts_what_is_right() -> None:
    bench = Bench("count=3")
    bench.now += 5000
    for frame in bench.frames():
        bench.now += 1000
        bench.send(frame)
    assert bench.found("received", "unique", "lost", "duplicated", "reordered", "corrupted", "outstanding") == {
        "received": 3, "unique": 3, "lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0, "outstanding": 0,
    }  # fmt: skip
    assert bench.generator.status()["done"] is True


def test_the_sink_finds_lost_late_double_and_changed_frames() -> None:
    bench = Bench("count=8,sizes=60-200")
    frames = bench.frames()
    for index in (0, 3, 2, 3, 5):
        bench.send(frames[index])
    bench.send(frames[6][:-1] + bytes([frames[6][-1] ^ 1]))
    bench.send(frames[7][:58])
    bench.send(bytes(6) + bytes(54))
    names = ("received", "unique", "lost", "duplicated", "reordered", "corrupted", "foreign", "outstanding")
    assert bench.found(*names) == {
        "received": 8, "unique": 4, "lost": 2, "duplicated": 1, "reordered": 1, "corrupted": 2, "foreign": 1,
        "outstanding": 4,
    }  # fmt: skip


def test_every_byte_is_checked_but_the_one_that_is_touched() -> None:
    bench = Bench("count=1,sizes=67", "count=0,expect=0,touched=48")
    (frame,) = bench.frames()
    for at in range(len(frame)):
        bench.send(frame[:at] + bytes([frame[at] ^ 0x40]) + frame[at + 1 :])
    corrupted, foreign = (bench.sink.status()[name] for name in ("corrupted", "foreign"))
    assert (corrupted, foreign) == (67 - 1 - 6, 6)  # the source address says whose it is


def test_latency_is_measured() -> None:
    bench = Bench("count=2")
    frames = bench.frames()
    for delay, frame in zip((3000, 5000), frames, strict=True):
        bench.now = 1_000_000 + delay
        bench.send(frame)
    assert bench.sink.status()["latency_ns"] == {
        "min": 3000, "mean": 4000.0, "max": 5000, "histogram": {"2944": 1, "4864": 1},
    }  # fmt: skip


@pytest.mark.parametrize("latency", [0, 1, 15, 16, 31, 32, 33, 1000, 2**20 - 1, 2**20, 3 * 2**40 + 7, 2**64 - 1])
def test_the_histogram_tells_a_sixteenth(latency: int) -> None:
    flow = np.zeros(1, FLOW)
    _time(flow, np.uint64(latency))
    (bucket,) = (int(n) for n in flow[0]["latencies"].nonzero()[0])
    assert least(bucket) <= latency < least(bucket + 1)
    assert least(bucket + 1) - least(bucket) <= max(latency / 16, 1)
    assert flow[0]["latencies"][bucket] == 7


@compiled
def _time(flow: Any, latency: Any) -> None:
    time(flow[0], latency, np.intp(7))


BAD = ["count=x", "sizes=59", "sizes=100-60", "pace=fast", "dst=1:2", "colour=red", "expect=99", "sizes=60-99999"]


@pytest.mark.parametrize("options", BAD)
def test_a_bad_option_is_a_usage_error(options: str) -> None:
    with pytest.raises(UsageError, match=f"^cable 0:gen:{options}: "):
        GeneratorCable(f"0:gen:{options}", 0, options)
