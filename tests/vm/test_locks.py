"""Another user locks all that it can open: the helper starts, leases, binds, unbinds, and setup works as without it."""

import json

import pytest

from tests.vm.harness import Guest
from tests.vm.inside.programs import HELPER
from tests.vm.support import STOCK, in_guest, load
from tests.vm.test_helper import client, edu, interface, serving, wait_until

pytestmark = pytest.mark.vm

# What root would run into, if it locked what others may read.
TAKEN = """
import fcntl, os, struct
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
try:
    fcntl.flock(os.open("/run/ixy_vfio/bound", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taken")
try:
    fcntl.fcntl(os.open("/run/ixy_vfio/leases/%s.lease", os.O_RDWR), fcntl.F_OFD_SETLK, whole)
except BlockingIOError:
    print("taken")
"""
SETUP_STATE = """
import sys; sys.path.append("helper")
from ixy_vfio_setup.journal import Journal
from ixy_vfio_setup.system import System
with Journal(System()) as journal: print("mine")
"""


@in_guest(STOCK)
def test_another_user_locks_all_that_it_can_open(guest: Guest) -> None:
    load(guest, "igb")
    address, nic = edu(guest), guest.address("nic0")
    wait_until(lambda: bool(interface(guest, nic)))
    with serving(guest, "group", address):  # what is made once is there
        assert json.loads(client(guest, "dma", address).wait().stdout)["ended"] == "the client ended it"
    guest.run(["mkdir", "-m", "755", "/var/lib/ixy_vfio"])
    blocker = guest.start([*HELPER[:1], "-m", "tests.vm.inside.blocking"])
    try:
        wait_until(lambda: "\n" in blocker.output().stdout)
        locked = json.loads(blocker.output().stdout)
        assert {"/run/ixy_vfio", "/run/ixy_vfio/bound", f"/run/ixy_vfio/leases/{address}.lease"} < set(locked)
        assert "/var/lib/ixy_vfio" in locked
        assert [path for path in locked if "lock" in path] == []
        assert guest.run([*HELPER[:1], "-c", TAKEN % address]).stdout == "taken\ntaken\n"

        with serving(guest, "group", address):
            for _ in range(2):
                assert json.loads(client(guest, "dma", address).wait().stdout)["ended"] == "the client ended it"
            said = guest.run([*HELPER, "bind", "--other", "--down", nic], timeout=120).stdout
            assert said.endswith(f"{nic}: driver vfio-pci\n")
            assert "free; unbind gives it back to igb" in guest.run([*HELPER, "status"]).stdout
            assert f"{nic}: driver igb\n" == guest.run([*HELPER, "unbind", nic], timeout=120).stdout
        assert guest.run([*HELPER[:1], "-c", SETUP_STATE]).stdout == "mine\n"
        assert blocker.poll() is None
    finally:
        blocker.kill()
        blocker.wait(check=False)
        guest.run(["rm", "-rf", "/var/lib/ixy_vfio"])
