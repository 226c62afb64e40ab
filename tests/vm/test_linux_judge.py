"""Linux's own ixgbe judges the simulated 82599: its self-test, its counters, its queues. Every access is a message."""

import json
import re

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.support import in_guest, inside, load
from tests.vm.test_helper import interface, wait_until
from tests.vm.test_simulated_port import violations

pytestmark = pytest.mark.vm

FRAMES = 300
GENERATOR = f"2:gen:count={FRAMES},sizes=60-1514,pace=0.0005,seed=4"
JUDGED = Config(
    kernel="stock", ports=3, cables=("0:port:1", GENERATOR), sim_options=("--no-helper", "--trap"), smp=4
)  # four processors: Linux takes a queue for each
REBIND = """
for round in $(seq 20); do
    echo "$1" > /sys/bus/pci/drivers/ixgbe/unbind
    [ ! -e "/sys/bus/pci/devices/$1/net" ]
    echo "$1" > /sys/bus/pci/drivers/ixgbe/bind
    name=$(ls "/sys/bus/pci/devices/$1/net")
    ip link set "$name" up
    echo up
    [ $((round % 5)) = 0 ] || continue
    for wait in $(seq 600); do [ "$(cat "/sys/class/net/$name/carrier")" = 0 ] || break; sleep 0.1; done
    echo "$(cat "/sys/class/net/$name/carrier")"
done
"""


def ports(guest: Guest) -> list[str]:
    """Addresses of the ports, each with its interface up."""
    if guest.run(["sh", "-c", "command -v ethtool"], check=False).status:
        pytest.skip("no ethtool here")
    load(guest, "ixgbe")
    found = [guest.address(f"port{n}") for n in range(3)]
    wait_until(lambda: all(interface(guest, address) for address in found))
    for address in found[:2]:
        guest.run(["ip", "link", "set", interface(guest, address)["name"], "up"])
    return found


def carrier(guest: Guest, address: str) -> None:
    name = interface(guest, address)["name"]
    wait_until(lambda: guest.run(["cat", f"/sys/class/net/{name}/carrier"], check=False).stdout == "1\n")


@in_guest(JUDGED)
def test_the_self_test_passes_offline(guest: Guest) -> None:
    for address in ports(guest)[:2]:
        carrier(guest, address)
        name = interface(guest, address)["name"]
        said = guest.run(["ethtool", "-t", name, "offline"], timeout=240, check=False)
        lines = re.findall(r"^(\w+) test +\((?:on|off|on/off)line\)\s+(-?\d+)$", said.stdout, re.MULTILINE)
        assert "test result is PASS" in said.stdout, said.stdout + guest.kernel_log()[-3000:]
        assert lines == [("Register", "0"), ("Eeprom", "0"), ("Interrupt", "0"), ("Loopback", "0"), ("Link", "0")]
        carrier(guest, address)
    # It enables queues without a ring, and changes registers that go together one by one.
    habits = re.compile(r"RDLEN is 0, .*\(0x0\)$|HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP differ")
    assert [text for text in violations(guest) if not habits.search(text)] == []
    assert guest.simulator is not None
    guest.simulator.ask("violations", clear=True)


@in_guest(JUDGED)
def test_counters_are_the_simulators(guest: Guest) -> None:
    """What `ethtool -S` shows, against what the simulated wire has carried."""
    address = ports(guest)[2]
    said = json.loads(inside(guest, "counted", address, str(FRAMES), timeout=240))
    assert guest.simulator is not None
    (wire,) = [cable for cable in guest.simulator.ask("cables")["cables"] if cable["ports"] == [2]]
    crc = 4
    assert wire["sent"] == FRAMES
    assert said["rx_packets"] == said["rx_pkts_nic"] == FRAMES
    assert (said["rx_bytes"], said["rx_bytes_nic"]) == (wire["sent_bytes"], wire["sent_bytes"] + crc * FRAMES)
    assert said["tx_packets"] == said["tx_pkts_nic"] == wire["received"] == 50
    assert (said["tx_bytes"], said["tx_bytes_nic"]) == (wire["received_bytes"], wire["received_bytes"] + crc * 50)
    assert (said["broadcast"], said["multicast"]) == (0, 0)
    assert [key for key, value in said.items() if value and re.search("err|miss|drop|fail|no_buff|timeout", key)] == []


@in_guest(JUDGED)
def test_flows_are_spread_by_their_hash(guest: Guest) -> None:
    one, other, _ = ports(guest)
    for sender, receiver in ((one, other), (other, one)):
        said = json.loads(inside(guest, "flows", sender, receiver, timeout=240))
        assert said["got"] == said["expected"]
        assert len(said["got"]) == guest.config.smp
        assert min(said["got"]) > 0
        assert said["hashes"] == said["sent"] == sum(said["got"]) == 144
    assert violations(guest) == []


@in_guest(JUDGED)
def test_offloads_are_on_by_default(guest: Guest) -> None:
    """So that what the other tests send is segmented, summed and tagged by the NIC."""
    name = interface(guest, ports(guest)[0])["name"]
    said = guest.run(["ethtool", "-k", name]).stdout
    features = dict(re.findall(r"^\s*([\w-]+): (on|off)", said, re.MULTILINE))
    wanted = ("rx-checksumming", "tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation",
              "rx-vlan-offload", "tx-vlan-offload", "receive-hashing")  # fmt: skip
    assert {key: features.get(key) for key in wanted} == dict.fromkeys(wanted, "on")


@pytest.mark.long
@in_guest(JUDGED)
def test_the_driver_comes_and_goes_twenty_times(guest: Guest) -> None:
    """Each time with its rings up; a carrier, which takes the longest, is waited for four times. Then traffic."""
    one, other, _ = ports(guest)
    said = guest.run(["sh", "-ec", REBIND, "sh", other], timeout=900)
    assert said.stdout.split() == [*["up"] * 5, "1"] * 4
    flows = json.loads(inside(guest, "flows", one, other, timeout=240))
    assert flows["got"] == flows["expected"]
    assert not re.search(r"DMAR: \[DMA|NETDEV WATCHDOG", guest.kernel_log())
    assert violations(guest) == []
