"""igb's driver against a NIC that nobody here wrote: QEMU's 82576, behind a virtual IOMMU.

The forwarder runs as an ordinary user between two of them. Each has a wire of its own, with a NIC of another kind at
its far end, which Linux drives.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.harness.guest import Process, compile_for
from tests.vm.inside.programs import HELPER
from tests.vm.support import OWNER, in_guest, inside, load, open_python
from tests.vm.test_helper import serving, wait_until

pytestmark = pytest.mark.vm

LAB = Config(kernel="iommufd", nics=("igb", "igb", "e1000e", "virtio-net-pci"), wires=(0, 1, 0, 1), hugepages=16)
SMALL = 1_000  # numbered frames each way
AUTO_READ = "the EEPROM was not read to its end; going on without"  # QEMU's igb never says so: docs/drivers.md


@pytest.fixture(scope="module")
def lab(guest: Guest) -> Iterator[tuple[list[str], list[str]]]:
    """The forwarder's ports, bound, and those at the far ends; what drives them is compiled."""
    load(guest, "igb", "e1000e", "virtio_net", "vfio-pci")
    open_python(guest)
    compile_for(OWNER)
    ours, far = ([guest.address(f"nic{n}") for n in two] for two in ((0, 1), (2, 3)))
    try:
        for address in ours:
            guest.run([*HELPER, "bind", address])
        yield ours, far
    finally:
        for address in ours:
            guest.run([*HELPER, "unbind", address])


class Forwarder:
    """As an ordinary user, without locked memory."""

    def __init__(self, guest: Guest, ours: list[str], *options: str) -> None:
        argv = ["prlimit", "--memlock=0:0", sys.executable, "-m", "ixy_vfio.cli", "forward", *ours, "--json-lines"]
        self.process: Process = guest.start([*argv, "--link-deadline", "120", *options], user=OWNER)
        self.ours = ours

    def lines(self) -> list[dict[str, Any]]:
        """What it has said up to now, a line each second."""
        return [json.loads(line) for line in self.process.output().stdout.splitlines() if line.endswith("}")]

    def wait_links(self, *links: str) -> None:
        """Until it says that the links of its ports are so."""
        wanted = dict(zip(self.ours, links, strict=True))
        wait_until(lambda: [line["links"] for line in self.lines()][-1:] == [wanted])

    def end(self) -> dict[str, Any]:
        """Stopped as by Ctrl-C; its summary, in which nothing is odd."""
        self.process.kill(2)
        summary: dict[str, Any] = json.loads(self.process.wait().stdout.splitlines()[-1])
        print(f"summary: {json.dumps(summary)}")
        assert (summary["kind"], summary["error"], summary["balanced"]) == ("summary", None, True)
        assert [note.split(" (")[0].partition(": ")[2] for note in summary["notes"]] == 2 * [AUTO_READ]
        return summary


@contextmanager
def forwarding(guest: Guest, way: str, ours: list[str], *options: str) -> Iterator[Forwarder]:
    with serving(guest, way, *ours, user=OWNER):
        forwarder = Forwarder(guest, ours, *options)
        try:
            yield forwarder
        finally:
            if forwarder.process.poll() is None:
                forwarder.process.kill(9)
                forwarder.process.poll(30.0)
    assert "DMAR: [DMA" not in guest.kernel_log()


UP = "up, 1 Gbit/s"


@in_guest(LAB)
def test_traffic_of_linux_by_cdev(guest: Guest, lab: tuple[list[str], list[str]]) -> None:
    """Echoes of all sizes and 4 MiB by TCP, both ways; then nothing, and the worker sleeps. Interrupts woke it."""
    ours, far = lab
    with forwarding(guest, "cdev", ours, "--idle", "sleep") as forwarder:
        said = json.loads(inside(guest, "hosts_beside", *far, str(forwarder.process.pid), timeout=480))
        assert said == {"carrier": True, "seen": [{"echoes": 16, "stream": True}] * 2}
        idle = json.loads(inside(guest, "idle", str(forwarder.process.pid), *far, timeout=240))
        print(f"without packets: {idle}")
        summary = forwarder.end()
    assert 1 <= idle["wakes"] <= 150  # as in test_forward.py
    assert idle["worker"] < 0.5
    assert idle["interrupts"] > 0
    for port in summary["ports"]:
        assert port["rx_packets"] > (4 << 20) // 1500


@in_guest(LAB)
def test_numbered_jumbo_frames_by_group(guest: Guest, lab: tuple[list[str], list[str]]) -> None:
    """MTU 9000, frames of 60 to 9,014 bytes, a link that goes down and comes up; each counter is the far side's."""
    numbered(guest, lab, SMALL)


@pytest.mark.long
@in_guest(LAB)
def test_a_million_numbered_frames(guest: Guest, lab: tuple[list[str], list[str]]) -> None:
    """The same, 500,000 each way."""
    numbered(guest, lab, 500_000)


def numbered(guest: Guest, lab: tuple[list[str], list[str]], frames: int) -> None:
    ours, far = lab
    assert guest.qmp is not None
    # Short rings: all packets lie in one hugepage. Else QEMU's igb loses some (docs/drivers.md).
    with forwarding(guest, "group", ours, "--mtu", "9000", "--interval", "1", "--ring", "128") as forwarder:
        first = json.loads(inside(guest, "numbered", *far, str(frames), "9014", timeout=240 + frames / 50))
        print(f"numbered: {first}")
        for up, link in ((False, "down"), (True, UP)):
            guest.qmp.execute("set_link", {"name": "nic0", "up": up})
            forwarder.wait_links(link, UP)
        again = json.loads(inside(guest, "numbered", *far, "100", "1514", timeout=240))
        summary = forwarder.end()
    for told, count in ((first, frames), (again, 100)):
        assert (told["arrived"], told["wrong"]) == ([count] * 2, [0, 0])
    for port in (0, 1):
        nic = summary["ports"][port]["nic"]
        assert nic["GPRC"] == summary["ports"][port]["rx_packets"] <= first["sent"][port] + again["sent"][port]
        assert (
            nic["GPTC"]
            == summary["ports"][port]["tx_packets"]
            == first["received"][1 - port] + again["received"][1 - port]
        )
        dropped = summary["directions"][port]["dropped"]
        assert {cause: count for cause, count in dropped.items() if count} == {}


@in_guest(LAB)
def test_what_is_for_others_is_left(guest: Guest, lab: tuple[list[str], list[str]]) -> None:
    """Not promiscuous: frames for all come through, those for another host do not (as they do in the test above)."""
    ours, far = lab
    with forwarding(guest, "cdev", ours, "--not-promiscuous", "--ring", "128") as forwarder:
        told = json.loads(inside(guest, "numbered", *far, "200", "1514", "broadcast", timeout=480))
        summary = forwarder.end()
    assert (told["arrived"], told["wrong"], told["strangers"]) == ([200] * 2, [0, 0], [0, 0])
    assert [port["rx_packets"] for port in summary["ports"]] == [
        200 + summary["ports"][n]["nic"]["BPRC"] - 200 for n in (0, 1)
    ]
