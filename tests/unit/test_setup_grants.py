"""What setup writes into the helper's policy, and that the helper reads it so."""

import os
from types import SimpleNamespace

import pytest
from ixy_vfio_helper import policy
from ixy_vfio_setup import grants

from tests.unit.setup_machine import NIC

WHAT = "8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-10"


def test_grants_are_added_and_removed() -> None:
    one = grants.add({}, 1000, "alice", NIC, WHAT, None)
    assert one == {"1000": {"name": "alice", "devices": [f"{NIC} {WHAT}"], "memory_mib": 256}}
    two = grants.add(one, 1001, "1001", NIC, WHAT, 64)
    assert grants.add(two, 1001, "1001", "0000:01:00.0", WHAT, None)["1001"] == {
        "devices": [f"0000:01:00.0 {WHAT}", f"{NIC} {WHAT}"], "memory_mib": 64
    }  # fmt: skip
    assert grants.add(one, 1000, "alice", NIC, WHAT[:-2] + "11", None)["1000"]["devices"] == [f"{NIC} {WHAT[:-2]}11"]
    assert grants.remove(two, "1001", NIC) == one
    assert grants.remove(one, "1002", NIC) == one
    assert grants.remove(one, "1000", NIC) == {}


def test_a_file_that_names_its_users_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """As setup wrote it once. An account that is gone is nobody's."""
    uids = {"alice": 1000}
    monkeypatch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_uid=uids[name]))
    tables = {"alice": {"devices": [NIC], "memory_mib": 64}, "gone": {"devices": [NIC], "memory_mib": 64}}
    assert grants.add(tables, 1000, "alice", NIC, WHAT, None) == tables | {
        "alice": {"devices": [f"{NIC} {WHAT}"], "memory_mib": 64}
    }
    assert list(grants.add(tables, 1002, "carol", NIC, WHAT, None)) == ["alice", "gone", "1002"]


def test_the_helper_reads_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"name": "alice", "devices": [f"{NIC} {WHAT}"], "memory_mib": 64}
    text = grants.render({"1000": table, "0": {"devices": [], "leases": 2}})
    found, problems = policy.parse(text, "x")
    assert (found[1000].devices, found[1000].memory, found[0].leases) == (frozenset({NIC}), 64 << 20, 2)
    assert (found[1000].recorded, problems) == ({NIC: WHAT}, [])
    assert grants.parse(text) == {"1000": table, "0": {"devices": [], "leases": 2}}
    assert grants.parse(text + "\n") is None
    for uid, expected in ((0, False), (1000, True)):  # who runs it: the serial number is root's to read
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert grants.granted(text, 1000, NIC, WHAT, None)
        assert grants.granted(text, 1000, NIC, WHAT[:19], None) is expected
        assert not grants.granted(text, 1000, NIC, WHAT.replace("10fb", "10fc"), None)
        assert not grants.granted(text, 1000, NIC, WHAT, 65)
        assert not grants.granted(text, 1001, NIC, WHAT, None)
        assert not grants.granted(None, 1000, NIC, WHAT, None)


def test_an_address_alone_is_made_more_exact_unless_people_wrote_it() -> None:
    text = grants.render({"1000": {"devices": [NIC], "memory_mib": 64}})
    assert not grants.granted(text, 1000, NIC, WHAT, None)
    assert grants.granted(text + "# mine\n", 1000, NIC, WHAT, None)
