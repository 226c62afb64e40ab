"""Locks of root's processes: nobody else can take one, whoever waits is told for whom, links are not followed."""

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ixy_vfio_helper import locks
from ixy_vfio_helper.claims import Claims, Ledger
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.server import listen
from ixy_vfio_setup.journal import DIRECTORY, LOCK, Journal

from tests.unit.setup_machine import Machine

A = "0000:03:00.0"
SHARED = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)


@pytest.mark.timed
def test_a_lock_has_one_holder_who_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert locks.holder(path) is None
    held = locks.take(path, "process 7")
    assert held is not None
    assert path.stat().st_mode == 0o100600
    assert not os.get_inheritable(held)
    assert (locks.take(path, "process 8"), locks.holder(path)) == (None, "process 7")
    begun = time.monotonic()
    with pytest.raises(locks.Held, match=f"^{path}: held by process 7; that must end first$"):
        locks.wait(path, "process 8", 0.3)
    assert 0.3 <= time.monotonic() - begun < 5
    threading.Timer(0.2, os.close, [held]).start()
    waited = locks.wait(path, "process 8", 20)
    assert locks.holder(path) == "process 8"
    os.close(waited)
    assert locks.holder(path) is None


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        f"import os, sys; sys.path.append({str(Path(locks.__file__).parents[1])!r}); from pathlib import Path\n"
        f"from ixy_vfio_helper import locks; locks.take(Path({str(path)!r}), 'a child'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert path.read_text() == "a child\n"
    assert locks.holder(path) is None
    fd = locks.take(path, "me")
    assert fd is not None
    os.close(fd)


def test_a_lock_that_was_removed_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes it; meanwhile somebody had opened it, who would hold what nobody else finds."""
    path = tmp_path / "lock"
    opened = locks._open

    def removed_meanwhile(name: Path, flags: int) -> int:
        monkeypatch.setattr(locks, "_open", opened)
        fd = opened(name, flags)
        path.unlink()
        return fd

    monkeypatch.setattr(locks, "_open", removed_meanwhile)
    fd = locks.take(path, "me")
    assert fd is not None
    assert os.fstat(fd).st_ino == path.stat().st_ino
    os.close(fd)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o640, 0o620])
def test_a_lock_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "lock"
    path.touch()
    path.chmod(mode)
    for look in (lambda: locks.take(path, "me"), lambda: locks.holder(path)):
        with pytest.raises(PermissionError, match="others can open this lock; remove it"):
            look()


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_lock_behind_a_link_is_refused(tmp_path: Path, target: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "lock"
    if target == "there":
        victim.write_text("as it was")
        victim.chmod(0o600)
    path.symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        locks.take(path, "me")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        locks.holder(path)
    assert (victim.read_text() if victim.exists() else "") == ("as it was" if target == "there" else "")


def test_nothing_is_published_through_a_link(tmp_path: Path) -> None:
    """The device is free afterwards, and what the link leads to is as it was."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    claims = Claims(tmp_path / "leases")
    for name in ("lease", "ledger"):
        (claims.directory / f"{A}.{name}").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        claims.claim(A, 1000)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        Ledger(claims.directory, A)
    assert claims.holder(A) is None
    assert victim.read_text() == "as it was"


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "locks"
    match kind:
        case "link":
            (tmp_path / "other").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "other")
        case "file":
            path.touch(0o600)
        case _:
            path.mkdir()
            path.chmod(0o750)
    with pytest.raises(PermissionError, match=f"must be a directory of uid {os.geteuid()}, mode 700; remove it"):
        locks.make_directory(path, 0o700)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_directories_have_their_modes_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Claims(tmp_path / "leases")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "leases", tmp_path / "leases/locks")]
    assert modes == [0o755, 0o700]


def test_what_is_published_of_a_lease_is_no_lock(tmp_path: Path) -> None:
    """A shared lock on each file that others can read: neither the lease nor who asks for it sees anything of them."""
    claims = Claims(tmp_path)
    first = claims.claim(A, 1000)
    assert first is not None
    os.close(first)
    readable = [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o044]
    assert readable == [tmp_path / f"{A}.lease"]
    blocking = os.open(readable[0], os.O_RDONLY)
    fcntl.fcntl(blocking, fcntl.F_OFD_SETLK, SHARED)
    fcntl.flock(blocking, fcntl.LOCK_SH)
    assert claims.holder(A) is None
    second = claims.claim(A, 1001)
    assert second is not None
    assert claims.holder(A) == (1001, os.getpid())
    os.close(second)
    os.close(blocking)


def test_whoever_locks_setup_s_directory_keeps_nobody_from_it(tmp_path: Path) -> None:
    system = Machine(tmp_path)
    system.make_directory(DIRECTORY)
    blocking = os.open(system.at(DIRECTORY), os.O_RDONLY)
    fcntl.flock(blocking, fcntl.LOCK_SH)
    with Journal(system):
        assert system.at(LOCK).stat().st_mode == 0o100600
        with pytest.raises(Refusal, match=rf"^another setup is at work \(process {os.getpid()}\); wait for its end$"):
            Journal(system).__enter__()
    assert not system.at(DIRECTORY).exists()
    os.close(blocking)


def test_a_socket_is_served_once(tmp_path: Path) -> None:
    path = tmp_path / "helper.sock"
    listener, lock = listen(path, 0o666)
    assert (tmp_path / "helper.sock.lock").stat().st_mode == 0o100600
    with pytest.raises(Refusal, match=rf"another helper serves this socket \(process {os.getpid()}\); stop it first"):
        listen(path, 0o666)
    listener.close()
    os.close(lock)
    (tmp_path / "helper.sock.lock").unlink()
    (tmp_path / "helper.sock.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(Refusal, match="Too many levels of symbolic links"):
        listen(path, 0o666)
    assert not (tmp_path / "victim").exists()
