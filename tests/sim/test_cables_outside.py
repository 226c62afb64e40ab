"""Cables to captures, to a veth and to a TAP. Interfaces live in a namespace of their own: no root is needed."""

import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from tests.sim.dataplane_rig import BUFFERS, OTHER, Rig, frame

BAD = [
    "0", "x:port:1", "0:port:0", "0:port:x", "0:wire:1", "0:port", "0:fd:x", "0:fd:99999", "0:packet:no_such_iface",
    "0:tap:a_name_that_is_far_too_long", "0:pcapng:only", "0:pcapng:/no/such/file,",
]  # fmt: skip


@pytest.mark.parametrize("spec", BAD)
def test_a_bad_specification_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match=f"^cable {spec}: "):
        parse_cable(spec)


def test_a_file_descriptor_that_is_no_packet_socket_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, pytest.raises(UsageError, match="neither a packet socket nor a TAP"):
        parse_cable(f"0:fd:{file.fileno()}")


def test_a_port_has_one_cable_and_must_be_there() -> None:
    plane = DataPlane()
    Rig(plane), Rig(plane)
    plane.connect(parse_cable("0:port:1"))
    with pytest.raises(UsageError, match="port 1 has a cable already"):
        plane.connect(parse_cable("1:gen:"))
    with pytest.raises(UsageError, match="there is no port 2"):
        plane.connect(parse_cable("2:gen:"))
    assert [port.carrier for port in plane.ports] == [True, True]


def test_a_capture_goes_in_and_another_comes_out(tmp_path: Path) -> None:
    frames = [frame(size, fill=size & 0xFF) for size in (60, 61, 1514)]
    with open(tmp_path / "in.pcapng", "wb") as file:
        writer = dpkt.pcapng.Writer(file)
        for one in frames:
            writer.writepkt(one, ts=1.5)
    plane = DataPlane()
    port = Rig(plane)
    cable = parse_cable(f"0:pcapng:{tmp_path}/in.pcapng,{tmp_path}/out.pcapng")
    plane.connect(cable)
    port.start_receive()
    port.start_transmit()
    for _ in range(2):
        plane.step()
    port.give(*(BUFFERS + 2048 * i for i in range(8)))
    for _ in range(3):
        plane.step()
    assert [port.get(BUFFERS + 2048 * i, len(one)) for i, one in enumerate(frames)] == frames
    assert cable.status() == {
        "spec": cable.spec, "alive": True, "received": 3, "sent": 0, "dropped": 0, "oversize": 0, "done": True,
        "notes": [],
    }  # fmt: skip
    for one in frames:
        port.send(one)
        plane.step()
    cable.close()
    with open(tmp_path / "out.pcapng", "rb") as file:
        reader = dpkt.pcapng.Reader(file)
        found = list(reader)
    assert [data for _, data in found] == frames
    assert reader._divisor == 1e9


INSIDE = """
import socket, struct, sys, time
from pyroute2 import IPRoute
from ixy_vfio.sim.cables import parse_cable
from ixy_vfio.sim.dataplane import DataPlane
from tests.sim.dataplane_rig import BUFFERS, MAC, OTHER, Rig, frame

ip = IPRoute()

def up(name, state="up"):
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state=state)

def far(name):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    end.bind((name, 0x88B5))
    end.settimeout(5)
    return end

def until(what, ready):
    end = time.monotonic() + 5
    while not ready():
        plane.step()
        assert time.monotonic() < end, what

kind = sys.argv[1]
if kind == "tap":
    cable, name = parse_cable("0:tap:ixy0"), "ixy0"
else:
    ip.link("add", ifname="ixy0", kind="veth", peer="ixy1")
    up("ixy0")
    name = "ixy1"
    if kind == "fd":
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.bind(("ixy0", 3))
        cable = parse_cable(f"0:fd:{end.detach()}")
    else:
        cable = parse_cable("0:packet:ixy0")
up(name)
plane = DataPlane()
port = Rig(plane)
port.write(0x5080, 0)  # own address alone: what the kernel sends by itself is filtered out
plane.connect(cable)
port.start_receive()
port.start_transmit()
plane.step()
port.give(*(BUFFERS + 2048 * i for i in range(16)))
end = far(name)

tagged = frame(80)[:12] + bytes.fromhex("8100 0123") + frame(80)[12:]
for sent in (frame(60), frame(1514), tagged):
    end.send(sent)
until("three frames in", lambda: port.read(0x1010) == 3)
assert port.get(BUFFERS, 60) == frame(60)
assert port.get(BUFFERS + 2048, 1514) == frame(1514)
assert port.get(BUFFERS + 4096, 84) == tagged, port.get(BUFFERS + 4096, 84).hex()

for size in (60, 1514):
    port.send(frame(size, destination=OTHER))
    until("a frame out", lambda: port.read(0x6010) == port.tx_tail)
    assert end.recv(2000) == frame(size, destination=OTHER)
for _ in range(20):
    plane.step()
assert port.read(0x1010) == 3, "what was sent came back"
assert cable.status()["sent"] == 2
assert port.port.carrier

if kind == "packet":
    up("ixy0", "down")
    until("carrier lost", lambda: not port.port.carrier)
    up("ixy0")
    until("carrier back", lambda: port.port.carrier)
    ip.link("del", index=ip.link_lookup(ifname="ixy0")[0])
    until("carrier lost for good", lambda: not port.port.carrier)
    assert cable.filenos() == []
cable.close()
print("fine")
"""


def namespaces() -> bool:
    """Whether an unprivileged network namespace can be had."""
    try:
        return subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not namespaces(), reason="needs unprivileged user and network namespaces (unshare -Urn)")
@pytest.mark.parametrize("kind", ["packet", "fd", pytest.param("tap", marks=pytest.mark.root)])  # /dev/net/tun
def test_frames_pass_between_a_port_and_an_interface(kind: str) -> None:
    argv = ["unshare", "-Urn", sys.executable, "-c", INSIDE, kind]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False, cwd=root)
    assert done.stdout == "fine\n", done.stderr
    assert OTHER != b""
