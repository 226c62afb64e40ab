"""The policy file: who may have what. What is not understood gives nothing, and takes nothing from others."""

import errno
import json
import os
import pwd
import re
from pathlib import Path

import pytest
from ixy_vfio_helper.policy import Grant, PolicyError, load, parse

ALICE = '[user.1000]\ndevices = ["0000:03:00.0", "0000:03:00.1"]\nmemory_mib = 512\nleases = 2\n'


def write(directory: Path, text: str) -> Path:
    path = directory / "policy.toml"
    path.write_text(text)
    path.chmod(0o644)
    directory.chmod(0o755)
    return path


def test_a_policy(tmp_path: Path) -> None:
    path = write(tmp_path, ALICE + '[user.1001]\ndevices = ["0000:04:00.0"]\n')
    assert load(path, os.getuid()) == {
        1000: Grant(1000, frozenset({"0000:03:00.0", "0000:03:00.1"}), 512 << 20, 2),
        1001: Grant(1001, frozenset({"0000:04:00.0"}), 256 << 20, 4),
    }


def test_a_user_by_name() -> None:
    me = pwd.getpwuid(os.getuid())
    assert list(parse(f"[user.{me.pw_name}]\n", "p")[0]) == [me.pw_uid]


def test_an_empty_policy_gives_nothing() -> None:
    assert parse("", "p") == ({}, [])
    assert parse("[user.7]", "p")[0][7].devices == frozenset()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, ALICE)
    path.chmod(mode)
    with pytest.raises(PolicyError, match=r"policy.toml: must belong to root"):
        load(path, os.getuid())


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ALICE)
    tmp_path.chmod(0o777)
    with pytest.raises(PolicyError, match=f"^{tmp_path}: must belong to root"):
        load(path, os.getuid())


def test_another_owner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="must belong to root"):
        load(write(tmp_path, ALICE), os.getuid() + 1)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ALICE)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(PolicyError, match=r"link: Too many levels of symbolic links"):
        load(link, os.getuid())


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"policy.toml: No such file or directory"):
        load(tmp_path / "policy.toml", os.getuid())


def test_not_text(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match=r"policy.toml: 'utf-8' codec"):
        load(path, os.getuid())


BOB = '[user.1001]\ndevices = ["0000:04:00.0"]\n'
WHAT = "8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10"


def test_which_device_it_must_be() -> None:
    entries = [f"0000:03:00.0 {WHAT}", f"0000:03:00.1 {WHAT[:19]}", "0000:04:00.0"]
    grant = parse(f"[user.7]\nname = 'bob'\ndevices = {json.dumps(entries)}\n", "p")[0][7]
    assert grant.devices == frozenset({"0000:03:00.0", "0000:03:00.1", "0000:04:00.0"})
    assert grant.recorded == {"0000:03:00.0": WHAT, "0000:03:00.1": WHAT[:19]}


def test_what_is_no_toml_gives_nobody_anything() -> None:
    with pytest.raises(PolicyError, match=r"^p: .*at line 3.*; until that is mended, nobody gets anything$"):
        parse(BOB + "devices = ]\n", "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[group.x]\n", r"p: group: only \[user.NAME\] tables are known; it gives nothing"),
        ("[user]\nx = 3\n", r"p: user.x: there is no such user"),
        ("[user.no-such-user-here]\n", r"p: user.no-such-user-here: there is no such user"),
        ('[user."a\\u0000b"]\n', r"there is no such user"),
        ("[user.1000]\ndevice = []\n", r"user.1000.device: unknown key; there are name, devices, memory_mib, leases"),
        ('[user.1000]\ndevices = "0000:03:00.0"\n', r"p: user.1000.devices: must be a list"),
        ('[user.1000]\ndevices = ["03:00.0"]\n', r"p: user.1000.devices: '03:00.0' is not a PCI address"),
        ('[user.1000]\ndevices = ["0000:03:00.0 8086"]\n', r"devices: '0000:03:00.0 8086' is not a PCI address"),
        ('[user.1000]\ndevices = ["0000:03:00.0", "0000:03:00.0"]\n', r"devices: '0000:03:00.0' is not .* once"),
        ("[user.1000]\ndevices = [7]\n", r"p: user.1000.devices: 7 is not a PCI address"),
        ("[user.1000]\nmemory_mib = 0\n", r"p: user.1000.memory_mib: must be a whole number from 1 to 1048576"),
        ("[user.1000]\nmemory_mib = true\n", r"p: user.1000.memory_mib: must be a whole number"),
        ("[user.1000]\nmemory_mib = 1048577\n", r"p: user.1000.memory_mib: must be a whole number"),
        ("[user.1000]\nleases = 1.5\n", r"p: user.1000.leases: must be a whole number from 1 to 64"),
        ("[user.1000]\nleases = 65\n", r"p: user.1000.leases: must be a whole number from 1 to 64"),
        (f"[user.{pwd.getpwuid(0).pw_name}]\n[user.0]\n", r"p: user.0: uid 0 stands there twice"),
        ("[user.1000]\ndevices = [" + '"0000:03:00.0",' * 33 + "]\n", r"p: user.1000.devices: must be a list of"),
    ],
)  # fmt: skip
def test_what_is_not_understood_gives_that_user_nothing_and_the_others_theirs(text: str, message: str) -> None:
    for whole in (text + BOB, BOB + text):
        found, problems = parse(whole, "p")
        assert list(found) == [1001]
        assert [bool(re.search(message, problem)) for problem in problems] == [True]


def test_users_that_are_no_tables() -> None:
    assert parse("user = 3\n", "p") == ({}, ["p: user: only [user.NAME] tables are known; it gives nothing"])
    assert parse("user.1000 = 3\n", "p") == ({}, ["p: user.1000: must be a table; this user gets nothing"])


def test_a_deleted_user_takes_nobody_s_grant_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, ALICE + '[user.deleted-user]\ndevices = ["0000:04:00.0"]\n')
    assert list(load(path, os.getuid())) == [1000]
    assert caplog.messages == [f"policy: {path}: user.deleted-user: there is no such user; this user gets nothing"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_process_that_can_open_nothing_does_not_blame_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(path: Path, flags: int) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        load(tmp_path / "policy.toml", os.getuid())
