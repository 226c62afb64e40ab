"""The public API, as a script uses it, on two simulated ports."""

import subprocess
import sys

from tests.conftest import StartSimulator, address

SCRIPT = """
import sys, time
import ixy_vfio
with ixy_vfio.open_ports(*sys.argv[2:], helper=sys.argv[1], link_deadline=60) as (a, b):
    sent = a.new(40, 60)
    for i, packet in enumerate(sent):
        packet[:] = 0
        packet[:14] = (255,) * 6 + (2,) * 6 + (8, 0)
        packet[20] = i
    assert a.tx(sent) == 40 and len(sent) == 0
    got, end = [], time.monotonic() + 20
    while len(got) < 40 and time.monotonic() < end:
        batch = b.rx(7)
        got += [batch.bytes_of(i) for i in range(len(batch))]
    assert [packet[20] for packet in got] == list(range(40)), len(got)
    assert {len(packet) for packet in got} == {60}
    assert (a.counted.sent, b.counted.received, b.counters().rx_packets) == (40, 40, 40)
print("fine")
"""


def test_a_script_sends_and_receives(simulator: StartSimulator) -> None:
    sim = simulator(ports=2, cables=["0:port:1"])
    argv = [sys.executable, "-c", SCRIPT, sim.helper, address(0), address(1)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "fine\n"


CLOSED = """
import os, sys
import ixy_vfio
from ixy_vfio.core.errors import LeaseError, UsageError

@ixy_vfio.kernel
def touch(packet, length):
    packet[48] += 1
    return True

def held():
    "Shared mappings, and what is open."
    shared = [line for line in open("/proc/self/maps") if line.split()[1][3] == "s"]
    return sorted(shared), sorted(os.listdir("/proc/self/fd"))

def none(packet, length):
    return True

before = held()
for turn in range(2):
    session = ixy_vfio.open_ports(*sys.argv[2:], helper=sys.argv[1], link_deadline=60)
    with session as (a, b):
        batch, empty = a.batch(32), b.batch(32)
        receive, work, send = a.receiver(batch), touch.on(batch), b.sender(batch)
        forward = a.forwarder(none, b)
        assert b.wait(0) and not b.wait(0)
        assert held() != before
        while not receive():
            pass
        kept, bytes_kept = batch[0], batch.bytes_of(0)
    assert held() == before, held()
    assert bytes(kept) == bytes_kept
    kept[:] = 0
    uses = [
        receive, work, send, forward, lambda: a.rx(32), lambda: a.rx_into(empty), lambda: b.tx(batch),
        lambda: a.new(1, 60), lambda: a.batch(32), lambda: a.receiver(batch), lambda: b.sender(batch), lambda: a.mac,
        lambda: a.run(none, b), lambda: a.wait(0), lambda: a.fileno(),
        lambda: a.forwarder(none, b), lambda: a.link, lambda: a.mtu, lambda: a.counters(), lambda: a.counted,
        lambda: touch(batch), lambda: touch(empty), lambda: batch[0], lambda: list(batch), lambda: batch.bytes_of(0),
    ]
    for n, use in enumerate(uses):
        try:
            print("no error:", n, use())
        except UsageError as error:
            assert str(error) == "the ports are closed: open them again", error
    batch.free()
    try:
        session.lease.devices()
    except LeaseError as error:
        assert "closed" in str(error), error
    assert len(batch) == 0 and session.close() is None
print("fine")
"""


def test_closed_ports_are_gone_and_can_be_opened_again(simulator: StartSimulator) -> None:
    """Nothing of them is open or mapped, nothing of them works; and a script that ends with batches says nothing."""
    sim = simulator(ports=2, cables=["0:gen:expect=1", "1:gen:count=0,expect=0"])
    argv = [sys.executable, "-c", CLOSED, sim.helper, address(0), address(1)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)


WAIT = """
import asyncio, os, signal, sys, time
import ixy_vfio
from ixy_vfio.core.errors import LeaseError

def frames(port, count):
    batch = port.new(count, 60)
    for packet in batch:
        packet[:] = 0
        packet[:14] = (255,) * 6 + (2,) * 6 + (8, 0)
    return batch

with ixy_vfio.open_ports(*sys.argv[2:4], helper=sys.argv[1], link_deadline=60) as (a, b):
    while b.wait(0.2):
        assert len(b.rx()) == 0
    used, begun = time.process_time(), time.monotonic()
    assert not b.wait(3)
    assert time.monotonic() - begun >= 3
    assert time.process_time() - used < 0.03, "an idle script takes under 1 % of a core"
    for turn in range(20):
        assert a.tx(frames(a, 1)) == 1
        got = 0
        while not got:
            assert b.wait(30), "a packet wakes it"
            got = len(b.rx())
        assert got == 1

    async def both():
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        total = 0
        def readable():
            nonlocal total
            b.wait(0)
            while batch := b.rx():
                total += len(batch)
            if total == 50:
                come.set()
        loop.add_reader(b.fileno(), readable)
        for _ in range(50):
            assert a.tx(frames(a, 1)) == 1
            await asyncio.sleep(0.001)
        await asyncio.wait_for(come.wait(), 30)
        loop.remove_reader(b.fileno())

    asyncio.run(both())
    os.kill(int(sys.argv[4]), signal.SIGTERM)  # the helper, which ends the lease
    try:
        while b.wait(30):
            pass
        print("asleep")
    except LeaseError as error:
        print("fine", flush=True)
        os._exit(0)  # there is nothing left to be given back
"""


def test_a_script_sleeps_until_packets_come(simulator: StartSimulator) -> None:
    """By poll and by asyncio; and it does not sleep on when the helper has ended its lease."""
    sim = simulator(ports=2, cables=["0:port:1"])
    argv = [sys.executable, "-c", WAIT, sim.helper, address(0), address(1), str(sim.process.pid)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
