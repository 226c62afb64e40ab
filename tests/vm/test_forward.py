"""The main job over the kernel's VFIO: Linux's own ixgbe at the far ends, the forwarder unprivileged between them."""

import json
import re
import sys

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import OWNER, load
from tests.vm.test_helper import HELPER, serving

pytestmark = pytest.mark.vm

COMPILE = "from ixy_vfio.apps import compile, kernels; compile.forwarding_loop(kernels.load('none'))"


def lab(kernel: str) -> Config:
    """Four ports: 0 and 1 for the forwarder, 2 and 3 at the far ends of their cables."""
    return Config(kernel=kernel, ports=4, cables=("0:port:2", "1:port:3"), sim_options=("--no-helper",))


@pytest.mark.parametrize(
    ("guest", "way"),
    [(lab("stock"), "group"), (lab("iommufd"), "cdev")],  # one a guest: the far ends stay in their namespaces
    indirect=["guest"],
    ids=["stock-group", "iommufd-cdev"],
    scope="session",
)
def test_traffic_of_linux_passes(guest: Guest, way: str) -> None:
    """Without root, capabilities and locked memory: echoes and 4 MiB by TCP, both ways, payload verified."""
    load(guest, "ixgbe", "vfio-pci")
    ours = [guest.address(f"port{n}") for n in range(2)]
    far = [guest.address(f"port{n}") for n in range(2, 4)]
    for address in ours:
        guest.run([*HELPER, "bind", address], timeout=120)
    environment = {"XDG_CACHE_HOME": "/tmp/cache"}  # compiled once a guest: slow work where the CPU is emulated
    guest.run([sys.executable, "-c", COMPILE], user=OWNER, env=environment, timeout=900)
    try:
        with serving(guest, way, *ours, user=OWNER):
            argv = [sys.executable, "-m", "ixy_vfio.cli", "forward", *ours, "--json", "--link-deadline", "240"]
            forwarder = guest.start(["prlimit", "--memlock=0:0", *argv], user=OWNER, env=environment)
            hosts = guest.run([sys.executable, "-m", "tests.vm.inside.hosts_beside", *far], timeout=480)
            said = json.loads(hosts.stdout)
            assert forwarder.poll() is None, forwarder.output()
            forwarder.kill(2)
            summary = json.loads(forwarder.wait(60).stdout)
        assert said == {"carrier": True, "seen": [{"echoes": 16, "stream": True}] * 2}
        assert summary["balanced"] is True
        for port in summary["ports"]:
            assert port["rx_packets"] > (4 << 20) // 1500  # the stream, and acknowledgements
        assert not re.search(r"DMAR: \[DMA", guest.kernel_log())
    finally:
        for address in ours:
            guest.run([*HELPER, "unbind", address], timeout=120)
