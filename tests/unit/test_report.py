"""The arithmetic of the summary: what the wire brought is what was forwarded and what was dropped, by cause."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from ixy_vfio.apps import drops, report
from ixy_vfio.datapath.forwarding import BACK, THERE, program
from ixy_vfio.datapath.queue import PortCounters
from ixy_vfio.drivers.contract import Counters, Drops, Link
from ixy_vfio.drivers.ixgbe import counters
from ixy_vfio.runtime.control import Control
from ixy_vfio.runtime.page import Counted
from ixy_vfio.runtime.plan import Plan, Snapshot

A, B = "0000:03:00.0", "0000:03:00.1"
NOTHING = Counters(0, 0, 0, 0, 0, 0, (), {})
NIC = replace(NOTHING, rx_packets=990, rx_waiting=10, drops=Drops(1, 20, 300, 4, 5, 6, 7))


def finished(mtu: int = 1500, *, both: bool = True) -> Control:
    """A run of which port A received a thousand packets."""
    ways = (THERE, BACK) if both else (THERE,)
    control = Control(Plan((A, B), program(lambda _: 0, ways, 32, "none")))
    control.plan = replace(control.plan, config=replace(control.plan.config, mtu=mtu))
    control.macs = [bytes(6)] * 2
    ports = (PortCounters(received=980, rx_errors=3, oversize=2, refused=10), PortCounters(sent=965, no_room=5))
    links = (Link(True, 10_000), Link(False, 0))
    control.snapshot = Snapshot(12.0, (Counted(at=1, first_packet=1, ports=ports),), (NIC, NOTHING), links)
    return control


def test_received_is_what_the_wire_brought() -> None:
    one, other = report.summary(finished(), 2.0, 0.0)["directions"]
    assert one["dropped"] == {
        "refused": 10, "no_room": 5, "rx_errors": 3, "oversize": 2,
        "missed": 1, "no_descriptor": 20, "too_long": 300, "too_short": 4, "crc_errors": 5, "illegal": 6,
        "bad_length": 7, "unread": 15,
    }  # fmt: skip
    assert (one["received"], one["forwarded"]) == (1343, 965)
    assert report.balanced(one)
    assert other["received"] == 0
    assert not report.balanced({**one, "forwarded": 966})


def test_every_cause_has_words_and_is_said_in_the_summary() -> None:
    summary = report.summary(finished(), 2.0, 0.0)
    causes = list(summary["directions"][0]["dropped"])
    assert causes == list(drops.CAUSES)
    text = report.text(summary)
    told = "10 refused + 5 no room + 3 bad + 2 too many buffers + 1 missed + 20 no buffer + 300 too long + 4 too short"
    told += " + 5 wrong CRC + 6 illegal symbols + 7 wrong length + 15 unread"
    assert f"{A} -> {B}: 1343 received = 965 forwarded + {told}\n" in text
    assert len(summary["advice"]) == len(causes) - 1  # a kernel that refuses is no trouble
    long = f"{A}: 300 frames were longer than the mtu of 1500 and dropped by the NIC; try --mtu 9000"
    assert long in summary["advice"]
    assert f"note: {long}\n" in text
    assert f"{A}: 1 frame was dropped by the NIC, as its packet buffer was full; " in text
    assert [port["link"] for port in summary["ports"]] == ["up, 10 Gbit/s", "down"]


@pytest.mark.parametrize(("mtu", "what"), [(1500, "try --mtu 9000"), (9000, "try --mtu 9200"), (9200, "a smaller mtu")])
def test_what_to_do_about_long_frames(mtu: int, what: str) -> None:
    advice = report.summary(finished(mtu), 2.0, 0.0)["advice"]
    assert [line for line in advice if "longer" in line and what in line]


def test_one_way_speaks_of_one_way() -> None:
    summary = report.summary(finished(both=False), 2.0, 0.0)
    assert [(one["from"], one["to"]) for one in summary["directions"]] == [(A, B)]
    assert f"{B} -> {A}" not in report.text(summary)


def test_rates_are_over_the_time_that_has_passed() -> None:
    control = finished()
    assert control.snapshot is not None
    control.began = 10.0
    meter = report.Meter(control)
    first = meter.interval(control.snapshot)
    assert (first["seconds"], first["interval"]) == (2.0, 2.0)
    assert first["directions"][0]["packets_per_second"] == 965 / 2
    assert first["directions"][0]["bits_per_second"] == 965 * report.WIRE_OVERHEAD * 8 / 2
    assert "unread" not in first["directions"][0]["dropped"]
    assert all(report.balanced(one) for one in first["directions"])
    second = meter.interval(replace(control.snapshot, time=17.0))
    assert (second["seconds"], second["interval"]) == (7.0, 5.0)
    assert second["directions"][0]["packets_per_second"] == 0
    assert second["links"] == {A: "up, 10 Gbit/s", B: "down"}


def test_each_counter_of_the_device_has_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "missed": ["RXMPC"], "no_descriptor": ["QPRDC[0]", "QPRDC[1]"], "too_long": ["ROC", "RJC"],
        "too_short": ["RUC", "RFC"], "crc_errors": ["CRCERRS"], "illegal": ["ILLERRC", "ERRBC"],
        "bad_length": ["RLEC"],
    }  # fmt: skip
    for cause, registers in names.items():
        read: dict[str, int] = dict.fromkeys(registers, 3)
        monkeypatch.setattr(counters, "read_all", lambda bar, queues, read=read: read)
        bar: Any = None
        found = asdict(counters.Totals(2).update(bar).drops)
        assert {name: count for name, count in found.items() if count} == {cause: 3 * len(registers)}


def test_no_frame_is_counted_twice_where_counters_of_the_device_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"CRCERRS": 10, "RJC": 4, "ROC": 1, "RUC": 3, "RFC": 2, "MSPDC": 4}  # RJC's are among those of CRCERRS
    monkeypatch.setattr(counters, "read_all", lambda bar, queues: read)
    bar: Any = None
    found = counters.Totals(1).update(bar)
    assert (found.drops.too_long, found.drops.crc_errors, found.drops.too_short, found.rx_errors) == (5, 6, 5, 16)
    monkeypatch.setattr(counters, "read_all", lambda bar, queues: {"MSPDC": 7})
    assert counters.Totals(1).update(bar).drops.too_short == 7
