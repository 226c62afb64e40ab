"""scripts/setup on a machine of files: what it does, that it does it once, and the way back from everywhere."""

import contextlib
import copy
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ixy_vfio_setup.bound import Bound
from ixy_vfio_setup.look import Found
from ixy_vfio_setup.system import SetupError

from tests.unit.setup_machine import HUGE, NIC, PROGRAMS, SECOND, SECOND_WHAT, WHAT, Killed, Machine

GOLDEN = Path(__file__).parent / "golden/setup_dry_run.txt"
SETUP = (NIC, "--user", "1000", "--memory", "64")


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of setups, of which none must outlive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: replacing a file waits for the disk."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=place, prefix="ixy_vfio-test-") as folder:
        yield Path(folder)


@pytest.fixture(params=["systemd", "by hand"])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    return Machine(tmp_path, request.param == "systemd")


def words(machine: Machine) -> tuple[str, ...]:
    return SETUP if machine.at("run/systemd/system").exists() else (*SETUP, "--start")


def test_a_dry_run_tells_every_step_and_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    before = machine.state()
    assert machine.setup(*SETUP, "--dry-run") == 0
    assert capsys.readouterr().out == GOLDEN.read_text()
    assert machine.state() == before
    assert machine.commands == ["modprobe --dry-run vfio-pci"]


def test_what_is_installed(machine: Machine) -> None:
    assert machine.setup(*words(machine)) == 0
    launcher = machine.at("usr/local/sbin/ixy-vfio-helper")
    assert launcher.read_text().startswith("#!/bin/sh\nexec ")
    assert launcher.read_text().endswith('-I -S -B /usr/local/lib/ixy_vfio/ixy_vfio_helper "$@"\n')
    assert launcher.stat().st_mode == 0o100755
    installed = machine.at("usr/local/lib/ixy_vfio")
    files = [path for path in sorted(installed.rglob("*")) if path.is_file()]
    assert [(str(path.relative_to(installed)), path.read_text(), f"{path.stat().st_mode:o}") for path in files] == [
        (name, f"# {name}\n", "100644") for name in PROGRAMS
    ]
    assert {f"{path.stat().st_mode:o}" for path in (installed, *installed.iterdir())} == {"40755"}
    policy = machine.at("etc/ixy_vfio/policy.toml").read_text()
    assert policy.endswith(f'\n[user.1000]\ndevices = ["{NIC} {WHAT}"]\nmemory_mib = 64\n')
    assert machine.at(f"{HUGE}/nr_hugepages").read_text() == "32\n"
    assert machine.serving
    bound = ["/usr/local/sbin/ixy-vfio-helper recover", f"/usr/local/sbin/ixy-vfio-helper bind --by setup {NIC}"]
    assert machine.commands[-2:] == bound


def test_the_second_time_changes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.setup(*words(machine)) == 0
    after = machine.state()
    machine.at(f"{HUGE}/free_hugepages").write_text("0\n")  # a lease has them
    capsys.readouterr()
    looked = machine.looked
    assert machine.setup(*words(machine)) == 0
    assert "done:" not in capsys.readouterr().out
    machine.at(f"{HUGE}/free_hugepages").write_text("32\n")
    assert machine.state() == after
    assert machine.changes == 0
    assert machine.looked == looked  # vfio-pci has it: there is no interface that anybody could use


def test_undo_leaves_nothing(machine: Machine) -> None:
    before = machine.state()
    assert machine.setup(*words(machine)) == 0
    assert machine.setup("--undo") == 0
    machine.at("proc/4711/cmdline").unlink(missing_ok=True)
    if machine.at("proc/4711").exists():
        machine.at("proc/4711").rmdir()
    assert machine.state() == before
    assert machine.setup("--undo") == 0


def changes(folder: Path, systemd: bool, *then: str) -> int:
    machine = Machine(folder, systemd)
    assert machine.setup(*words(machine)) == 0
    if then:
        assert machine.setup(*then) == 0
    return machine.changes


def without_process(state: dict[str, str]) -> dict[str, str]:
    return {name: what for name, what in state.items() if not name.startswith("proc/4711")}


