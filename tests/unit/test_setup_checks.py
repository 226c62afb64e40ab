"""What setup looks at before it changes anything, and the real means by which it does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_setup import look, machine
from ixy_vfio_setup.journal import Journal
from ixy_vfio_setup.system import SetupError, System

from tests.unit.setup_machine import NIC, Machine

TOP = Path(__file__).parents[2]
ME = frozenset({os.geteuid()})
NOBODY = 65534


def lacking(tmp_path: Path, change: Callable[[Machine], object]) -> list[str]:
    system = Machine(tmp_path)
    system.at("sys/bus/pci/drivers/vfio-pci").mkdir()
    change(system)
    return machine.missing(system)


def no_groups(system: Machine, line: str = "ro", cpu: str = "GenuineIntel", folder: bool = False) -> None:
    shutil.rmtree(system.at("sys/kernel/iommu_groups"))
    if folder:  # a kernel with the code for it makes this
        system.at("sys/kernel/iommu_groups").mkdir()
    system.at("proc/cmdline").write_text(line)
    system.at("proc/cpuinfo").write_text(f"vendor_id : {cpu}\n")


def not_remapped(system: Machine, line: str = "ro") -> None:
    system.at("proc/interrupts").write_text(" 24: PCI-MSIX eth0\n")
    system.at("proc/cmdline").write_text(line)


def named_remapped(system: Machine) -> None:
    system.at("proc/interrupts").write_text(" 24:  7  PCI-MSIX-0000:03:00.0  0-edge  IR-PCI-MSI\n")


def unsafe(system: Machine, says: str = "Y") -> None:
    path = system.at("sys/module/vfio/parameters")
    path.mkdir(parents=True)
    (path / "enable_unsafe_noiommu_mode").write_text(f"{says}\n")


HOW = "edit GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and restart"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: None, []),
        (no_groups, ["no IOMMU: turn on VT-d in the firmware's setup, and add intel_iommu=on to the kernel command "
                     f"line: {HOW}"]),
        (lambda s: no_groups(s, cpu="AuthenticAMD", folder=True),
         ["no IOMMU: turn on IOMMU (AMD-Vi) in the firmware's setup, and restart"]),
        (lambda s: no_groups(s, "ro intel_iommu=off quiet"),
         [f"no IOMMU: remove intel_iommu=off from the kernel command line: {HOW}"]),
        (not_remapped, ["interrupts are not remapped, so a device could forge them; turn on x2APIC and interrupt "
                        "remapping (VT-d, AMD-Vi) in the firmware's setup"]),
        (named_remapped, ["interrupts are not remapped, so a device could forge them; turn on x2APIC and "
                                       "interrupt remapping (VT-d, AMD-Vi) in the firmware's setup"]),
        (lambda s: not_remapped(s, "intremap=off"),
         ["interrupts are not remapped, so a device could forge them; remove intremap=off from the kernel command "
          f"line: {HOW}"]),
        (lambda s: unsafe(s, "N"), []),
        (unsafe, ["VFIO's unsafe no-IOMMU mode is on; remove vfio.enable_unsafe_noiommu_mode, and restart"]),
    ],
)  # fmt: skip
def test_what_a_machine_lacks(tmp_path: Path, change: Callable[[Machine], object], text: list[str]) -> None:
    assert lacking(tmp_path, change) == text


def test_a_kernel_without_vfio_pci(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = Machine(tmp_path)
    system.fault = (0, SetupError("modprobe: no such module"))
    no_groups(system)
    assert system.setup(NIC, "--user", "1000") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:24] for line in lines] == ["setup: no IOMMU: turn on", "setup: this kernel has no"[:24]]
    assert lines[1].endswith("vfio-pci; install all modules of its package (CONFIG_VFIO_PCI)")


FALSE = "install vfio-pci /bin/false\n"
BANS: list[tuple[dict[str, str], str, list[str]]] = [
    ({}, "ro", []),
    ({"etc/modprobe.d/no.conf": FALSE}, "ro",
     ["/etc/modprobe.d/no.conf forbids module vfio_pci (install vfio-pci /bin/false): remove that line"]),
    ({"lib/modprobe.d/no.conf": "# x\n  install  vfio_iommu_type1 \\\n true\n"}, "ro",
     ["/lib/modprobe.d/no.conf forbids module vfio_iommu_type1 (install vfio_iommu_type1 true): remove that line"]),
    ({"lib/modprobe.d/no.conf": FALSE, "etc/modprobe.d/no.conf": ""}, "ro", []),  # hidden
    ({"etc/modprobe.d/no.conf": "install vfio-pci /sbin/modprobe --ignore-install vfio-pci\nblacklist vfio-pci\n"
                                "install nouveau /bin/false\ninstall\n#" + FALSE,
      "etc/modprobe.d/old.bak": FALSE}, "ro", []),
    ({}, "ro module_blacklist=nouveau,vfio-pci",
     ["the kernel command line forbids module vfio_pci (module_blacklist=nouveau,vfio-pci): remove it, " + HOW]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "line", "expected"), BANS)
def test_a_module_that_is_forbidden(
    tmp_path: Path, files: dict[str, str], line: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    system = Machine(tmp_path)
    for name, text in files.items():
        system.at(name).parent.mkdir(parents=True, exist_ok=True)
        system.at(name).write_text(text)
    system.at("proc/cmdline").write_text(line)
    assert machine.missing(system) == expected
    assert system.setup(NIC, "--user", "1000", "--dry-run") == (2 if expected else 0)
    assert capsys.readouterr().err == "".join(f"setup: {line}\n" for line in expected)
    for name in machine.MODULES:  # what is loaded is not asked for
        system.at(f"sys/module/{name}").mkdir(parents=True)
    assert machine.missing(system) == []


def fake_check(tmp_path: Path, program: str) -> Path:
    """A tree whose .venv/bin/python says what the check is to say."""
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{program}\n")
    for path in (python, *list(python.parents)[:3]):
        path.chmod(0o755)
    return tmp_path


def test_the_check_is_read_as_data_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # without root: one namespace, nothing to drop
    said = (
        '{"address": "x", "reasons": [{"kind": "up", "interface": "e", "text": "e\\u001b[2J is up\\n"}], '
        '"lost": ["traffic\\tcontrol"], "interfaces": [{"name": "e", "index": 2}]}'
    )
    found = look.look(fake_check(tmp_path, f"cat <<'EOF'\n{said}\nEOF\nexit 2"), NIC)
    assert found == look.Found(["e?[2J is up?"], ["traffic?control"])


def test_the_check_is_told_of_the_ssh_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(look, "ssh_connection", lambda: "10.0.0.9 1 10.0.0.1 22")
    program = 'echo "{\\"reasons\\": [{\\"text\\": \\"$SSH_CONNECTION\\"}], \\"lost\\": [], \\"interfaces\\": []}"'
    assert look.look(fake_check(tmp_path, program), NIC).reasons == ["10.0.0.9 1 10.0.0.1 22"]


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("exit 1", "exit status 1; can that user read"),
        ('echo \'{"reasons": [], "interfaces": []}\'; exit 1', "exit status 1; can that user read"),
        ("echo no module >&2; exit 1", "no module; can that user read"),
        ("echo '[]'", "exit status 0"),
        ('echo \'{"reasons": []}\'', "said nothing that makes sense"),
        ('echo \'{"reasons": [], "interfaces": []}\'', "sense"),
        ('echo \'{"reasons": [], "lost": 5, "interfaces": []}\'', "sense"),
        ('echo \'{"reasons": [], "lost": [], "interfaces": [{"name": "e", "index": "x"}]}\'', "sense"),
    ],
)  # fmt: skip
def test_a_check_that_fails_refuses(tmp_path: Path, program: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refusal, match=f"^cannot find out who uses the NIC.*{text}"):
        look.look(fake_check(tmp_path, program), NIC)


def test_text_of_a_stranger_is_one_short_line() -> None:
    assert look.clean("a\nb\t\x1b[1m\u202e\u00e9" + "x" * 400) == "a?b??[1m?\u00e9" + "x" * 290


def test_without_the_virtual_environment_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="run scripts/venv first, not as root"):
        look.look(tmp_path, NIC)


@pytest.mark.root  # it shows how root gives its rights up
def test_root_runs_the_check_without_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(look, "namespaces", lambda: [])
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    words = "$(id -u) $(id -G) $(grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | cut -f2 | tr '\\n' ' ')$HOME"
    said = f'echo "{{\\"reasons\\": [{{\\"text\\": \\"{words}\\"}}], \\"lost\\": [], \\"interfaces\\": []}}"'
    found = look.look(fake_check(tmp_path, said), NIC)
    none = "0" * 16
    assert found.reasons == [f"{NOBODY} {NOBODY} {none} {none} 1 "]


def test_who_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for uid, gid, expected in (("1000", "1001", (1000, 1001)), ("0", "0", look.NOBODY), ("x", "1", look.NOBODY)):
        monkeypatch.setenv("SUDO_UID", uid)
        monkeypatch.setenv("SUDO_GID", gid)
        assert look.caller() == expected


def test_the_ssh_session_is_found_although_sudo_hides_it() -> None:
    program = (
        f"import sys; sys.path.append('{TOP}/helper'); import ixy_vfio_setup.look as look; print(look.ssh_connection())"
    )
    argv = ["env", "SSH_CONNECTION=10.0.0.9 1 10.0.0.1 22", "sh", "-c",
            f'env -u SSH_CONNECTION {sys.executable} -I -S -B -c "{program}"; true']  # fmt: skip
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "10.0.0.9 1 10.0.0.1 22\n"


def test_one_setup_at_a_time(tmp_path: Path) -> None:
    system = Machine(tmp_path)
    with Journal(system), pytest.raises(Refusal, match="another setup is at work"), Journal(system):
        pass
    assert not system.at("var/lib/ixy_vfio").exists()


def test_of_equal_records_the_newest_is_dropped(tmp_path: Path) -> None:
    system = Machine(tmp_path)
    one, other = {"kind": "file", "device": "", "path": "/a"}, {"kind": "file", "device": "", "path": "/b"}
    with Journal(system) as journal:
        for record in (one, other, one):
            journal.add(record)
        journal.drop(dict(one))
        assert journal.records == Journal(system).records == [one, other]


def test_how_files_are_written_and_directories_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, file = System(tmp_path, os.geteuid()), tmp_path / "etc/x"
    system.make_directory("/etc")
    for mode in (0o644, 0o755):
        system.write_file("/etc/x", f"{mode}", mode)
        assert (file.read_text(), file.stat().st_mode) == (f"{mode}", 0o100000 | mode)
    owners: list[int] = []
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: owners.append(uid))
    monkeypatch.setattr(os, "rename", lambda old, new: os.stat(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        system.write_file("/etc/x", "new", 0o644)
    monkeypatch.undo()
    assert owners == [os.geteuid()]
    assert [path.name for path in file.parent.iterdir()] == ["x"]
    assert (file.read_text(), file.stat().st_mode) == (f"{0o755}", 0o100755)  # as it was
    assert not system.remove_directory("/etc")
    system.remove_file("/etc/x")
    (tmp_path / "etc/__pycache__").mkdir()
    assert system.remove_directory("/etc")
    assert not file.parent.exists()
    assert system.remove_directory("/etc")


def test_commands_that_fail(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert system.run(["sh", "-c", "echo $LC_ALL"]) == "C.UTF-8\n"
    with pytest.raises(SetupError, match=r"^sh -c echo a; echo b >&2; exit 3: b$"):
        system.run(["sh", "-c", "echo a; echo b >&2; exit 3"])
    with pytest.raises(SetupError, match="no-such-command: there is no such command"):
        system.run(["no-such-command"])


LISTEN = (
    "import socket, sys, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1]); "
    "s.listen(); time.sleep(60)"
)


def test_a_process_in_the_background_is_found_by_its_socket_and_ended(tmp_path: Path) -> None:
    system = System(tmp_path)
    socket = tmp_path / "s"
    assert system.listener("/s") == 0
    system.start([sys.executable, "-c", LISTEN, str(socket)], "/log", "/s")
    pid = system.listener("/s")
    assert LISTEN.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    system.end(pid)
    assert system.listener("/s") == 0
    with pytest.raises(SetupError, match=r"did not start \(status 1\); see /log"):
        system.start([sys.executable, "-c", "print(1 / 0)"], "/log", "/other")
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


def test_a_process_that_is_slow_is_not_said_to_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixy_vfio_setup.system.START_DEADLINE", 0.3)
    with pytest.raises(SetupError, match=r"^sleep 60: did not start \(was not ready within 0 s\); see /log$"):
        System(tmp_path).start(["sleep", "60"], "/log", "/other")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here (Debian: systemd)")
def test_the_service_is_hardened() -> None:
    unit = TOP / "scripts/systemd/ixy-vfio-helper.service"
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-300:]
    assert "Overall exposure level for ixy-vfio-helper.service: 1.3 OK" in result.stdout


def test_the_command_runs_isolated(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit(99)\n")
    result = subprocess.run(
        [TOP / "scripts/setup", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.stdout.startswith("usage: scripts/setup")
    wrong = subprocess.run([TOP / "scripts/setup", "eth0"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "DEVICE and --user NAME are wanted" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [NIC],
        ["--user", "x"],
        ["--undo", "--force"],
        [NIC, "--user", "1000", "--memory", "0"],
        [NIC, "--user", "1000", "--hugepages", "-1"],
    ],
)
def test_wrong_arguments(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Machine(tmp_path).setup(*argv)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["eth0", "--user", "1000"], "eth0: not a PCI address like 0000:03:00.0"),
        (["09:00.0", "--user", "1000"], "0000:09:00.0: no such PCI device; see lspci -D"),
        ([NIC, "--user", "no-such-user"], "no-such-user: there is no such user; make one (adduser no-such-user)"),
        (["--undo", NIC], f"{NIC}: was not set up here; set up: nothing"),
    ],
)
def test_refused(tmp_path: Path, argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Machine(tmp_path).setup(*argv) == 2
    assert capsys.readouterr().err.startswith(f"setup: {text}")
