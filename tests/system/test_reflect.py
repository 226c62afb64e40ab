"""A reflector as users run it: what comes to a port goes back by it with its addresses exchanged, and none is lost."""

import json
from pathlib import Path

import pytest

from ixy_vfio.wires.capture import packets
from tests.conftest import StartSimulator, address, application, finish, run, wait_until
from tests.wires.blocks import pcap

ONE, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def udp(source: bytes, target: bytes, a: int, b: int, ports: bytes, number: int) -> bytes:
    """A UDP frame of 60 bytes between two hosts."""
    head = bytes.fromhex("4500002e0000000040110000")
    ip = head + bytes([10, 0, 0, a, 10, 0, 0, b])
    return (target + source + b"\x08\0" + ip + ports + b"\0\x1a\0\0" + number.to_bytes(4, "big")).ljust(60, b".")


def test_frames_come_back_with_their_addresses_exchanged(simulator: StartSimulator, tmp_path: Path) -> None:
    there = [udp(ONE, OTHER, 1, 2, b"\0\x50\x12\x34", i) for i in range(500)]
    back = [udp(OTHER, ONE, 2, 1, b"\x12\x34\0\x50", i) for i in range(500)]
    groups = [bytes.fromhex("01005e000001") + there[0][6:]] * 7
    (tmp_path / "in.pcap").write_bytes(pcap([*there[:250], *groups, *there[250:]]))
    sim = simulator(ports=1, cables=[f"0:pcapng:{tmp_path}/in.pcap,{tmp_path}/out.pcapng"])
    result = run("reflect", address(0), "--helper", sim.helper, "--json", "--packets", "507", "--require-sealed")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    (way,) = summary["directions"]
    assert (way["from"], way["to"]) == (address(0), address(0))
    assert (way["received"], way["forwarded"], way["dropped"]["refused"]) == (507, 500, 7)
    assert (summary["balanced"], summary["kernel"]) == (True, "reflect")
    assert [port["tx_packets"] for port in summary["ports"]] == [500]
    sim.stop()
    with (tmp_path / "out.pcapng").open("rb") as file:
        assert [packet.data for packet in packets(file)] == back


@pytest.mark.parametrize("words", [[], ["--queues", "4"], ["--batch", "1", "--ring", "64"]])
def test_a_million_frames(simulator: StartSimulator, words: list[str]) -> None:
    """The generator's own sink counts what comes back: it is the frame that was sent, but for its addresses."""
    count = 1_000_000 if not words else 100_000
    sim = simulator(ports=1, cables=[f"0:gen:count={count},sizes=60-1514,pace=fit,streams=64,expect=0"])
    with application("reflect", address(0), "--helper", sim.helper, "--json", *words) as process:
        wait_until("all are back", lambda: sim.ask("cables")["cables"][0]["received"] == count, 120)
        summary = finish(process)
    (end,) = sim.ask("cables")["cables"]
    assert [end[k] for k in ("lost", "duplicated", "reordered")] == [0, 0, 0]
    assert summary["ports"][0]["rx_packets"] == summary["ports"][0]["tx_packets"] == count
    assert summary["balanced"] is True
    assert sim.ask("violations")["violations"] == []


def test_one_port_in_the_table(simulator: StartSimulator) -> None:
    sim = simulator(ports=1, cables=["0:gen:count=100,expect=0"])
    result = run("reflect", address(0), "--helper", sim.helper, "--packets", "100", "--interval", "0.05")
    assert result.returncode == 0, result.stderr
    assert f"{address(0)} -> {address(0)}: 100 received = 100 forwarded" in result.stdout
    assert "sends all of them back" in result.stdout
