"""In the guest: a NIC's EEPROM is recorded, the NIC bound and given back, the EEPROM changed: eeprom.py ADDRESS"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ixy_vfio.audit import eeprom
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.runner import audit
from ixy_vfio.audit.system import LiveSystem
from ixy_vfio.core.errors import UsageError
from tests.vm.inside.raw_vfio import bind

SET_EEPROM = 0xC  # linux/ethtool.h
WORD = 0x50  # where the e1000e's EEPROM has nothing that its driver needs


def status(address: str) -> str:
    """Of the check."""
    (found,) = (one for one in audit(Host(LiveSystem()), address).results if one.check == "device.eeprom")
    return found.status.name


def recorded(address: str) -> list[str]:
    """Which of the two digests was written, and what the check says then."""
    return [eeprom.record(address).suffix[1:], status(address)]


def refused(act: Callable[[], object]) -> str:
    """What is said in the place of a digest."""
    try:
        act()
    except UsageError as error:
        return "has no network interface" if "has no network interface" in str(error) else str(error)
    return "done"


def change(address: str) -> None:
    """Write two bytes, as `ethtool -E` does; the magic number is the driver's way to be asked by intent."""
    device = Path("/sys/bus/pci/devices", address)
    ids = [int((device / name).read_text(), 16) for name in ("vendor", "device")]
    request = eeprom.EEPROM.pack(SET_EEPROM, ids[0] | ids[1] << 16, WORD, 2) + b"\xab\xcd"
    eeprom._ask(os.listdir(device / "net")[0], request)


def main(address: str) -> None:
    """All of it."""
    found: dict[str, object] = {"nothing recorded": status(address)}
    found["recorded"], found["again"] = recorded(address), recorded(address)
    bind(address, "vfio-pci")
    found["bound"] = refused(lambda: eeprom.record(address))
    bind(address, "")
    found["given back"] = recorded(address)
    change(address)
    found["changed"] = recorded(address)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
