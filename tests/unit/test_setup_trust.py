"""Who could change what setup runs and installs into: nobody but root, or it refuses."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ixy_vfio_setup import trust

from tests.unit.setup_machine import NIC, Machine

TOP = Path(__file__).parents[2]
ME = frozenset({os.geteuid()})
NOBODY = 65534


def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir(mode=0o755)
    (folder / "a.py").write_text("")
    (folder / "a.py").chmod(0o644)
    return folder


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: None, ""),
        (lambda folder: (folder / "a.py").chmod(0o666), "everybody may write {}/a.py"),
        (lambda folder: folder.chmod(0o777), "everybody may write {}"),
        (lambda folder: folder.chmod(0o1777), "everybody may write {}"),
        (lambda folder: folder.parent.chmod(0o777), "everybody may write {parent}"),
        (lambda folder: folder.parent.chmod(0o1777), ""),  # as /tmp: nobody can put another folder in its place
        (lambda folder: (folder / "b").symlink_to("/etc"), "{}/b is a symbolic link"),
    ],
)
def test_who_can_change_the_code(tmp_path: Path, change: Callable[[Path], None], text: str) -> None:
    folder = tree(tmp_path)
    change(folder)
    assert trust.strangers([folder], ME, tmp_path) == text.format(folder, parent=tmp_path)
    tmp_path.chmod(0o700)


def test_code_of_another_owner(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    owner = trust.uid_name(os.geteuid())
    assert trust.strangers([folder], frozenset({4242}), tmp_path) == f"{folder} belongs to {owner}"
    assert trust.strangers([folder / "missing"], ME, tmp_path) == ""


def test_a_group_that_others_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path)
    folder.chmod(0o775)
    monkeypatch.setattr(trust, "members", lambda gid: set(ME))  # each user's own group, as many systems make it
    assert trust.strangers([folder], ME, tmp_path) == ""
    monkeypatch.setattr(trust, "members", lambda gid: {*ME, 4242})
    assert trust.strangers([folder], ME, tmp_path) == f"group {folder.stat().st_gid} may write {folder}"


def test_members_of_a_group() -> None:
    assert 0 in trust.members(0)
    assert trust.members(987654) == set()


def test_setup_refuses_code_that_others_can_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = Machine(tmp_path)
    (system.tree / "helper/ixy_vfio_helper/__main__.py").chmod(0o666)
    assert system.setup(NIC, "--user", "1000") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"setup: everybody may write {system.tree}/helper/ixy_vfio_helper/__main__.py; root runs and"
    )
    assert system.changes == 0


def _acl(path: Path) -> None:
    """uid 4242 may write; the mode's group bits are the mask (linux/posix_acl_xattr.h)."""
    entries = [(1, 7, -1), (2, 7, 4242), (4, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", value)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")


def test_an_access_control_list_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path)
    monkeypatch.setattr(trust, "members", lambda gid: set(ME))  # nobody else by the mode alone
    _acl(folder)
    assert trust.strangers([folder], ME, tmp_path) == f"an access control list lets others write {folder}"


@pytest.mark.parametrize("kind", ["absolute", "relative", "through another link"])
def test_where_a_link_on_the_way_leads(tmp_path: Path, kind: str) -> None:
    """/usr/local/lib may well be a link of root's; but to where only root writes."""
    home, lib = tmp_path / "home", tmp_path / "local/lib"
    (home / "lib/deep").mkdir(parents=True)
    lib.parent.mkdir()
    match kind:
        case "absolute":
            lib.symlink_to(home / "lib")
        case "relative":
            lib.symlink_to("../home/lib")
        case _:
            (home / "hop").symlink_to("lib")
            lib.symlink_to("../home/hop")
    for path in (tmp_path, home, home / "lib", home / "lib/deep", lib.parent):
        path.chmod(0o755)
    assert trust.strangers_to([lib / "deep"], ME | {0}, tmp_path) == ""
    home.chmod(0o777)
    assert trust.strangers_to([lib / "deep"], ME | {0}, tmp_path) == f"everybody may write {home}"
    home.chmod(0o755)
    (home / "lib").chmod(0o777)
    assert trust.strangers_to([lib / "deep"], ME | {0}, tmp_path) == f"everybody may write {home / 'lib'}"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert trust.strangers_to([tmp_path / "a/c"], ME, tmp_path) == ""


PLACES = ["usr/local", "usr/local/lib", "usr/local/sbin", "usr/local/lib/ixy_vfio",
          "usr/local/lib/ixy_vfio/ixy_vfio_helper", "etc/ixy_vfio", "var/lib/ixy_vfio", "run/ixy_vfio",
          "etc/systemd/system", "etc/systemd/system/ixy-vfio-helper.service.d"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("undo", [False, True])
def test_setup_refuses_places_of_others(
    tmp_path: Path, place: str, undo: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it installs into, and whose records it undoes: whoever can write them is root otherwise."""
    system = Machine(tmp_path)
    system.at(place).mkdir(parents=True, exist_ok=True)
    system.at(place).chmod(0o777)
    (system.at("var/lib/ixy_vfio")).mkdir(exist_ok=True)
    record = {"kind": "file", "device": "", "path": "/etc/victim", "before": "mine", "mode": 0o644}
    (system.at("var/lib/ixy_vfio/setup.json")).write_text(json.dumps([record]))
    assert system.setup(*(["--undo"] if undo else [NIC, "--user", "1000"])) == 2
    assert capsys.readouterr().err == (
        f"setup: everybody may write {system.at(place)}; root's programs and records lie there: look who made it, then "
        "chown root, chmod go-w\n"
    )
    assert (system.changes, system.at("etc/victim").exists()) == (0, False)


@pytest.mark.parametrize("place", ["usr/local/lib/ixy_vfio", "etc/ixy_vfio", "var/lib/ixy_vfio"])
def test_setup_does_not_install_through_a_link(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    system = Machine(tmp_path)
    (tmp_path / "home").mkdir()
    system.at(place).symlink_to(tmp_path / "home")
    assert system.setup(NIC, "--user", "1000") == 2
    assert capsys.readouterr().err.startswith(f"setup: {system.at(place)} is a symbolic link; root's programs")
    assert list((tmp_path / "home").iterdir()) == []


def test_a_file_of_somebody_else_among_the_installed_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = Machine(tmp_path)
    assert system.setup(NIC, "--user", "1000") == 0
    system.at("usr/local/lib/ixy_vfio/ixy_vfio_helper/server.py").write_text("")
    system.at("usr/local/lib/ixy_vfio/ixy_vfio_helper/server.py").chmod(0o666)
    capsys.readouterr()
    assert system.setup("--undo") == 2
    assert "setup: everybody may write" in capsys.readouterr().err
