"""Binding on a sysfs tree that answers as the kernel does: the way there, and back after a crash anywhere."""

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from ixy_vfio_helper import locks
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_setup import bind
from ixy_vfio_setup.bind import recover, unbind
from ixy_vfio_setup.bound import Bound, Entry, Interface

from tests.unit.bind_machine import NIC, Kernel, Killed, attribute, nic, state


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path / "root", monkeypatch)


@pytest.fixture
def journal(tmp_path: Path) -> Bound:
    (tmp_path / "bound").mkdir()
    return Bound(tmp_path / "bound")


def test_bind_and_unbind(kernel: Kernel, journal: Bound) -> None:
    before = state(kernel)
    with journal:
        bind.bind(nic(kernel), journal)
        assert kernel.writes == ["driver_override=vfio-pci", f"unbind={NIC}", f"drivers_probe={NIC}"]
        assert nic(kernel).driver == "vfio-pci"
        assert json.loads((journal.directory / f"{NIC}.json").read_text()) == {
            "address": NIC, "driver": "ixgbe", "override": "",
            "interfaces": [{
                "name": "uplink0", "mtu": 9000, "up": False, "folder": "net/uplink0",
                "state": {
                    "name": "uplink0", "flags": 0x1002, "link": {}, "token": "", "altnames": [],
                    "files": {"sys/class/net/@/mtu": "9000\n"}, "ethtool": {}, "objects": [],
                    "names": {}, "index": 7, "when": 0.0,
                },
            }],
            "power": "", "by": "",
        }  # fmt: skip
        kernel.writes.clear()
        assert recover(journal, kernel.root) == {}  # a device that is bound as it should be stays so
        unbind(nic(kernel), journal)
    assert kernel.writes == [
        "driver_override=", f"unbind={NIC}", f"drivers_probe={NIC}", "eth0 down", "name=uplink0", "mtu=9000",
        "uplink0 down",
    ]  # fmt: skip
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def test_the_journal_is_one_process_s_at_a_time(journal: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.wait, "__defaults__", (0.2,))
    lock = journal.directory.with_name(f"{journal.directory.name}.lock")
    with journal:
        held = f"^{lock}: held by process {os.getpid()}; that must end first$"
        with pytest.raises(locks.Held, match=held), Bound(journal.directory):
            pass
    with Bound(journal.directory):
        pass


