"""What of the listening process and the kernel's backend can be tested without VFIO; the rest is in tests/vm."""

import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ixy_vfio_helper import memory
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.policy import Grant, Policy, PolicyError
from ixy_vfio_helper.sandbox import Sandbox
from ixy_vfio_helper.server import MAX_LEASES, Server, activated
from ixy_vfio_locks.calls import address_of

from tests.unit.lease_support import FakeBackend

HERE = "0000:04:00.0"


def test_where_a_buffer_lies() -> None:
    made = memory.allocate(3 * 4096, huge=False)
    with mmap.mmap(made.fd, 3 * 4096) as view:
        address = address_of(view)
        span = f"{address:x}-{address + 3 * 4096:x} rw-s 00000000 "
        (line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.startswith(span)]
        assert line.split()[4] == str(os.fstat(made.fd).st_ino)
    assert f"{address:x}-" not in Path("/proc/self/maps").read_text()  # nothing kept the mapping
    os.close(made.fd)


def server(policy: Policy | PolicyError, directory: Path) -> Server:
    def read() -> Policy:
        if isinstance(policy, PolicyError):
            raise policy
        return policy

    return Server(
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), read, FakeBackend(), Claims(directory), Sandbox({})
    )


def test_who_gets_a_lease_at_all(tmp_path: Path) -> None:
    grant = Grant(1000, frozenset({HERE}), 4096, 2)
    serving = server({1000: grant}, tmp_path)
    assert serving._grant(1000) is grant
    assert serving._grant(1001) == "the helper's policy gives nothing to uid 1001; ask the administrator"
    assert serving._grant(0) == "the helper's policy gives nothing to uid 0; ask the administrator"
    serving._leases = {1: (1000, 0), 2: (7, 0), 3: (1000, 1)}
    assert serving._grant(1000) == ("uid 1000 has 2 leases already, as many as the policy allows; end one first")
    serving._leases = {pid: (7, pid) for pid in range(MAX_LEASES)}
    assert serving._grant(1000) == "the helper serves 64 leases already; try again when one has ended"
    serving.listener.close()


def test_a_broken_policy_gives_nobody_anything(tmp_path: Path) -> None:
    serving = server(PolicyError("/etc/x: line 7"), tmp_path)
    assert serving._grant(1000) == (
        "the helper's policy file has an error, so nobody gets anything; its log names the line"
    )
    serving.listener.close()


def test_socket_activation_is_for_this_process_and_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert activated() is None
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(Refusal, match="exactly one ListenSequentialPacket= socket is wanted"):
        activated()


ACTIVATED = """
import os, socket, sys
from ixy_vfio_helper.server import activated
os.dup(0)  # so that it is another one that is given
given = socket.socket(getattr(socket, sys.argv[1]), getattr(socket, sys.argv[2]))
os.dup2(given.fileno(), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
listener = activated()
assert given.fileno() != 3
print(listener.fileno(), os.get_inheritable(3), os.fstat(3).st_ino == os.fstat(given.fileno()).st_ino)
"""


@pytest.mark.parametrize(
    ("family", "kind", "said"),
    [
        ("AF_UNIX", "SOCK_SEQPACKET", "3 False True"),
        ("AF_UNIX", "SOCK_STREAM", "Refusal: socket activation: exactly one ListenSequentialPacket= socket is wanted"),
        ("AF_INET", "SOCK_DGRAM", "Refusal: socket activation: exactly one ListenSequentialPacket= socket is wanted"),
    ],
)
def test_the_socket_that_systemd_passes(family: str, kind: str, said: str) -> None:
    top = Path(memory.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", ACTIVATED, family, kind],
        capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(top)},
    )  # fmt: skip
    assert (result.stdout + result.stderr).splitlines()[-1].removeprefix("ixy_vfio_helper.monitor.") == said
