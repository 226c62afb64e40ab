"""Leases of simulated ports, through a real helper process; the port is a stand-in that records what it is told."""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import Attach, Attached, Hello, List, Memory, Welcome

from ixy_vfio import cli
from ixy_vfio.core.errors import LeaseError, RefusedError, UsageError
from ixy_vfio.transport import wire
from ixy_vfio.transport.lease import Lease, Purpose, State
from ixy_vfio.transport.wire import Command
from tests.unit.lease_ports import IOVA, ONE, ZERO, Helper, client, helper_command, wait_until


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    one = Helper(tmp_path)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate(timeout=20)
        for port in one.ports:
            port.close()


END = ["command 0x0103", "unmap 0x1000000000 0x2000", "reset", "close"]


def test_a_lease_of_two_ports(helper: Helper) -> None:
    with Lease(helper.path) as lease:
        assert [(device.address, device.state) for device in lease.devices()] == [
            (ZERO, State.FREE), (ONE, State.FREE),
        ]  # fmt: skip
        zero, one = lease.attach(ZERO), lease.attach(ONE)
        packets = lease.memory(8192, [zero, one], Purpose.PACKETS)
        assert packets.iova == IOVA
        packets.view[:5] = b"hello"
        with mmap.mmap(helper.ports[1].memory[0], 8192) as seen:
            assert seen[:6] == b"hello\0"
        packets.close()
        lease.close()
        for port in helper.ports:
            wait_until(lambda: all(port.log[-1] == "close" for port in helper.ports))
            assert port.log == ["owner", "device only", "map 0x1000000000 0x2000", *END]
    log = helper.stop().splitlines()
    assert log == [
        f"lease of uid {os.getuid()} began: client process {os.getpid()}",
        f"uid {os.getuid()} attached {ZERO}",
        f"uid {os.getuid()} attached {ONE}",
        f"lease of uid {os.getuid()} ended: the client ended it",
    ]


def test_a_client_that_is_killed_leaves_nothing_behind_and_the_other_lease_goes_on(helper: Helper) -> None:
    with Lease(helper.path) as other, client(helper, ZERO) as process:
        other_device = other.attach(ONE)
        with pytest.raises(RefusedError, match=rf"^{ZERO}: leased by uid {os.getuid()} \(helper process \d+\)"):
            other.attach(ZERO)
        assert [device.state for device in other.devices()] == [State.YOURS, State.YOURS]
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: "close" in helper.ports[0].log)
        assert helper.ports[0].log == ["owner", "device only", "map 0x1000000000 0x2000", *END]
        assert helper.ports[0].command == 0x0103  # bus master off, everything else as it was
        assert helper.ports[1].log == ["owner", "device only"]
        wait_until(lambda: other.devices()[0].state is State.FREE)
        other.check()
        both = other.memory(4096, [other_device, other.attach(ZERO)], Purpose.PACKETS)
        assert both.iova == IOVA
        both.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_helper_ends_all_leases_in_order(helper: Helper, number: int) -> None:
    with client(helper, ZERO), Lease(helper.path) as lease:
        lease.attach(ONE)
        log = helper.stop(number)
        assert helper.process.returncode == 0
        assert helper.ports[0].log == ["owner", "device only", "map 0x1000000000 0x2000", *END]
        assert helper.ports[1].log == ["owner", "device only", "command 0x0103", "reset", "close"]
        with pytest.raises(LeaseError, match=r"^the helper ended the lease: the helper was stopped$"):
            lease.check()
    assert log.count("ended: the helper was stopped") == 2


