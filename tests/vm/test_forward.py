"""The main job over the kernel's VFIO: Linux's own ixgbe at the far ends, the forwarder unprivileged between them."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator

import pytest

from tests.system.test_api import SCRIPT
from tests.vm.harness import Config, Guest
from tests.vm.harness.guest import compile_for
from tests.vm.inside.programs import HELPER
from tests.vm.support import OWNER, in_guest, inside, load, open_python
from tests.vm.test_helper import serving
from tests.vm.test_simulated_port import PORTS

pytestmark = pytest.mark.vm


# Trapped: registers that count up and are cleared by reading lie in the queue pages, too.
PAIR = Config(kernel="iommufd", ports=2, cables=("0:port:1",), sim_options=("--no-helper", "--trap"))


def lab(kernel: str) -> Config:
    """Four ports: 0 and 1 for the forwarder, 2 and 3 at the far ends of their cables."""
    cables = ("0:port:2", "1:port:3")
    return Config(kernel=kernel, ports=4, cables=cables, sim_options=("--no-helper",), hugepages=16)


@contextlib.contextmanager
def bound(guest: Guest) -> Iterator[tuple[list[str], list[str]]]:
    """Ports 0 and 1, bound and what drives them compiled, and the ports at the far ends, if there are any."""
    load(guest, "ixgbe", "vfio-pci")
    open_python(guest)
    ours = [guest.address(f"port{n}") for n in range(2)]
    far = [guest.address(f"port{n}") for n in range(2, guest.config.ports)]
    compile_for(OWNER)
    try:
        for address in ours:
            guest.run([*HELPER, "bind", address])
        yield ours, far
    finally:
        for address in ours:
            guest.run([*HELPER, "unbind", address])


def page_sizes(guest: Guest, pid: int) -> list[int]:
    """KiB a page of each mapping of a lease's memory, largest mapping first."""
    smaps = guest.get(f"/proc/{pid}/smaps").decode()
    found = re.findall(r"memfd:ixy_vfio.*\nSize: +(\d+) kB\nKernelPageSize: +(\d+) kB", smaps)
    return [page for _, page in sorted(((int(size), int(page)) for size, page in found), reverse=True)]


@pytest.mark.parametrize(
    ("guest", "way", "hugepages"),
    [
        (lab("stock"), "group", 16),
        pytest.param(lab("iommufd"), "group", 0, marks=pytest.mark.long),
        (lab("iommufd"), "cdev", 16),
    ],
    indirect=["guest"],
    ids=["stock-group", "iommufd-group-4k", "iommufd-cdev"],
    scope="session",
)
def test_traffic_of_linux_passes(guest: Guest, way: str, hugepages: int) -> None:
    """Without root, capabilities and locked memory: echoes and 4 MiB by TCP, both ways, payload verified."""
    guest.run(["sh", "-c", f"echo {hugepages} > /proc/sys/vm/nr_hugepages"])
    with bound(guest) as (ours, far), serving(guest, way, *ours, user=OWNER):
        argv = [sys.executable, "-m", "ixy_vfio.cli", "forward", *ours, "--json", "--link-deadline", "240"]
        forwarder = guest.start(["prlimit", "--memlock=0:0", *argv], user=OWNER)
        said = json.loads(inside(guest, "hosts_beside", *far, str(forwarder.pid), timeout=480))
        assert forwarder.poll() is None, forwarder.output()
        pages = page_sizes(guest, forwarder.pid)
        idle = json.loads(inside(guest, "idle", str(forwarder.pid), *far, timeout=120))
        print(f"without packets: {idle}")
        forwarder.kill(2)
        summary = json.loads(forwarder.wait().stdout)
    print(f"summary: {json.dumps(summary)}")
    assert said == {"carrier": True, "seen": [{"echoes": 16, "stream": True}] * 2}
    assert summary["balanced"] is True
    for port in summary["ports"]:
        assert port["rx_packets"] > (4 << 20) // 1500  # the stream, and acknowledgements
    # In 5 s it sleeps 0.1 s a time, or until control asks. Shares of an emulated processor say little; a busy loop's
    # would be near 1. On a real one tests/system/test_idle.py asks for less than 0.01 of both processes.
    assert 1 <= idle["wakes"] <= 150
    assert idle["worker"] < 0.5
    assert idle["interrupts"] > 0
    assert pages == [2048 if hugepages else 4, 4, 4]  # packets; the rings of two ports
    why = "4 KiB pages: no 2 MiB hugepages (No space left on device); reserve some in /proc/sys/vm/nr_hugepages"
    assert summary["notes"] == ([] if hugepages else [why])
    assert not re.search(r"DMAR: \[DMA", guest.kernel_log())


