"""The listening process when something fails: one client is told why, the leases go on, and the next one is served."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ixy_vfio_helper.memory import PLACES, Account

from ixy_vfio.core.errors import RefusedError
from ixy_vfio.transport.lease import Lease, Purpose
from tests.unit.lease_ports import ZERO, Port, wait_until

# A helper for simulated ports whose second fork, or what the process of its second lease does first, fails.
FAILING = """
import errno, os, sys
from ixy_vfio.sim import lease
import resource
where, number, directory = sys.argv[1:]
parent, forks, fork, pipe = os.getpid(), [0], os.fork, os.pipe2

def fail():
    raise OSError(int(number), os.strerror(int(number))) if int(number) else MemoryError()

def failing_fork():
    forks[0] += 1
    if forks[0] == 2 and where == "fork":
        fail()
    return fork()

def failing_pipe(flags):
    if forks[0] == 2 and where == "pipe" and os.getpid() != parent:
        fail()
    return pipe(flags)

os.fork, os.pipe2 = failing_fork, failing_pipe
sys.exit(lease.main(["--dir", directory, "--ports", "1"]))
"""


@contextlib.contextmanager
def helper(directory: Path, where: str = "", number: int = 0) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-c", FAILING, where, str(number), str(directory)]
    port = Port(directory / "port0.sock")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)
            port.close()


@pytest.mark.parametrize(
    ("where", "number", "reason"),
    [
        ("fork", 12, "the helper cannot begin a lease (Cannot allocate memory); try again later"),
        ("fork", 11, "the helper cannot begin a lease (Resource temporarily unavailable); try again later"),
        ("fork", 0, "the helper cannot begin a lease (MemoryError); try again later"),
        ("pipe", 24, "the helper failed to begin a lease (Too many open files); its log says more"),
        ("pipe", 0, "the helper failed to begin a lease (MemoryError); its log says more"),
    ],
)
def test_a_lease_that_cannot_begin_is_told_why_and_the_others_go_on(
    tmp_path: Path, where: str, number: int, reason: str
) -> None:
    with helper(tmp_path, where, number) as process, Lease(str(tmp_path / "helper.sock")) as first:
        device = first.attach(ZERO)
        with pytest.raises(RefusedError) as refused:
            Lease(str(tmp_path / "helper.sock"))
        assert str(refused.value) == reason
        first.memory(4096, [device], Purpose.RINGS).close()
        with Lease(str(tmp_path / "helper.sock")) as third:
            assert [one.address for one in third.devices()] == [ZERO]
        assert process.poll() is None


def test_without_a_descriptor_left_a_client_is_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    with helper(tmp_path) as process, Lease(str(tmp_path / "helper.sock")) as first:
        device = first.attach(ZERO)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        open_now = sorted(int(name) for name in os.listdir(f"/proc/{process.pid}/fd"))
        assert open_now == list(range(len(open_now)))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (len(open_now), before[1]))
        for _ in range(3):  # it has its spare descriptor again
            with pytest.raises(RefusedError) as refused:
                Lease(str(tmp_path / "helper.sock"))
            assert str(refused.value) == ("the helper cannot accept connections (Too many open files); try again later")
        first.memory(4096, [device], Purpose.RINGS).close()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        Lease(str(tmp_path / "helper.sock")).close()
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) == len(open_now))


def test_memory_of_a_lease_whose_process_was_killed_stays_counted(tmp_path: Path) -> None:
    """Its client may have kept it, and nobody gave it back. The others have what is left."""
    gib = 1 << 30
    with helper(tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with Lease(str(tmp_path / "helper.sock")) as first:
            first.memory(8192, [first.attach(ZERO)], Purpose.RINGS).close()
            os.kill(int(children.read_text()), 9)
            wait_until(lambda: not children.read_text())
        with Lease(str(tmp_path / "helper.sock")) as second:
            device = second.attach(ZERO)
            with pytest.raises(
                RefusedError, match=f"memory: {4 * gib} bytes asked, {4 * gib - 8192} of {4 * gib} left"
            ):
                second.memory(4 * gib, [device], Purpose.RINGS)


def test_the_places_of_an_account_are_as_many_as_the_leases_of_a_user_can_be() -> None:
    from ixy_vfio_helper.policy import _LIMITS

    assert _LIMITS["leases"][1] <= PLACES == len(Account().counts())