def test_a_sealed_lease_ends_without_a_failure_and_its_ledger_is_blank(helper: Helper, tmp_path: Path) -> None:
    """The process of the lease may do little by then: all of its end must be among it."""
    ledger = tmp_path / "leases" / f"{ZERO}.ledger"
    with Lease(helper.path) as lease:
        lease.memory(8192, [lease.attach(ZERO)], Purpose.RINGS).close()
        lease.seal()
        line = ledger.read_text()
        assert line == "0x1000000000 0x2000 rw rings\n"
    assert ledger.read_text() == "\n" * len(line)
    log = helper.stop()
    assert f"lease of uid {os.getuid()} ended: the client ended it" in log.splitlines()
    assert "failed" not in log


def test_a_helper_that_is_killed_takes_its_leases_down_in_order(helper: Helper) -> None:
    with client(helper, ZERO):
        helper.process.kill()
        wait_until(lambda: "close" in helper.ports[0].log)
        assert helper.ports[0].log == ["owner", "device only", "map 0x1000000000 0x2000", *END]


def test_a_port_that_goes_away_ends_the_lease(helper: Helper) -> None:
    with Lease(helper.path) as lease:
        lease.attach(ZERO)
        helper.ports[0].hang_up()
        with pytest.raises(LeaseError, match="the device is gone: the simulated device closed the connection"):
            lease.check(wait=20.0)


def test_an_error_of_the_port_ends_the_lease_and_the_rest_is_undone(helper: Helper) -> None:
    helper.ports[0].failing = Command.DEVICE_RESET
    with Lease(helper.path) as lease:
        lease.memory(8192, [lease.attach(ZERO)], Purpose.RINGS).close()
    wait_until(lambda: "close" in helper.ports[0].log)
    assert helper.ports[0].log[3:] == [*END[:2], "DEVICE_RESET fails", "close"]
    assert f"end of lease: release of {ZERO} failed: vfio-user: DEVICE_RESET: Input/output error" in helper.stop()


