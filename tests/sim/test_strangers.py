"""Other users of the machine: no way to the ports, by the directory, the sockets' modes, or a connection."""

import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim import private
from ixy_vfio.sim.private import private_directory
from ixy_vfio.sim.server import Server
from tests.conftest import Simulator, run

NOBODY = 65534
# With nothing of the tree: another user may not be able to read it.
CONNECT = """
import socket, sys
end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
end.settimeout(20)
try:
    end.connect(sys.argv[1])
    end.sendall(b'{"cmd": "cable", "spec": "0:pcapng:,' + sys.argv[2].encode() + b'"}\\n')
    print("answer", end.recv(100))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def loose() -> Iterator[None]:
    """The umask that takes nothing away."""
    mask = os.umask(0)
    yield
    os.umask(mask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_whatever_the_umask_only_the_user_can_open_a_socket(tmp_path: Path) -> None:
    sim = Simulator(tmp_path, 2, [], [], umask=0)
    try:
        names = sorted(path.name for path in sim.directory.iterdir() if path.is_socket())
        assert names == ["control.sock", "helper.sock", "port0.sock", "port1.sock"]
        assert [mode(sim.directory / name) for name in names] == [0o600] * 4
    finally:
        sim.stop()


def test_a_directory_that_is_made_is_private(loose: None, tmp_path: Path) -> None:
    private_directory(tmp_path / "a" / "b")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


def test_a_directory_that_others_can_write_is_refused(loose: None, tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    (tmp_path / "link").symlink_to(path)
    for bits in (0o777, 0o1777, 0o702):
        path.chmod(bits)
        for name in (path, tmp_path / "link"):
            with pytest.raises(UsageError, match=f"^everybody may write to {name}: give a directory"):
                private_directory(name)
    path.chmod(0o755)
    private_directory(path)
    tmp_path.chmod(0o777)  # who can rename it can put another in its place
    with pytest.raises(UsageError, match=f"^everybody may write to {tmp_path}, above {path}: "):
        private_directory(path)
    tmp_path.chmod(0o1777)
    private_directory(path)
    tmp_path.chmod(0o700)


def test_the_group_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    path.chmod(0o770)
    monkeypatch.setattr(private, "_members", lambda gid: {os.geteuid()})
    private_directory(path)
    monkeypatch.setattr(private, "_members", lambda gid: {os.geteuid(), NOBODY})
    with pytest.raises(UsageError, match=f"^group {path.stat().st_gid} may write to {path}: "):
        private_directory(path)


def test_the_commands_refuse_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir()
    path.chmod(0o1777)
    done = run("sim", "--dir", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ixy-vfio sim: --dir: everybody may write to {path}: give a directory that only you can write to\n"
    )
    assert list(path.iterdir()) == []


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dir"
    path.mkdir(0o700)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(UsageError, match=f"^{path} belongs to nobody: "):
        private_directory(path)
    (path / "mine").mkdir()
    with pytest.raises(UsageError, match=f"^{path}, above {path}/mine, belongs to nobody: "):
        private_directory(path / "mine")


def connect(path: Path, file: Path, server: Server, uid: int) -> str:
    """What somebody gets who connects and wants the simulator to write a file."""
    argv = ["/usr/bin/python3", "-c", CONNECT, str(path), str(file)]
    child = subprocess.Popen(argv, user=uid, group=uid, extra_groups=[], stdout=subprocess.PIPE, text=True, cwd="/")
    end = time.monotonic() + 30
    while child.poll() is None:
        server.turn()
        assert time.monotonic() < end
    return child.communicate()[0].strip()


@pytest.mark.root
def test_another_user_does_not_drive_the_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each layer alone: modes; then, with everything open to everybody, the question who it is; without, it works."""
    directory = Path(f"/tmp/ixy-strangers-{os.getpid()}")  # tmp_path lies in a directory that others cannot pass
    private_directory(directory)
    file = tmp_path / "written"
    server = Server(directory, 1)
    try:
        sockets = [directory / name for name in ("control.sock", "port0.sock")]
        assert [connect(path, file, server, NOBODY) for path in sockets] == ["PermissionError"] * 2
        directory.chmod(0o755)
        assert [connect(path, file, server, NOBODY) for path in sockets] == ["PermissionError"] * 2
        for path in sockets:
            path.chmod(0o666)
        for path in sockets:
            assert connect(path, file, server, NOBODY) in ("answer b''", "BrokenPipeError", "ConnectionResetError")
        assert list(server.notes) == ["a connection of nobody is refused: these ports are another user's"]
        assert not file.exists()
        monkeypatch.setattr("ixy_vfio.sim.server.stranger", lambda connection: "")
        assert connect(sockets[0], file, server, NOBODY) == "answer b'{}\\n'"
        assert file.exists()
    finally:
        server.close()
        directory.rmdir()


def test_a_name_that_is_a_link_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    other = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
    directory = tmp_path / "dir"
    private_directory(directory)
    (directory / "control.sock").symlink_to(other)
    with pytest.raises(UsageError, match=r"control\.sock: exists and is not a socket"):
        Server(directory, 1)
    assert other.is_socket()
