"""The service's unit file: every line has its reason here, and systemd's own judge sees each that it knows go."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "scripts/systemd/ixy-vfio-helper.service"

# Line of [Service] -> what would be without it. tests/vm/test_setup_systemd.py shows that a lease works with all of
# them, and what some of them refuse.
LINES = {
    "ExecStartPre=+/usr/bin/nsenter --net=/proc/1/ns/net -- /usr/local/sbin/ixy-vfio-helper recover": "half a bind",
    "ExecStart=/usr/local/sbin/ixy-vfio-helper serve": "nothing is served",
    "KillMode=mixed": "each lease gets SIGTERM beside its parent, and ends without having been told why",
    "TimeoutStopSec=30": "90 s until systemd kills what does not end; leases have 20",
    "LimitMEMLOCK=infinity": "without CAP_IPC_LOCK, 8 MiB can be mapped for DMA",
    "LimitNOFILE=4096": "1024 descriptors: fewer leases than the policy may give",
    "MemoryMax=75%": "what nobody thought of takes all memory of the machine",
    "OOMPolicy=continue": "the end of one process is that of all",
    "CapabilityBoundingSet=CAP_SYSLOG": "root's capabilities, until the helper itself has given them up",
    "AmbientCapabilities=": "what a manager might pass on",
    "NoNewPrivileges=yes": "a set-user-id program could get capabilities again",
    "DevicePolicy=closed": "every device node that root may open",
    "DeviceAllow=/dev/vfio/vfio rw": "no container: no lease by groups",
    "DeviceAllow=char-vfio* rw": "no group, no device: no lease",
    "DeviceAllow=/dev/iommu rw": "no lease by iommufd",
    "DeviceAllow=/dev/kmsg r": "no fault is seen",
    "ProtectSystem=strict": "root writes every file",
    "ReadWritePaths=/run/ixy_vfio": "no record of leases",
    "ProtectHome=yes": "everybody's home is read",
    "PrivateTmp=yes": "files of others in /tmp",
    "PrivateMounts=yes": "mounts that reach the host",
    "PrivateNetwork=yes": "the host's network",
    "IPAddressDeny=any": "the same, should it have a network after all",
    "RestrictAddressFamilies=AF_UNIX": "sockets of other kinds: netlink, packets, Bluetooth",
    "ProtectProc=invisible": "other processes in /proc",
    "ProcSubset=pid": "/proc/sys, /proc/kcore and the like",
    "ProtectClock=yes": "the clock is set",
    "ProtectHostname=yes": "the host's name is set",
    "ProtectControlGroups=yes": "limits of control groups are lifted, devices allowed",
    "ProtectKernelModules=yes": "modules are loaded",
    "ProtectKernelTunables=yes": "/proc/sys and /sys are written: a driver is bound, a core pattern set",
    "RestrictNamespaces=yes": "namespaces, in which root has capabilities again",
    "RestrictRealtime=yes": "a processor is held",
    "RestrictSUIDSGID=yes": "a set-user-id file is left behind",
    "RemoveIPC=yes": "System V memory is left behind",
    "LockPersonality=yes": "other ABIs, addresses that are not random",
    "MemoryDenyWriteExecute=yes": "memory that was written is executed",
    "SystemCallArchitectures=native": "calls of another ABI, past filters by number",
    "SystemCallFilter=@system-service": "every system call",
    "SystemCallFilter=~@privileged @resources": "mounts, clocks, modules, priorities",
    "SystemCallFilter=capset landlock_create_ruleset landlock_add_rule landlock_restrict_self": "leases seal less",
    "SystemCallErrorNumber=EPERM": "a refused call kills, and the device is not taken back",
    "UMask=0022": "what others may read of leases is not readable",
}
# What systemd-analyze does not judge, or judges by another line too.
NOT_JUDGED = {
    "ExecStartPre", "ExecStart", "KillMode", "TimeoutStopSec", "LimitMEMLOCK", "LimitNOFILE", "MemoryMax", "OOMPolicy",
    "DeviceAllow", "ReadWritePaths",
    "SystemCallErrorNumber", "AmbientCapabilities", "PrivateMounts", "SystemCallFilter", "UMask", "RemoveIPC",
}  # fmt: skip


def service(text: str) -> list[str]:
    lines = text.partition("[Service]\n")[2].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_line_has_its_reason() -> None:
    assert service(UNIT.read_text()) == list(LINES)


def judged(path: Path) -> list[tuple[str, bool, str]]:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--json=short", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [(one["name"], one["set"], one["exposure"]) for one in json.loads(result.stdout)]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here (Debian: systemd)")
@pytest.mark.parametrize("line", [line for line in LINES if line.partition("=")[0] not in NOT_JUDGED])
def test_a_line_less_is_seen(tmp_path: Path, line: str) -> None:
    text = UNIT.read_text()
    assert text.count(f"\n{line}\n") == 1
    changed = tmp_path / UNIT.name
    changed.write_text(text.replace(f"\n{line}\n", "\n"))
    assert judged(changed) != judged(UNIT)
