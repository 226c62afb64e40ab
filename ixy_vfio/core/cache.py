"""Where compiled code is kept between runs, and what happens where it cannot be: it is compiled anew, and said once."""

# mypy: disable-error-code="no-untyped-call"
# Numba's cache is untyped.

import contextlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ixy_vfio.core import compiler  # noqa: F401  # before Numba: it says why that cannot be had

# isort: split
from numba.core import config
from numba.core.caching import FunctionCache

UNUSED = 30 * 86400  # seconds after which compiled code that nobody has loaded is removed: each edit makes new one
_DIGITS = frozenset("0123456789abcdef")
_log = logging.getLogger("ixy_vfio")
_notes: list[str] = []


def notes() -> list[str]:
    """Why compiled code is not kept, if it is not: one line at most."""
    return list(_notes)


def directory(name: str) -> Path | None:
    """$XDG_CACHE_HOME/ixy_vfio/NAME (or under ~/.cache), and None, with a note, where that cannot be had.

    What is loaded from it is executed: a directory that somebody else could have written to is not used.
    """
    home = _home()
    if home is None:
        return None
    path = home / "ixy_vfio" / name
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            _remove_unused(path.parent)
        if not _of_this_user_alone(path):
            return _not_kept(f"{path}: others than this user may write there, or have")
        os.utime(path)
        if not os.access(path, os.W_OK):
            return _not_kept(f"{path}: this user may not write there")
    except OSError as error:
        return _not_kept(f"{path}: {error.strerror or error}")
    return path


def _of_this_user_alone(path: Path) -> bool:
    """Whether nobody else can have put anything there, or changed what is there, or put it in the place of another."""
    for place in (path.parent, path):
        status = place.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        if status.st_uid != os.geteuid():
            return False
    for place in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just put it into its place
            status = place.lstat()
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) | stat.S_ISDIR(status.st_mode):
                return False
    return True


def _home() -> Path | None:
    """The user's directory for caches; None, and noted, where there is none, or it is another user's, as with sudo."""
    for text in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if not os.path.isabs(text):  # as the specification wants; and "~" stays where nobody has a home
            continue
        if text != os.environ.get("XDG_CACHE_HOME") and not os.path.isdir(os.path.dirname(text)):
            return _not_kept(f"{os.path.dirname(text)}: this user's home directory is not there")  # not ours to make
        found = next(place for place in (Path(text), *Path(text).parents) if os.path.lexists(place))
        if os.geteuid() or found.stat().st_uid == 0:
            return Path(text)
        return _not_kept(f"{text}: this is root, and the directory is another user's")
    return _not_kept("this user has no home directory")


def _not_kept(why: str) -> Path | None:
    """Notes it, once; None."""
    if not _notes:
        _notes.append(
            f"compiled code is not kept ({why}), so each start takes seconds longer; let XDG_CACHE_HOME name a "
            "directory of this user with some megabytes of room"
        )
        _log.warning("ixy-vfio: note: %s", _notes[0])
    return None


def _remove_unused(home: Path) -> None:
    for path in home.iterdir():
        with contextlib.suppress(OSError):  # another process does the same, or it is somebody else's
            if len(path.name) == 24 and set(path.name) <= _DIGITS and path.lstat().st_mtime < time.time() - UNUSED:
                shutil.rmtree(path)


class _Cache(FunctionCache):
    """Numba's, for which what cannot be read or written is no error, and which knows a function by a key.

    Numba would tell functions apart by their bytes and by what they hold: functions that are linked to one, which are
    other objects in each process. What they are made of, the directory says.
    """

    def __init__(self, function: Callable[..., Any], key: str) -> None:
        super().__init__(function)
        self._key = key

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return sig, codegen.magic_tuple(), self._key

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a file that was cut or changed makes the pickle say anything
            _log.debug("%s: %s", self.cache_path, error)
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _not_kept(f"{self.cache_path}: {error.strerror or error}")


def keep(made: Any, function: Callable[..., Any], where: Path | None, key: str = "") -> None:
    """Let Numba's dispatcher, or C callback, of `function` load what is kept in `where`, and keep what it compiles."""
    if where is not None:
        config.CACHE_DIR = str(where)  # type: ignore[attr-defined]  # Numba defines it at run time
        try:
            made._cache = _Cache(function, key)
        except (OSError, RuntimeError) as error:
            _not_kept(str(error))
