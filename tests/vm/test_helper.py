"""The real helper in a guest: a refusal comes first, binding and its way back."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.harness.guest import Process
from tests.vm.inside.programs import HELPER
from tests.vm.support import IOMMUFD, STOCK, in_guest, load

pytestmark = pytest.mark.vm

USER, STRANGER = 1000, 1001
PORTS = Config(kernel="iommufd", ports=1)
WAYS = pytest.mark.parametrize(
    ("guest", "way"),
    [(STOCK, "group"), (IOMMUFD, "group"), (IOMMUFD, "cdev")],
    indirect=["guest"],
    ids=["stock-group", "iommufd-group", "iommufd-cdev"],
    scope="session",
)
RAW_BIND = "import sys; from tests.vm.inside.raw_vfio import bind; bind(sys.argv[1], sys.argv[2])"


def wait_until(ready: Callable[[], bool], deadline: float = 120.0) -> None:
    end = time.monotonic() + deadline
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


def policy(guest: Guest, user: int, *addresses: str) -> None:
    """Leave a policy that gives these devices to `user`."""
    guest.run(["mkdir", "-p", "/run/policy"])
    guest.put(f"[user.{user}]\ndevices = {json.dumps(list(addresses))}\n".encode(), "/run/policy/policy.toml")
    guest.run(["chmod", "644", "/run/policy/policy.toml"])


@contextlib.contextmanager
def serving(
    guest: Guest, way: str, *addresses: str, user: int = USER, helper: Sequence[str] = HELPER
) -> Iterator[Process]:
    """A helper that leases these devices to `user`."""
    policy(guest, user, *addresses)
    process = guest.start([*helper, "serve", "--policy", "/run/policy/policy.toml", "--way", way])
    try:
        wait_until(lambda: guest.run(["test", "-S", "/run/ixy_vfio/helper.sock"], check=False).status == 0)
        yield process
    finally:
        if process.poll() is None:
            guest.run(["kill", str(process.pid)])
            process.wait()
        guest.run(["rm", "-f", "/run/ixy_vfio/helper.sock"])


def client(guest: Guest, what: str, address: str, user: int = USER, *more: str) -> Process:
    return guest.start([sys.executable, "-m", "tests.vm.inside.leased", what, address, str(user), *more])


def edu(guest: Guest) -> str:
    """QEMU's edu device, bound. It is no NIC, so that the helper would not do it."""
    load(guest, "vfio-pci")
    address = guest.address("nic3")
    guest.python(RAW_BIND, address, "vfio-pci")
    return address


def command_register(guest: Guest, address: str) -> int:
    return int.from_bytes(guest.get(f"/sys/bus/pci/devices/{address}/config")[4:6], "little")


def traced(guest: Guest, policy: dict[int, str], way: str) -> Process:
    """A helper under strace: every path and every ioctl of it and its children go to /run/trace."""
    text = "".join(f'[user.{user}]\ndevices = ["{address}"]\n' for user, address in policy.items())
    guest.run(["mkdir", "-p", "/run/policy"])
    guest.put(text.encode(), "/run/policy/policy.toml")
    guest.run(["chmod", "644", "/run/policy/policy.toml"])
    words = " ".join([*HELPER, "serve", "--policy", "/run/policy/policy.toml", "--way", way])
    script = f"echo $$ > /run/helper.pid; exec {words}"
    helper = guest.start(["strace", "-f", "-qq", "-e", "trace=%file,ioctl", "-o", "/run/trace", "sh", "-c", script])
    wait_until(lambda: guest.run(["test", "-S", "/run/ixy_vfio/helper.sock"], check=False).status == 0)
    return helper


