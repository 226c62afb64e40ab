"""What the helper writes down: who has which device, and the ledger of what is mapped."""

import os
from pathlib import Path

import pytest
from ixy_vfio_helper.claims import Claims, Ledger
from ixy_vfio_helper.protocol import Allocated, Attach, Attached, Hello, Memory, Purpose

from tests.unit.lease_support import A, B, FakeBackend, served


def test_every_mapping_is_in_the_ledger_of_its_devices_until_the_lease_is_over(tmp_path: Path) -> None:
    ledgers = [tmp_path / f"{address}.ledger" for address in (A, B)]
    ledgers[0].write_text("0x1 0x1 rw somebody's\n")
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        for address in (A, B):
            assert isinstance(client.ask(Attach(address)), Attached)
        assert [path.read_text() for path in ledgers] == ["", ""]
        for size, devices, purpose in ((5000, 1, Purpose.RINGS), (4096, 3, Purpose.PACKETS), (1, 2, Purpose.READ_ONLY)):
            assert isinstance(client.ask(Memory(size, devices, purpose)), Allocated)
        assert ledgers[0].read_text() == "0x1000000000 0x2000 rw rings\n0x1000400000 0x1000 rw packets\n"
        assert ledgers[1].read_text() == "0x1000400000 0x1000 rw packets\n0x1000800000 0x1000 r read_only\n"
        assert [path.stat().st_mode & 0o777 for path in ledgers] == [0o644, 0o644]
    assert [path.read_text().strip() for path in ledgers] == ["", ""]


def test_a_claim_says_who_has_the_device_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    claims, file = Claims(tmp_path), tmp_path / f"{A}.lease"
    assert claims.holder(A) is None
    file.write_text("4294967295 4194304 of a lease that is over\n")
    assert claims.holder(A) is None  # it is the lock that counts
    claim = claims.claim(A, 1000)
    assert claim is not None
    assert not os.get_inheritable(claim)
    assert file.read_text() == f"1000 {os.getpid()}\n"
    assert (claims.holder(A), claims.claim(A, 1001), claims.holder(B)) == ((1000, os.getpid()), None, None)
    assert file.read_text() == f"1000 {os.getpid()}\n"
    assert (tmp_path / "locks" / A).read_text() == f"1000 {os.getpid()}\n"
    os.ftruncate(claim, 0)
    assert claims.holder(A) == (-1, -1)  # it is just being taken
    os.close(claim)
    assert claims.holder(A) is None


@pytest.mark.parametrize("kind", ["lease", "ledger"])
def test_nothing_is_written_through_a_link(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / f"{A}.{kind}").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        Claims(tmp_path).claim(A, 1000) if kind == "lease" else Ledger(tmp_path, A)
    assert victim.read_text() == "as it was"