def test_who_locks_the_journal_s_directory_keeps_nobody_from_it(journal: Bound) -> None:
    """Anybody may: it is there to be read."""
    other = os.open(journal.directory, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with journal:
        pass
    os.close(other)


def test_an_entry_is_not_written_through_a_link(journal: Bound, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (journal.directory / f"{NIC}.new").symlink_to(victim)
    entry = Entry(NIC, "ixgbe", "", [])
    with journal:
        journal.write(entry)
    assert (victim.read_text(), journal.read(NIC)) == ("as it was", entry)


def test_an_entry_that_another_version_wrote_is_understood(kernel: Kernel, journal: Bound) -> None:
    """The helper may be replaced while a device is bound."""
    before = state(kernel)
    with journal:
        bind.bind(nic(kernel), journal)
        path = journal.directory / f"{NIC}.json"
        entry = json.loads(path.read_text()) | {"bound": True}
        del entry["power"], entry["interfaces"][0]["folder"], entry["interfaces"][0]["state"]
        path.write_text(json.dumps(entry))
        unbind(nic(kernel), journal)
    assert state(kernel) == before


@pytest.mark.parametrize("at", [0, 1])
def test_an_entry_is_there_whole_or_not_at_all(
    kernel: Kernel, journal: Bound, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed in the middle of whatever is written to the journal."""
    written: list[Path] = []
    whole = Path.write_text

    def write(path: Path, text: str) -> int:
        written.extend([path] * (path.parent == journal.directory))
        if path.parent != journal.directory or len(written) <= at:
            return whole(path, text)
        whole(path, text[: len(text) // 2])
        raise Killed

    with journal:
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(Path, "write_text", write)
            bind.bind(nic(kernel), journal)
        assert [path.name for path in written] == [f"{NIC}.new"]
        if at == 0:
            assert (kernel.writes, journal.addresses(), journal.read(NIC)) == ([], [], None)
            bind.bind(nic(kernel), journal)
        unbind(nic(kernel), journal)
    assert list(journal.directory.iterdir()) == []


def test_an_interface_that_was_up_is_up_again(kernel: Kernel, journal: Bound) -> None:
    kernel.set_interface("uplink0", 1500, True)
    with journal:
        with pytest.raises(Refusal, match=r"uplink0 is up; run: ip link set uplink0 down \(or bind --down\)"):
            bind.bind(nic(kernel), journal)
        assert kernel.writes == []
        bind.bind(nic(kernel), journal, down=True)
        assert kernel.writes[0] == "uplink0 down"
        unbind(nic(kernel), journal)
    assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 1500, True))


def test_what_does_not_come_back_is_told(kernel: Kernel, journal: Bound) -> None:
    kernel.notes = ["the route to default in table 100: File exists"]
    with journal:
        bind.bind(nic(kernel), journal)
        assert unbind(nic(kernel), journal) == ["uplink0: the route to default in table 100: File exists"]


def test_power_management_is_as_it_was(kernel: Kernel, journal: Bound) -> None:
    """vfio-pci allows runtime power management while it has a device, and forbids it when it lets go."""
    attribute(kernel, "power/control", "auto\n")
    with journal:
        bind.bind(nic(kernel), journal)
        attribute(kernel, "power/control", "on\n")
        unbind(nic(kernel), journal)
    assert kernel.writes[-1] == "control=auto"


def test_the_interface_of_a_virtio_device(kernel: Kernel, journal: Bound) -> None:
    shutil.rmtree(kernel.device() / "net")
    kernel.net = "virtio3/net"
    kernel.set_interface("uplink0", 1400, True)
    (kernel.device() / "virtio3/features").write_text("0" * 33 + "1" + "0" * 30 + "\n")  # ACCESS_PLATFORM
    before = state(kernel)
    with journal:
        with pytest.raises(Refusal, match="uplink0 is up"):
            bind.bind(nic(kernel), journal)
        bind.bind(nic(kernel), journal, down=True)
        assert state(kernel)[0] == "vfio-pci"
        unbind(nic(kernel), journal)
    assert state(kernel) == before


def test_interfaces_are_told_apart_by_their_ports(kernel: Kernel) -> None:
    """The kernel names them anew; the order of the ports stays."""
    for name, port in (("alpha", "0x1"), ("beta", "0x2")):
        for what, text in {"mtu": "1400", "flags": "0x1003", "dev_port": port}.items():
            attribute(kernel, f"net/{name}/{what}", text + "\n")
    assert bind._interfaces(nic(kernel)) == [
        Interface("uplink0", 9000, False, "net/uplink0"),
        Interface("alpha", 1400, True, "net/alpha"),
        Interface("beta", 1400, True, "net/beta"),
    ]


def test_a_device_without_a_driver_gets_none_back(kernel: Kernel, journal: Bound) -> None:
    (kernel.device() / "driver").unlink()
    shutil.rmtree(kernel.device() / "net")
    (kernel.device() / "driver_override").write_text("something\n")
    with journal:
        bind.bind(nic(kernel), journal)
        unbind(nic(kernel), journal)
    assert state(kernel)[:2] == ("", "something")


def test_a_probe_that_fails_puts_everything_back(kernel: Kernel, journal: Bound) -> None:
    kernel.set_interface("uplink0", 9000, True)
    before = state(kernel)
    kernel.refusing = "vfio-pci"
    with journal, pytest.raises(OSError, match=f"{NIC}: vfio-pci did not take the device; the kernel log says why"):
        bind.bind(nic(kernel), journal, down=True)
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def test_a_driver_that_makes_no_interface_is_waited_for_so_long(kernel: Kernel, journal: Bound) -> None:
    before = state(kernel)
    with journal:
        bind.bind(nic(kernel), journal)
        kernel.mute = True
        with pytest.raises(OSError, match=f"{NIC}: ixgbe makes no interface; see the kernel log"):
            unbind(nic(kernel), journal)
        assert journal.addresses() == [NIC]  # what is to be put back is not forgotten
        kernel.set_interface("eth0", 1500, False)  # it comes late
        assert recover(journal, kernel.root) == {NIC: []}
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def crash(kernel: Kernel, journal: Bound, at: int, back: bool) -> bool:
    """Bind (or unbind) and be killed before write number `at`; False when there are not so many."""
    kernel.set_interface("uplink0", 9000, True)
    with journal:
        if back:
            bind.bind(nic(kernel), journal, down=True)
        kernel.writes.clear()
        kernel.crash_at = at
        try:
            if back:
                unbind(nic(kernel), journal)
            else:
                bind.bind(nic(kernel), journal, down=True)
        except Killed:
            return True
        finally:
            kernel.crash_at = -1
    return False


@pytest.mark.parametrize("at", range(4))
def test_a_bind_that_is_killed_is_recovered(kernel: Kernel, journal: Bound, at: int) -> None:
    before = ("ixgbe", "(null)", ("uplink0", 9000, True))
    assert crash(kernel, journal, at, back=False)
    assert (journal.directory / f"{NIC}.json").exists()
    with journal:
        assert recover(journal, kernel.root) == {NIC: []}
        assert recover(journal, kernel.root) == {}
    assert state(kernel) == before
    assert list(journal.directory.iterdir()) == []


def test_there_are_no_more_steps_in_a_bind(kernel: Kernel, journal: Bound) -> None:
    assert not crash(kernel, journal, 4, back=False)


@pytest.mark.parametrize("at", range(7))
def test_an_unbind_that_is_killed_is_finished_later(kernel: Kernel, journal: Bound, at: int) -> None:
    assert crash(kernel, journal, at, back=True)
    with journal:
        recovered = recover(journal, kernel.root)
        if at < 2:  # the device is still vfio-pci's: it stays bound, and can be given back
            assert (recovered, nic(kernel).driver) == ({}, "vfio-pci")
            unbind(nic(kernel), journal)
        else:
            assert recovered == {NIC: []}
    assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 9000, True))
    assert list(journal.directory.iterdir()) == []


def test_there_are_no_more_steps_in_an_unbind(kernel: Kernel, journal: Bound) -> None:
    assert not crash(kernel, journal, 7, back=True)


def test_recovery_that_is_killed_is_recovered(kernel: Kernel, journal: Bound) -> None:
    for at in range(8):
        crash(kernel, journal, 3, back=False)
        kernel.writes.clear()
        kernel.crash_at = at
        with journal:
            try:
                recover(journal, kernel.root)
            except Killed:
                kernel.crash_at = -1
                assert recover(journal, kernel.root) == {NIC: []}
        kernel.crash_at = -1
        assert state(kernel) == ("ixgbe", "(null)", ("uplink0", 9000, True))


def test_a_device_that_was_unplugged_is_forgotten(kernel: Kernel, journal: Bound) -> None:
    with journal:
        bind.bind(nic(kernel), journal)
        shutil.rmtree(kernel.device())
        assert recover(journal, kernel.root) == {NIC: []}
    assert list(journal.directory.iterdir()) == []