@pytest.mark.parametrize("systemd", [True, False])
def test_a_failure_at_any_step_puts_everything_back(tmp_path: Path, systemd: bool) -> None:
    steps = changes(tmp_path / "count", systemd)
    assert steps > 25
    machine = Machine(tmp_path / "machine", systemd)
    before = machine.state()
    for at in range(steps):
        machine.fault = (at, SetupError("injected"))
        assert machine.setup(*words(machine)) in (1, 2), at  # 2: it was still looking
        assert machine.fault is None
        assert without_process(machine.state()) == before, at
    assert machine.setup(*words(machine)) == 0


@pytest.mark.parametrize("systemd", [True, False])
def test_killed_at_any_step_it_is_undone_or_finished_later(tmp_path: Path, systemd: bool) -> None:
    steps = changes(tmp_path / "count", systemd)
    machine = Machine(tmp_path / "machine", systemd)
    before = machine.state()
    for at in range(steps):
        for later in (["--undo"], [*words(machine)]):
            machine.fault = (at, Killed())
            with pytest.raises(Killed):
                machine.setup(*words(machine))
            assert machine.setup(*later) == 0, at
            assert machine.setup("--undo") == 0, at
            assert without_process(machine.state()) == before, at


@pytest.mark.parametrize("fault", [Killed(), OSError("injected")], ids=["killed", "failed"])
@pytest.mark.parametrize("systemd", [True, False])
def test_an_undo_that_ends_anywhere_is_finished_later(tmp_path: Path, systemd: bool, fault: BaseException) -> None:
    steps = changes(tmp_path / "count", systemd, "--undo")
    machine = Machine(tmp_path / "machine", systemd)
    before = machine.state()
    for at in range(steps):
        assert machine.setup(*words(machine)) == 0
        machine.fault = (at, copy.copy(fault))
        with contextlib.suppress(Killed):
            machine.setup("--undo")
        assert machine.setup("--undo") == 0, at
        assert without_process(machine.state()) == before, at


def test_two_devices_share_what_both_need(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    before = machine.state()
    assert machine.setup(*words(machine)) == 0
    assert machine.setup(SECOND, "--user", "1001") == 0
    assert machine.setup("--undo", "0000:09:00.0") == 2
    assert f"0000:09:00.0: was not set up here; set up: {NIC} {SECOND}" in capsys.readouterr().err
    assert machine.setup("--undo", "03:00.0") == 0
    policy = machine.at("etc/ixy_vfio/policy.toml").read_text()
    assert "[user.1001]" in policy
    assert "[user.1000]" not in policy
    assert machine.serving
    assert machine.at("usr/local/sbin/ixy-vfio-helper").exists()
    assert machine.setup("--undo", SECOND) == 0
    assert without_process(machine.state()) == before


def test_a_newer_tree_replaces_what_is_installed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    before = machine.state()
    assert machine.setup(*words(machine)) == 0
    (machine.tree / "helper/ixy_vfio_helper/__init__.py").write_text("# newer\n")
    capsys.readouterr()
    assert machine.setup(*words(machine)) == 0
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith("done")]
    assert done == ["done:    write /usr/local/lib/ixy_vfio/ixy_vfio_helper/__init__.py (mode 644)"]
    assert machine.setup("--undo") == 0
    assert without_process(machine.state()) == before


def test_after_a_restart_of_the_machine(machine: Machine) -> None:
    boot = machine.at("proc/sys/kernel/random/boot_id")
    before = machine.state()
    assert machine.setup(*words(machine)) == 0
    boot.write_text("boot-2\n")
    shutil.rmtree(machine.at("run/ixy_vfio"))
    shutil.rmtree(machine.at("sys/bus/pci/drivers/vfio-pci"))
    for name in ("nr_hugepages", "free_hugepages"):
        machine.at(f"{HUGE}/{name}").write_text("10\n")
    driver = machine.at(f"sys/bus/pci/devices/{NIC}/driver")
    driver.unlink()
    driver.symlink_to(machine.at("sys/bus/pci/drivers/ixgbe"))
    machine.serving = 0
    assert machine.setup(*words(machine)) == 0  # what did not survive is done again
    assert machine.at(f"{HUGE}/nr_hugepages").read_text() == "32\n"
    assert machine.setup("--undo") == 0
    boot.write_text("boot-1\n")
    assert without_process(machine.state()) == before


