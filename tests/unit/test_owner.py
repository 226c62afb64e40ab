"""Root runs nothing that a user has installed, and makes nothing in a user's tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ixy_vfio import cli
from ixy_vfio.core import owner
from ixy_vfio.core.errors import UsageError

TOP = Path(__file__).parents[2]
USER = 4242


def somebodys(folder: Path) -> Path:
    """A directory that is not root's."""
    if os.geteuid() == 0:
        os.chown(folder, USER, USER)
    return folder


@pytest.mark.parametrize(
    ("euid", "sudo", "theirs", "refused"),
    [(0, "1000", True, True), (0, None, True, False), (0, "0", True, False), (1000, "1000", True, False),
     (0, "1000", False, False)],
)  # fmt: skip
def test_sudo_does_not_run_a_user_s_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, euid: int, sudo: str | None, theirs: bool, refused: bool
) -> None:
    monkeypatch.setattr(sys, "prefix", str(somebodys(tmp_path)) if theirs else "/usr")
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.delenv("SUDO_UID", raising=False)
    if sudo is not None:
        monkeypatch.setenv("SUDO_UID", sudo)
    if refused:
        with pytest.raises(UsageError, match=f"^{tmp_path} is .*'s, and root runs no packages that a user can change"):
            owner.refuse_a_users_packages()
    else:
        owner.refuse_a_users_packages()


def test_the_command_line_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(somebodys(tmp_path)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "1000")
    assert cli.main(["audit"]) == 2
    assert "root runs no packages that a user can change" in capsys.readouterr().err


@pytest.mark.root  # whose tree it is matters to root alone
@pytest.mark.parametrize("script", ["venv", "test", "demo", "bench", "instructions", "vm", "vm-kernel"])
def test_scripts_of_another_s_tree_do_nothing_for_root(tmp_path: Path, script: str) -> None:
    shutil.copytree(TOP / "scripts", tmp_path / "scripts")
    before = sorted(tmp_path.rglob("*"))
    os.chown(tmp_path, USER, USER)
    result = subprocess.run(["sh", tmp_path / "scripts" / script], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "run it as that user, or in a copy of root's own" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_audit_for_root_uses_no_package(tmp_path: Path) -> None:
    """By the system's Python, isolated: nothing of the environment, of site-packages or of .venv comes in."""
    (tmp_path / "json.py").write_text("raise SystemExit(99)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = [TOP / "scripts/audit"]
    result = subprocess.run([*run, "--explain", "device.ats"], capture_output=True, text=True, check=False,
                            cwd=tmp_path, env=environment)  # fmt: skip
    assert result.stdout.startswith("# device.ats: ATS, PRI and PASID are off\n"), result.stderr
    wrong = subprocess.run([*run, "--attack"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.startswith("audit: --attack needs packages")) == (2, True)


@pytest.mark.root  # others can change it only where root would have run it
def test_the_audit_for_root_refuses_code_of_others(tmp_path: Path) -> None:
    for name in ("ixy_vfio", "helper", "scripts"):
        shutil.copytree(TOP / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o755)
    (tmp_path / "ixy_vfio/core/errors.py").chmod(0o666)
    environment = {name: value for name, value in os.environ.items() if name != "SUDO_UID"}
    result = subprocess.run([tmp_path / "scripts/audit"], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2
    assert f"everybody may write {tmp_path}/ixy_vfio/core/errors.py; root runs this code" in result.stderr
