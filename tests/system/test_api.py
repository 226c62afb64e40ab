"""The public API, as a script uses it, on two simulated ports that are cabled back to back."""

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
