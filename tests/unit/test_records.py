"""The ledger that the helper keeps for the audit."""

from pathlib import Path

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