class Trace:
    """What strace wrote."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._read = 0

    def touched(self) -> list[str]:
        """What was named below sysfs, opened of /dev, and asked of VFIO since the last call.

        O_PATH opens nothing: so does the sandbox of a lease name what may be opened later.
        """
        lines = [line for line in self._guest.get("/run/trace").decode().splitlines() if "O_PATH" not in line]
        new, self._read = lines[self._read :], len(lines)
        named = r'"/sys/|"/dev/vfio/|open\w*\([^"]*"/dev/(?!null)|VFIO|IOMMU|_IOC\('
        return [line for line in new if re.search(named, line)]


@pytest.mark.parametrize(
    ("guest", "way"),
    [(STOCK, "group"), (IOMMUFD, "cdev")],
    indirect=["guest"],
    ids=["stock-group", "iommufd-cdev"],
    scope="session",
)
def test_a_refusal_comes_before_the_device_is_touched(guest: Guest, way: str) -> None:
    if guest.run(["sh", "-c", "command -v strace"], check=False).status:
        pytest.skip("no strace here: apt-get install strace")
    address, other, second = edu(guest), guest.address("nic0"), USER + 2
    helper = traced(guest, {USER: address, second: address}, way)
    try:
        trace = Trace(guest)
        assert trace.touched() == []  # a helper that starts looks at no device
        said = client(guest, "refused", address, STRANGER).wait(check=False)
        assert f"the helper's policy gives nothing to uid {STRANGER}; ask the admin" in said.stdout + said.stderr
        said = client(guest, "refused", other).wait()
        assert f"{other}: the helper's policy does not give this device to uid {USER}" in said.stdout
        assert trace.touched() == []
        holder = client(guest, "wanted_back", address)
        wait_until(lambda: "up" in holder.output().stdout)
        taken = "\n".join(trace.touched())  # the trace shows what there is to show
        assert f'"/sys/bus/pci/devices/{address}' in taken
        assert '"/dev/vfio/' in taken
        said = client(guest, "refused", address, second).wait()
        assert re.search(rf"{address}: leased by uid {USER} \(helper process \d+\); that lease must end", said.stdout)
        assert trace.touched() == []
        holder.kill()
        holder.wait(check=False)
    finally:
        guest.run(["sh", "-c", "kill $(cat /run/helper.pid)"])
        helper.wait(check=False)
        guest.run(["rm", "-f", "/run/ixy_vfio/helper.sock"])


def interface(guest: Guest, address: str) -> dict[str, str]:
    """Name, MTU and whether it is up, of a NIC's interface."""
    names = guest.run(["ls", f"/sys/bus/pci/devices/{address}/net"], check=False).stdout.split()
    if not names:
        return {}
    read = [guest.get(f"/sys/class/net/{names[0]}/{what}").decode().strip() for what in ("mtu", "flags")]
    return {"name": names[0], "mtu": read[0], "up": str(int(read[1], 16) & 1)}


@in_guest(STOCK, IOMMUFD)
def test_bind_and_unbind_give_the_interface_back_as_it_was(guest: Guest) -> None:
    load(guest, "vfio-pci", "igb")
    address = guest.address("nic0")
    wait_until(lambda: bool(interface(guest, address)))
    name = interface(guest, address)["name"]
    guest.run(["ip", "link", "set", name, "down"])
    guest.run(["ip", "link", "set", name, "name", "uplink0", "mtu", "1400"])
    guest.run(["ip", "link", "set", "uplink0", "up"])
    before = {"name": "uplink0", "mtu": "1400", "up": "1"}
    assert interface(guest, address) == before
    refused = guest.run([*HELPER, "bind", "--other", address], check=False)
    assert refused.status == 2
    remedy = "run: ip link set uplink0 down (or bind --down)"
    assert refused.stderr == f"ixy-vfio-helper: {address}: uplink0 is up; {remedy}\n"
    assert interface(guest, address) == before
    assert guest.run([*HELPER, "bind", "--other", "--down", address]).stdout == f"{address}: driver vfio-pci\n"
    assert interface(guest, address) == {}
    assert "free; unbind gives it back to igb" in guest.run([*HELPER, "status"]).stdout
    again = guest.run([*HELPER, "bind", "--other", address], check=False)
    assert (again.status, "bound already" in again.stderr) == (2, True)
    assert guest.run([*HELPER, "recover"]).stdout == ""  # there is nothing to recover
    assert guest.run([*HELPER, "unbind", address]).stdout == f"{address}: driver igb\n"
    assert interface(guest, address) == before
    assert guest.get(f"/sys/bus/pci/devices/{address}/driver_override") == b"(null)\n"


@pytest.mark.parametrize(
    ("guest", "way"), [pytest.param(PORTS, "group", marks=pytest.mark.long), (PORTS, "cdev")],
    indirect=["guest"], ids=["group", "cdev"], scope="session",
)  # fmt: skip
def test_a_simulated_82599_is_bound_leased_and_given_back(guest: Guest, way: str) -> None:
    address = guest.address("port0")
    wait_until(lambda: bool(interface(guest, address)))
    assert guest.run([*HELPER, "bind", "--down", address]).stdout == f"{address}: driver vfio-pci\n"
    with serving(guest, way, address):
        client = guest.run([sys.executable, "-m", "tests.vm.inside.leased_nic", address, str(USER)], timeout=120)
        assert json.loads(client.stdout) == {
            "listed": [[address, "vfio-pci", 0]], "ids": "0x10fb8086", "size": 0x80000, "vectors": 64,
            "command": "0x6", "iova": 0x10_0000_0000, "rxdctl": 0, "mapped": 4096,
        }  # fmt: skip
        assert command_register(guest, address) & 4 == 0
    assert guest.run([*HELPER, "unbind", address]).stdout == f"{address}: driver ixgbe\n"