@in_guest(lab("iommufd"))
def test_list_and_info(guest: Guest) -> None:
    """What an ordinary user is told of a port by the kernel's VFIO; afterwards it is free again."""
    with bound(guest) as (ours, _), serving(guest, "cdev", *ours, user=OWNER):
        command = ["prlimit", "--memlock=0:0", sys.executable, "-m", "ixy_vfio.cli"]
        info = json.loads(guest.run([*command, "info", ours[1], "--json"], user=OWNER).stdout)
        listed = json.loads(guest.run([*command, "list", "--json"], user=OWNER).stdout)
    assert (info["address"], info["model"], info["mac"]) == (ours[1], "82599ES SFI/SFP+", "02:82:59:90:00:01")
    assert (info["bus_master"], info["counters"]) == (False, {})
    eeprom = [one["fields"] for one in info["registers"] if one["name"] == "EEC"]
    assert eeprom == [{"pres": 1, "ard": 1}]  # an EEPROM is there, and was read after the reset
    assert [(one["address"], one["driver"], one["state"]) for one in listed] == [(a, "vfio-pci", "free") for a in ours]


@in_guest(PAIR)
def test_a_script_sends_and_receives(guest: Guest) -> None:
    """The Python API: without root, capabilities and locked memory, on two ports that are cabled back to back."""
    with bound(guest) as (ours, _), serving(guest, "cdev", *ours, user=OWNER):
        argv = ["prlimit", "--memlock=0:0", sys.executable, "-c", SCRIPT, "/run/ixy_vfio/helper.sock", *ours]
        assert guest.run(argv, user=OWNER, timeout=240).stdout == "fine\n"
    assert not re.search(r"DMAR: \[DMA", guest.kernel_log())


AGAIN = """
import os, subprocess, sys, time
import ixy_vfio

def held():
    "What this process has of devices and their memory, mapped or open."
    with open("/proc/self/maps") as file:
        mapped = [line for line in file if line.split()[1][3] == "s"]
    return mapped + [link for link in (_link(fd) for fd in os.listdir("/proc/self/fd")) if "vfio" in link]

def _link(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # of the listing itself
        return ""

helper, *ports = sys.argv[1:]
before = held()
for turn in range(2):
    with ixy_vfio.open_ports(*ports, helper=helper, link_deadline=120) as (a, b):
        assert held() != before
        print("opened", flush=True)
        sent, end = a.new(3, 60), time.monotonic() + 60
        for packet in sent:
            packet[:14] = (255,) * 6 + (2,) * 6 + (8, 0)
        a.tx(sent)
        while not (batch := b.rx(1)) and time.monotonic() < end:
            pass
        packet = batch[0]
    assert held() == before, held()
    assert bytes(packet[:6]) == b"\\xff" * 6
    argv = [sys.executable, "-m", "ixy_vfio.cli", "info", ports[turn], "--helper", helper]
    other = subprocess.run(argv, capture_output=True, text=True)
    assert other.returncode == 0, other.stderr
    print("closed", flush=True)
"""


@in_guest(PAIR, PORTS)
def test_closed_ports_can_be_opened_again(guest: Guest) -> None:
    """In the process that had them and in another, while the first lives; by cdev, and by group."""
    way = "cdev" if guest.config.kernel == "iommufd" else "group"
    with bound(guest) as (ours, _), serving(guest, way, *ours, user=OWNER):
        argv = ["prlimit", "--memlock=0:0", sys.executable, "-c", AGAIN, "/run/ixy_vfio/helper.sock", *ours]
        result = guest.run(argv, user=OWNER, timeout=480, check=False)
    assert (result.stdout, result.stderr, result.status) == (2 * "opened\nclosed\n", "", 0)
