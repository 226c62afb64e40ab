"""`ixy-vfio info` shows what there is, and leaves alone what a look would change."""

import json
from dataclasses import asdict

from ixy_vfio.apps import info
from ixy_vfio.drivers.ixgbe import regs
from tests.unit.ixgbe_support import FakeDevice, make_port


def test_nothing_is_written_and_only_counters_are_cleared() -> None:
    device = FakeDevice()
    info.inspect(device)
    assert {op for _, op, _, _ in device.bar0.trace} == {"read"}
    assert not device.events
    changed = {register.row.name for register in regs.ALL if register.access.read_changes}
    assert changed == {"EICR", "SWSM"}
    assert not changed & device.bar0.read_names()


def test_what_it_tells() -> None:
    port, device = make_port()
    port.initialise()
    device.bar0["GPRC"] = 1234567
    found = info.inspect(device)
    lines = list(info.render(found))
    assert lines[:8] == [
        "8259:00:00.0  82599ES SFI/SFP+ (8086:10fb)",
        "  link         up, 10 Gbit/s",
        "  MAC address  52:02:03:04:05:06",
        "  DMA          on (bus master)",
        "",
        "Counters (read, and so cleared)",
        "  GPRC                        1,234,567",
        "",
    ]
    assert "  FCTRL              0x00000400  sbp                0                  store bad packets" in lines
    assert "  MTA[0..127]        0x00000000" in lines
    assert "  RXPBSIZE[0]        0x00080000  size               512 (0x200)        KiB" in lines
    assert "  RXPBSIZE[1..7]     0x00000000  size               0                  KiB" in lines
    assert any(line.endswith("lms                serial_10g (3)     link mode select") for line in lines)


def test_json_has_every_register_with_its_section() -> None:
    told = json.loads(json.dumps(asdict(info.inspect(FakeDevice()))))
    assert told["link"] == {"up": True, "speed": 10_000}
    assert {register["name"] for register in told["registers"]} == {
        register.row.name for register in regs.ALL if register.access.readable and not register.access.read_changes
    }
    eec = next(register for register in told["registers"] if register["name"] == "EEC")
    assert eec == {
        "section": "8.2.3.2", "name": "EEC", "first": 0, "last": 0, "value": 0x300, "fields": {"pres": 1, "ard": 1},
    }  # fmt: skip
