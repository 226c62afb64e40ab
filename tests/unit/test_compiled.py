"""Where compiled code is kept: see also the tests of the forwarding loop, which load it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ixy_vfio.core import cache, compiled

DAY = 86400


def test_code_that_nobody_has_loaded_for_a_month_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ages = {"0" * 24: 31, "1" * 24: 29, "qemu-11.1": 99, "kvm": 99}  # days; the last two are of others
    for name, days in ages.items():
        (tmp_path / "ixy_vfio" / name).mkdir(parents=True)
        (tmp_path / "ixy_vfio" / name / "file").touch()
        os.utime(tmp_path / "ixy_vfio" / name, (time.time() - days * DAY,) * 2)
    directory = compiled.directory_for.__wrapped__(frozenset({Path(compiled.__file__)}))
    assert directory is not None
    assert {path.name for path in directory.parent.iterdir()} == {"1" * 24, "qemu-11.1", "kvm", directory.name}
    os.utime(directory, (0, 0))
    assert compiled.directory_for.__wrapped__(frozenset({Path(compiled.__file__)})) == directory
    assert time.time() - directory.stat().st_mtime < DAY


def lay(place: Path) -> None:
    """A file of compiled code, as it is kept."""
    (place / "sub").mkdir()
    (place / "sub" / "code.nbi").touch()


def a_link_to_the_file(place: Path) -> None:
    (place / "sub" / "code.nbi").rename(place.parent / "elsewhere")
    (place / "sub" / "code.nbi").symlink_to(place.parent / "elsewhere")


def a_link_to_the_directory(place: Path) -> None:
    place.rename(place.parent / "elsewhere")
    place.symlink_to(place.parent / "elsewhere")


NOT_OF_THIS_USER_ALONE: dict[str, Callable[[Path], object]] = {
    "its group may write there": lambda place: place.chmod(0o770),
    "everybody may write there": lambda place: place.chmod(0o702),
    "its group may replace it": lambda place: place.parent.chmod(0o770),
    "everybody may replace it": lambda place: place.parent.chmod(0o1777),
    "a link to the file": a_link_to_the_file,
    "a link to the directory": a_link_to_the_directory,
}


def kept_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(cache, "_notes", [])
    return cache.directory("0" * 24)


@pytest.mark.parametrize("name", NOT_OF_THIS_USER_ALONE)
def test_code_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = kept_where(tmp_path, monkeypatch)
    assert place is not None
    lay(place)
    assert kept_where(tmp_path, monkeypatch) == place
    NOT_OF_THIS_USER_ALONE[name](place)
    assert kept_where(tmp_path, monkeypatch) is None
    assert "others than this user" in cache.notes()[0]


def test_root_keeps_nothing_in_a_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        told = list(real(self, follow_symlinks=follow_symlinks))
        told[4] = 1000  # st_uid
        return os.stat_result(told)

    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr(Path, "stat", stat)
        assert kept_where(tmp_path, patch) is None
        assert f"({tmp_path}: this is root, and the directory is another user's)" in cache.notes()[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whose", ["ixy_vfio", "the directory", "the file"])
def test_code_of_another_owner_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    """Who owns what is told by the kernel; here it tells of one of the three that it is another user's."""
    place = kept_where(tmp_path, monkeypatch)
    assert place is not None
    lay(place)
    other = {"ixy_vfio": place.parent, "the directory": place, "the file": place / "sub" / "code.nbi"}[whose]
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        told = list(real(self))
        if self == other:
            told[4] += 1  # st_uid
        return os.stat_result(told)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert kept_where(tmp_path, monkeypatch) is None
    assert "others than this user" in cache.notes()[0]
