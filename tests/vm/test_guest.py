"""The guest itself: what tests of everything else stand on."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.vm.harness import CommandFailed, Config, Guest, GuestDied, VmError
from tests.vm.support import IOMMUFD, STOCK, in_guest

pytestmark = pytest.mark.vm


@in_guest(STOCK, IOMMUFD)
def test_boots_behind_an_intel_iommu(guest: Guest) -> None:
    assert guest.get("/proc/sys/kernel/osrelease").decode().strip() == guest.release
    assert guest.run(["ls", "/sys/class/iommu"]).stdout.split() == ["dmar0"]
    assert "DMAR-IR: Enabled IRQ remapping" in guest.kernel_log()


@in_guest(STOCK, IOMMUFD)
def test_iommufd_is_there_or_not_as_the_name_says(guest: Guest) -> None:
    if guest.config.kernel == "stock":
        guest.run(["modprobe", "vfio-pci"])
    there = guest.run(["test", "-c", "/dev/iommu"], check=False).status == 0
    assert there == (guest.config.kernel == "iommufd")


@in_guest(IOMMUFD)
def test_a_command_brings_output_and_status(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in\n", check=False)
    assert (result.stdout, result.stderr, result.status) == ("in\n", "err\n", 3)
    assert guest.run(["sh", "-c", "kill -9 $$"], check=False).status == -signal.SIGKILL
    with pytest.raises(CommandFailed, match="status 1"):
        guest.run(["false"])
    with pytest.raises(VmError, match="FileNotFoundError"):
        guest.run(["/nonexistent"])


@in_guest(IOMMUFD)
def test_a_user_is_that_user_with_no_groups_and_no_capabilities(guest: Guest) -> None:
    status = guest.run(["cat", "/proc/self/status"], user=4242).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["4242"] * 4
    assert (fields["Groups"].strip(), fields["CapEff"]) == ("", "0" * 16)


@in_guest(IOMMUFD)
def test_commands_run_at_once(guest: Guest) -> None:
    waiting = guest.start(["sh", "-c", "until [ -e /run/go ]; do sleep 0.05; done; echo gone"])
    assert waiting.poll() is None
    guest.run(["touch", "/run/go"])
    assert waiting.wait().stdout == "gone\n"


@in_guest(IOMMUFD)
def test_a_command_past_its_deadline_is_killed_with_its_children(guest: Guest) -> None:
    with pytest.raises(VmError, match=r"still running after 1 s, killed; it said: begun"):
        guest.run(["sh", "-c", "echo begun; sleep 4217 & wait"], timeout=1.0)
    deadline = time.monotonic() + 60
    while "4217" in guest.run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"]).stdout.replace(
        "$$", ""
    ):
        assert time.monotonic() < deadline, "the child lives on"


@in_guest(IOMMUFD)
def test_what_the_guest_writes_stays_in_it(guest: Guest) -> None:
    name = f"/etc/ixy-vm-test-{os.getpid()}"
    guest.put(b"\0\xff text", name)
    assert guest.get(name) == b"\0\xff text"
    assert not Path(name).exists()


@in_guest(IOMMUFD)
def test_the_kernel_log_is_complete_up_to_now(guest: Guest) -> None:
    guest.run(["sh", "-c", "echo '<6>marker one' > /dev/kmsg"])
    assert "] marker one\n" in guest.kernel_log()


@in_guest(STOCK)
def test_hot_unplug_and_plug(guest: Guest) -> None:
    address = guest.address("nic2")
    guest.unplug("nic2")
    assert guest.run(["test", "-e", f"/sys/bus/pci/devices/{address}"], check=False).status == 1
    guest.plug("nic2")
    deadline = time.monotonic() + 120
    while guest.run(["test", "-e", f"/sys/bus/pci/devices/{address}"], check=False).status:
        assert time.monotonic() < deadline, "the guest does not see the new device"
    assert guest.address("nic2") == address


def test_a_guest_that_panics_is_told_from_one_that_is_slow() -> None:
    with Guest(Config(kernel="iommufd", iommu="none")) as guest:
        folder = guest.folder
        with pytest.raises(GuestDied, match="Kernel panic"):
            guest.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=120)
    assert not folder.exists()
