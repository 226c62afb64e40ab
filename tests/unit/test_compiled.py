"""Where compiled code is kept: see also the tests of the forwarding loop, which load it."""

import os
import time
from pathlib import Path

import pytest

from ixy_vfio.core import compiled

DAY = 86400


def test_code_that_nobody_has_loaded_for_a_month_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ages = {"0" * 24: 31, "1" * 24: 29, "qemu-11.1": 99, "kvm": 99}  # days; the last two are of others
    for name, days in ages.items():
        (tmp_path / "ixy_vfio" / name).mkdir(parents=True)
        (tmp_path / "ixy_vfio" / name / "file").touch()
        os.utime(tmp_path / "ixy_vfio" / name, (time.time() - days * DAY,) * 2)
    directory = compiled.cache_directory.__wrapped__(Path(compiled.__file__))
    assert directory is not None
    assert {path.name for path in directory.parent.iterdir()} == {"1" * 24, "qemu-11.1", "kvm", directory.name}
    os.utime(directory, (0, 0))
    assert compiled.cache_directory.__wrapped__(Path(compiled.__file__)) == directory
    assert time.time() - directory.stat().st_mtime < DAY
