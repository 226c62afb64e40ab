"""Recorded machines of several kinds, each against a golden report.

After a change that is wanted: `python -m tests.unit.audit.test_recorded_machines` writes the golden reports anew; read
the difference before you keep it.
"""

import dataclasses

import pytest

from ixy_vfio.audit import table, tree
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.runner import audit
from tests.unit.audit.audit_support import HERE, look, machine, result, statuses

MACHINES = ["sound", "intel-desktop", "hpe-rmrr", "amd-epyc", "cloud-vm"]


def golden(name: str) -> str:
    return "\n".join(table.render(look(machine(name)), width=1000)) + "\n"


@pytest.mark.parametrize("name", MACHINES)
def test_golden_report(name: str) -> None:
    assert golden(name) == (HERE / "golden" / f"{name}.txt").read_text()


def test_the_desktop_has_a_broken_group() -> None:
    report = look(machine("intel-desktop"))
    assert statuses(report, Status.FAIL) == {"device.group", "device.acs"}
    assert result(report, "device.acs").findings[0].text == "bridge 0000:00:01.1 has no ACS"


def test_the_hpe_server_reserves_memory() -> None:
    report = look(machine("hpe-rmrr"), "04:00.0")
    assert result(report, "device.reserved").status is Status.FAIL
    assert "direct" in (result(report, "device.reserved").findings[0].evidence[0].value or "")


def test_dpdk_gets_the_read_only_checks() -> None:
    report = look(machine("hpe-rmrr"), "/dev/vfio/42")
    session = report.scene.sessions[0]
    assert (session.kind, session.level, session.devices) == ("another program", "L1", ["0000:05:00.0"])
    assert result(report, "session.privileges").status is Status.FAIL
    assert result(report, "session.sandbox").status is Status.WARN
    assert result(report, "session.seals").status is Status.SKIP


def test_the_amd_server_as_an_ordinary_user() -> None:
    report = look(machine("amd-epyc"))
    assert result(report, "iommu.present").findings[0].text == "ivhd0, ivhd1, ivhd2, ivhd3; 5 groups"
    assert result(report, "iommu.intremap").status is Status.PASS
    assert result(report, "iommu.compatibility_format").findings[0].evidence[0].value == "58f77ef22294ade"
    assert statuses(report, Status.FAIL) == set()
    hidden = result(report, "device.acs", "0000:c1:00.0").findings[0]
    assert (hidden.status, hidden.text.split(" may ")[0]) == (
        Status.SKIP, "/sys/bus/pci/devices/0000:c0:03.1/config",
    )  # fmt: skip


def test_the_virtual_machine_has_no_iommu() -> None:
    report = look(machine("cloud-vm"))
    assert statuses(report, Status.FAIL) == {"iommu.present", "device.iommu", "vfio.noiommu", "device.reset"}
    assert report.exit_status("high") == 1


@pytest.mark.parametrize("name", MACHINES)
def test_a_recording_of_a_recorded_machine_gives_the_same_report(name: str) -> None:
    recorder = tree.Recorder(machine(name))
    before = audit(Host(recorder))
    after = look(tree.load(tree.dump(recorder.tree)))
    assert dataclasses.replace(after, time=before.time) == before


if __name__ == "__main__":
    for one in MACHINES:
        (HERE / "golden" / f"{one}.txt").write_text(golden(one))
