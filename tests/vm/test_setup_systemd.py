"""The installed service under a real systemd, which runs in a PID namespace of the guest: activation, sandbox, undo."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.harness import Config, Guest
from tests.vm.harness.guest import Result
from tests.vm.harness.kernel import TREE
from tests.vm.inside import unit_probe
from tests.vm.support import SETUP, in_guest, load, open_python
from tests.vm.test_helper import interface, wait_until
from tests.vm.test_setup import LEFT, SLOW, USER

pytestmark = pytest.mark.vm

OWN = Config(kernel="stock", nics=("igb",))  # of its own: systemd leaves traces
BOOT = """
mkdir -p /sys/fs/cgroup /run/systemd/system; mount -t cgroup2 none /sys/fs/cgroup
printf '[Unit]\nDescription=idle\nDefaultDependencies=no\n' > /run/systemd/system/idle.target
exec unshare --pid --fork --mount sh -ec '
    mount --make-rprivate /
    mount -t proc proc /proc
    exec env -i container=other /lib/systemd/systemd --system --unit=idle.target --log-target=kmsg --show-status=0'
"""
LEASE = (
    "import os, sys; from ixy_vfio.transport.lease import Lease; from ixy_vfio_helper.protocol import Purpose\n"
    "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
    "with Lease() as lease:\n"
    "    device = lease.attach(sys.argv[1]); memory = lease.memory(2 << 20, [device], Purpose.PACKETS)\n"
    "    lease.seal(); pid = open(f'/run/ixy_vfio/leases/{device.address}.lease').read().split()[1]\n"
    "    status = dict(line.split(':\\t', 1) for line in open(f'/proc/{pid}/status') if ':\\t' in line)\n"
    "    print(device.address, memory.size, status['CapEff'].strip())"  # none: its sandbox works within the unit's
)
Inside = Callable[..., Result]
PROBE = "/run/ixy_vfio/probe"  # the only place that the service may write
# Lines of the unit whose removal changes just this, and to what.
TRIED = {
    "MemoryDenyWriteExecute=yes": ("MemoryDenyWriteExecute", True),
    "LockPersonality=yes": ("LockPersonality", True),
    "ProtectHostname=yes": ("ProtectHostname", True),
    "ProcSubset=pid": ("ProcSubset", True),
    "DeviceAllow=/dev/vfio/vfio rw": ("/dev/vfio/vfio rw", False),
    "DeviceAllow=char-vfio* rw": ("char-vfio* rw", False),
    "DeviceAllow=/dev/kmsg r": ("/dev/kmsg r", False),
}


def systemd(guest: Guest) -> Inside:
    """Boot it; returns what runs commands beside it."""
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("no systemd here (Debian: systemd)")
    first = guest.start(["sh", "-ec", BOOT])
    children = f"/proc/{first.pid}/task/{first.pid}/children"
    running = f"grep -q systemd /proc/$(cut -d' ' -f1 {children})/cmdline"
    wait_until(lambda: guest.run(["sh", "-c", running], check=False).status == 0)
    pid = guest.get(children).decode().split()[0]

    def inside(*argv: str, check: bool = True) -> Result:
        enter = ["nsenter", "--target", pid, "--pid", "--mount", "sh", "-c", f'cd {TREE} && exec "$@"', "sh"]
        return guest.run([*enter, *argv], check=check, timeout=SLOW)

    wait_until(lambda: inside("systemctl", "is-system-running", check=False).stdout == "running\n", 240)
    inside("systemctl", "start", "sysinit.target", "--job-mode=ignore-dependencies")  # the guest has done all that
    return inside


def probed(inside: Inside, group: str, without: str = "") -> dict[str, bool]:
    """What a service may do that has the helper's unit, but for one line."""
    unit = inside("cat", "/etc/systemd/system/ixy-vfio-helper.service").stdout
    assert unit.count(f"\n{without}\n") == 1 or not without
    uts = inside("stat", "-Lc", "%i", "/proc/1/ns/uts").stdout.strip()
    program = Path(unit_probe.__file__)
    kept = [line for line in unit.splitlines() if line != without and not line.startswith(("Exec", "Requires="))]
    start = f"ExecStart=/usr/bin/python3 -I -S {PROBE}.py {PROBE}.json {uts} {group}"
    lines = "\n".join(kept).replace("[Service]", f"[Service]\nType=oneshot\n{start}")
    inside(
        "sh",
        "-c",
        f"cp {program} {PROBE}.py; printf '%s\n' \"$1\" > /run/systemd/system/ixy-probe.service",
        "sh",
        lines,
    )
    inside("sh", "-c", f"rm -f {PROBE}.json; systemctl daemon-reload; systemctl start ixy-probe.service")
    found: dict[str, bool] = json.loads(inside("cat", f"{PROBE}.json").stdout)
    return found


def lines_of_the_unit(inside: Inside, group: str) -> None:
    """Each line that is tried refuses, or allows, just what it says."""
    whole = probed(inside, group)
    assert whole == {
        "MemoryDenyWriteExecute": False, "LockPersonality": False, "ProtectHostname": False, "ProcSubset": False,
        "/dev/vfio/vfio rw": True, "char-vfio* rw": True, "/dev/kmsg r": True, "/dev/kmsg w": False,
    }  # fmt: skip
    for line, (what, becomes) in TRIED.items():
        assert probed(inside, group, line) == whole | {what: becomes}, line
    inside("sh", "-c", f"rm -f {PROBE}.* /run/systemd/system/ixy-probe.service; systemctl daemon-reload")


@in_guest(OWN)
def test_the_service_leases_from_its_sandbox(guest: Guest) -> None:
    load(guest, "igb")
    open_python(guest)
    nic = guest.address("nic0")
    wait_until(lambda: bool(interface(guest, nic)))
    inside = systemd(guest)
    setup = [*SETUP, nic, "--user", str(USER), "--other", "--hugepages", "4"]
    assert "done:    systemctl daemon-reload; systemctl enable --now ixy-vfio-helper.socket" in inside(*setup).stdout
    again = inside(*setup).stdout
    assert "done:" not in again
    service = "ixy-vfio-helper.service"
    assert inside("systemctl", "is-active", service, check=False).stdout == "inactive\n"
    assert inside(sys.executable, "-c", LEASE, nic, str(USER)).stdout == f"{nic} {2 << 20} {0:016x}\n"
    assert inside("systemctl", "is-active", service).stdout == "active\n"
    pid = inside("systemctl", "show", "--property=MainPID", "--value", service).stdout.strip()
    status = dict(
        line.split(":\t", 1) for line in inside("cat", f"/proc/{pid}/status").stdout.splitlines() if ":\t" in line
    )
    assert (status["CapEff"], status["CapBnd"]) == (f"{1 << 34:016x}",) * 2  # CAP_SYSLOG
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    lines_of_the_unit(
        inside, inside("readlink", f"/sys/bus/pci/devices/{nic}/iommu_group").stdout.split("/")[-1].strip()
    )
    inside(*SETUP, "--undo")
    assert "not be found" in inside("systemctl", "status", "ixy-vfio-helper.socket", check=False).stderr
    assert guest.run(["ls", "-d", *LEFT, f"/etc/systemd/system/{service}"], check=False).stdout == ""
    assert interface(guest, nic) != {}