def test_a_port_with_another_owner_is_not_leased(helper: Helper, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as owner:
        owner.connect(str(tmp_path / "port0.sock"))
        text = b'{"capabilities":{}}\0'
        wire.send(owner, wire.pack(1, Command.VERSION, wire.VERSION.pack(0, 1) + text))
        assert wire.receive(owner) is not None
        busy = "failed: vfio-user: VERSION: Device or resource busy"
        with Lease(helper.path) as lease, pytest.raises(LeaseError, match=busy):
            lease.attach(ZERO)


def test_what_may_not_be_had(helper: Helper, tmp_path: Path) -> None:
    with Lease(helper.path) as lease:
        with pytest.raises(RefusedError, match=r"8259:00:02\.0: the helper's policy does not give this device to uid"):
            lease.attach("8259:00:02.0")
        (tmp_path / "port1.sock").unlink()
        assert [device.address for device in lease.devices()] == [ZERO]
        with pytest.raises(RefusedError, match=f"{ONE}: no such simulated port is running"):
            lease.attach(ONE)
        with pytest.raises(RefusedError, match="memory: 4294967297 bytes asked, 4294967296 of 4294967296 left"):
            lease.memory((4 << 30) + 1, [lease.attach(ZERO)], Purpose.RINGS)


def test_so_many_leases_at_one_time_and_no_more(helper: Helper) -> None:
    with contextlib.ExitStack() as stack:
        leases = [stack.enter_context(Lease(helper.path)) for _ in range(16)]
        with pytest.raises(RefusedError, match=f"^uid {os.getuid()} has 16 leases already, as many as"):
            Lease(helper.path)
        leases[0].close()
        wait_until(lambda: _one_more(helper.path))


def _one_more(path: str) -> bool:
    with contextlib.suppress(RefusedError), Lease(path):
        return True
    return False


def test_a_second_helper_for_the_same_socket_is_refused_and_a_left_behind_socket_replaced(
    helper: Helper, tmp_path: Path
) -> None:
    second = subprocess.run(helper_command(tmp_path, 2), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert second.stderr.startswith(
        f"simulated helper: {tmp_path}/helper.sock: another helper serves this socket (process "
    )
    Lease(helper.path).close()  # the first one still does
    helper.process.kill()
    helper.process.wait(20)
    assert (tmp_path / "helper.sock").is_socket()
    with pytest.raises(UsageError, match="no helper is running there"):
        Lease(helper.path)
    third = subprocess.Popen(helper_command(tmp_path, 2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert third.stdout is not None
    assert third.stdout.readline() == "ready\n"
    Lease(helper.path).close()
    assert os.stat(helper.path).st_mode & 0o777 == 0o600
    third.terminate()
    assert third.communicate(timeout=20)[1].count("began") == 1


def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "helper.sock").mkdir()
    result = subprocess.run(helper_command(tmp_path, 1), capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"simulated helper: {tmp_path}/helper.sock: Address already in use\n"
    nowhere = helper_command(tmp_path / "nowhere", 1)
    result = subprocess.run(nowhere, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "No such file or directory" in result.stderr


def _children(helper: Helper) -> list[int]:
    pid = helper.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_descriptors_of_the_helper_stay_as_many(helper: Helper) -> None:
    def count(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    Lease(helper.path).close()  # everything stands
    wait_until(lambda: _children(helper) == [])
    before = count(helper.process.pid)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(20)
        connection.connect(helper.path)

        def ask(message: protocol.Message, sequence: int) -> tuple[protocol.Message, list[int]]:
            protocol.send(connection, message, sequence)
            received = protocol.receive(connection, protocol.REPLIES)
            assert received is not None
            return received[1:]

        assert isinstance(ask(Hello(), 1)[0], Welcome)
        (child,) = _children(helper)
        idle = count(child)
        attached, fds = ask(Attach(ZERO), 2)
        assert isinstance(attached, Attached)
        for sequence in range(3, 103):
            fds += ask(Memory(4096, 1, 1), sequence)[1]
        ask(List(0), 103)  # it closes what it passed after it has passed it
        assert count(child) == idle + 104  # the claim, the ledger, the owner's connection, the client's; its memory
        assert count(helper.process.pid) == before
        for fd in fds:
            os.close(fd)
    wait_until(lambda: helper.ports[0].log[-1] == "close")
    assert helper.ports[0].log.count("reset") == 1


def test_what_the_process_of_a_lease_has_of_its_parent(helper: Helper) -> None:
    """One end of one pipe, to be read: no listening socket, no lock, nothing that could wake or stop the parent."""

    def held(pid: int) -> dict[str, int]:
        return {os.readlink(f"/proc/{pid}/fd/{fd}"): fd for fd in map(int, os.listdir(f"/proc/{pid}/fd")) if fd > 2}

    with Lease(helper.path):
        (child,) = _children(helper)
        (pipe,) = set(held(child)) & set(held(helper.process.pid))
        assert pipe.startswith("pipe:")
        flags = Path(f"/proc/{child}/fdinfo/{held(child)[pipe]}").read_text().split("flags:")[1].split()[0]
        assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY


def test_the_list_command(helper: Helper, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with client(helper, ONE):
        assert cli.main(["list", "--helper", helper.path]) == 0
        assert capsys.readouterr().out == (
            "8259:00:00.0  8086:10fb  82599ES SFI/SFP+      driver simulated 82599  numa -  free\n"
            "8259:00:01.0  8086:10fb  82599ES SFI/SFP+      driver simulated 82599  numa -  leased by you\n"
        )
    wait_until(lambda: helper.ports[1].log[-1] == "close")
    monkeypatch.setenv("IXY_VFIO_HELPER", helper.path)
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {
        "address": ZERO, "vendor": 0x8086, "device": 0x10FB, "model": "82599ES SFI/SFP+", "driver": "simulated 82599",
        "numa": -1, "state": "free",
    }  # fmt: skip
    assert cli.main(["list", "--helper", "/nonexistent"]) == 2
    assert capsys.readouterr().err.startswith("ixy-vfio list: /nonexistent: no helper is running there; start ")