def test_a_kernel_that_has_no_memory_for_hugepages(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.give = 15
    assert machine.setup(*words(machine)) == 0
    assert "note: the kernel has 15 of 32 hugepages; 4 KiB pages take their place" in capsys.readouterr().out
    assert machine.setup("--undo") == 0
    assert machine.at(f"{HUGE}/nr_hugepages").read_text() == "10\n"


@pytest.mark.parametrize(("more", "pages"), [(("--hugepages", "100000"), 99990), (("--memory", "4096"), 2038)])
def test_more_hugepages_than_memory(
    machine: Machine, more: tuple[str, ...], pages: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = machine.state()
    assert machine.setup(*words(machine), *more) == 2
    assert capsys.readouterr().err == (
        f"setup: {pages} more hugepages of 2 MiB are {pages * 2} MiB; the machine has 2048 MiB, of which 1536 are "
        "free, and 1280 can be had: ask for fewer (--hugepages N; with 0 pages of 4 KiB take their place, more "
        "slowly)\n"
    )
    assert machine.state() == before
    assert machine.setup(*words(machine), "--hugepages", "650") == 0  # 640 more are all that can be had
    assert machine.at(f"{HUGE}/nr_hugepages").read_text() == "650\n"


def test_two_ports_in_one_group_are_told_of_before_anything_is_done(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    group = machine.at("sys/kernel/iommu_groups/7")
    (group / "devices" / SECOND).symlink_to(machine.at(f"sys/bus/pci/devices/{SECOND}"))
    machine.setup(*words(machine))
    assert capsys.readouterr().out.splitlines()[1] == (
        f"{NIC}: in one IOMMU group with {SECOND}: only one of them can be leased at a time; a setting in the firmware "
        "(ACS), or another slot, parts them"
    )


def test_the_last_word_says_which_port_cannot_be_leased_beside_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    group = machine.at("sys/kernel/iommu_groups/7")
    (group / "devices" / SECOND).symlink_to(machine.at(f"sys/bus/pci/devices/{SECOND}"))
    machine.at(f"sys/bus/pci/devices/{SECOND}/driver").unlink(missing_ok=True)
    assert machine.setup(*words(machine)) == 0
    assert f"{NIC} (not while {SECOND} is leased: they share an IOMMU group)\nUndo: " in capsys.readouterr().out


def test_a_modprobe_that_does_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    before = machine.state()
    real = machine.run
    machine.run = lambda argv: "" if list(argv) == ["modprobe", "vfio-pci"] else real(argv)  # type: ignore[method-assign]
    assert machine.setup(*words(machine)) == 1
    assert "setup: modprobe vfio-pci did nothing; `modprobe --showconfig | grep vfio`" in capsys.readouterr().err
    assert without_process(machine.state()) == before


def test_a_nic_in_use_is_refused_with_every_reason(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    before = machine.state()
    machine.found = Found(["eth0 is up", "eth0 has the address 10.0.0.1/24"])
    assert machine.setup(*words(machine)) == 2
    assert capsys.readouterr().err == (
        f"setup: {NIC}: in use: eth0 is up\nsetup: {NIC}: in use: eth0 has the address 10.0.0.1/24\n"
        f"setup: {NIC}: --force takes it all the same, and cuts this\n"
    )
    assert machine.state() == before


def test_by_force_it_tells_what_it_cuts(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.found = Found(["eth0 is up"])
    assert machine.setup(*words(machine), "--force") == 0
    assert f"{NIC}: will be cut: eth0 is up\n" in capsys.readouterr().out
    assert f"/usr/local/sbin/ixy-vfio-helper bind --down --by setup {NIC}" in machine.commands


def test_what_undo_will_not_give_back_is_told_before(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    before = machine.state()
    machine.found = Found([], ["eth0: the XDP program"])
    assert machine.setup(*words(machine)) == 2
    assert capsys.readouterr().err == (
        f"setup: {NIC}: undo will not give back: eth0: the XDP program\n"
        f"setup: {NIC}: --force takes it all the same, and cuts this\n"
    )
    assert machine.state() == before
    assert machine.setup(*words(machine), "--force") == 0
    said = capsys.readouterr().out
    assert said.index(f"{NIC}: undo will not give back: eth0: the XDP program\n") < said.index("done:")


def test_undo_tells_what_is_not_as_it_was(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.setup(*words(machine)) == 0
    machine.answer = f"{NIC}: not as it was before: eth0: the name eth0: File exists\n{NIC}: driver ixgbe\n"
    assert machine.setup("--undo") == 0
    assert f"({NIC}: not as it was before: eth0: the name eth0: File exists)\n" in capsys.readouterr().out


def test_what_force_does_not_take(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.found = Found(["eth0 is part of bond0 (bond)"])
    machine.at(f"sys/bus/pci/devices/{NIC}/net/eth0/upper_bond0").mkdir()
    assert machine.setup(*words(machine), "--force") == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"setup: {NIC}: in use: eth0 is part of bond0 (bond)",
        f"setup: {NIC}: eth0 is part of bond0; remove it there",
    ]


def test_an_edited_policy_is_left_alone(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.setup(*words(machine)) == 0
    policy = machine.at("etc/ixy_vfio/policy.toml")
    policy.write_text(policy.read_text() + "# mine\n")
    assert machine.setup(*words(machine)) == 0
    assert machine.setup(SECOND, "--user", "1001", "--memory", "32") == 2
    assert capsys.readouterr().err == (
        f'setup: /etc/ixy_vfio/policy.toml was edited, so it is yours: add "{SECOND} {SECOND_WHAT}" to '
        "devices of [user.1001], and memory_mib = 32\n"
    )
    assert machine.setup("--undo") == 0
    said = capsys.readouterr().out
    assert f"was edited and stays; {NIC} of [user.1000] is yours to remove" in said
    assert "/etc/ixy_vfio stays: there is something else in it" in said
    assert policy.read_text().endswith("# mine\n")


def test_undo_tells_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    assert machine.setup(*SETUP) == 0
    before = machine.state()
    capsys.readouterr()
    assert machine.setup("--undo", "--dry-run") == 0
    assert capsys.readouterr().out == GOLDEN.with_name("setup_undo_dry_run.txt").read_text()
    assert machine.state() == before


def test_the_journal(machine: Machine) -> None:
    assert machine.setup(*words(machine)) == 0
    journal = machine.at("var/lib/ixy_vfio/setup.json")
    assert journal.stat().st_mode == 0o100644
    kinds = [record["kind"] for record in json.loads(journal.read_text())]
    assert kinds[:3] == ["run", "module", "hugepages"]
    assert "bind" not in kinds  # that is the binder's entry, and there is no other


def test_what_somebody_bound_by_hand_stays_bound(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.run(["modprobe", "vfio-pci"])
    machine._helper(["bind", NIC])
    assert machine.setup(*words(machine)) == 0
    assert f"already: bind: /usr/local/sbin/ixy-vfio-helper bind --by setup {NIC}\n" in capsys.readouterr().out
    assert machine.setup("--undo") == 0
    said = capsys.readouterr().out
    assert f"give {NIC} back" not in said
    assert "undone:  remove /run/ixy_vfio (/run/ixy_vfio stays: a device is bound that setup did not bind)\n" in said
    assert machine.at(f"sys/bus/pci/devices/{NIC}/driver").resolve().name == "vfio-pci"


def test_a_bind_that_an_older_setup_wrote_down_is_undone(machine: Machine) -> None:
    """It had a record of its own, and the entry did not say who bound the device."""
    before = machine.state()
    assert machine.setup(*words(machine)) == 0
    records, entry = machine.at("var/lib/ixy_vfio/setup.json"), machine.at(f"run/ixy_vfio/bound/{NIC}.json")
    records.write_text(json.dumps([*json.loads(records.read_text()), {"kind": "bind", "device": NIC}]))
    old = json.loads(entry.read_text())
    del old["by"]
    entry.write_text(json.dumps(old))
    assert machine.setup("--undo") == 0
    assert without_process(machine.state()) == before


def test_a_dry_run_may_not_read_the_entries(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are root's to read: settings of an interface may be secret."""
    assert machine.setup(*words(machine)) == 0
    machine._helper(["bind", SECOND])

    def read(self: Bound, address: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), address)

    monkeypatch.setattr(Bound, "read", read)
    capsys.readouterr()
    assert machine.setup(*words(machine), "--dry-run") == 0
    assert "would:" not in capsys.readouterr().out
    assert machine.setup("--undo", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"would:   give {NIC} back to its driver")
    assert SECOND not in said
