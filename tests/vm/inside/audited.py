"""In the guest: audits a device that is bound to vfio-pci, first as it is, then with one thing broken at a time.

    audited.py ADDRESS OTHER        a JSON object: name of what was broken -> checks that say WARN or FAIL
    audited.py devices PAIR ATS     what a device of two functions in one group, and one that knows ATS, is told
    audited.py as UID ADDRESS       the report as that user sees it

Every change is taken back. OTHER is a device that nobody drives.
"""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from ixy_vfio.audit.config import COMMAND, EXT_ACS, EXT_ATS, ConfigSpace
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.runner import audit
from ixy_vfio.audit.system import LiveSystem
from tests.vm.inside import broken_hosts
from tests.vm.inside.raw_vfio import bind

ATS_ENABLE = 0x8000  # PCI Express, ATS control register
SYSFS = Path("/sys/bus/pci/devices")
Change = contextlib.AbstractContextManager[None, bool | None]


def statuses(address: str) -> dict[str, str]:
    """The checks that are not content, with WARN or FAIL."""
    report = audit(Host(LiveSystem()), address)
    return {one.check: one.status.name for one in report.results if one.status >= Status.WARN}


def flipped(address: str) -> list[str]:
    """Their names."""
    return sorted(statuses(address))


@contextlib.contextmanager
def mode(path: str, value: int) -> Iterator[None]:
    """Another mode of a file."""
    before = os.stat(path).st_mode & 0o7777
    os.chmod(path, value)
    yield
    os.chmod(path, before)


@contextlib.contextmanager
def owner(path: str, uid: int) -> Iterator[None]:
    """Another owner of a file."""
    os.chown(path, uid, -1)
    yield
    os.chown(path, 0, -1)


@contextlib.contextmanager
def written(path: str, text: str) -> Iterator[None]:
    """A file of sysfs says something else."""
    before = Path(path).read_text()
    Path(path).write_text(text)
    yield
    Path(path).write_text(before)


@contextlib.contextmanager
def config(address: str, offset: int, value: int) -> Iterator[None]:
    """Two bytes of configuration space are others."""
    with open(SYSFS / address / "config", "r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 2, offset)
        os.pwrite(file.fileno(), value.to_bytes(2, "little"), offset)
        yield
        os.pwrite(file.fileno(), before, offset)


def _hold(path: str, uid: int, ready: Event, done: Event) -> None:
    fd = os.open(path, os.O_RDWR)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    ready.set()
    done.wait(60)
    os.close(fd)


@contextlib.contextmanager
def held(path: str, uid: int) -> Iterator[None]:
    """A process of `uid` has a node open."""
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=_hold, args=(path, uid, ready, done))
    process.start()
    try:
        if not ready.wait(20):
            raise SystemExit(f"{path} could not be opened")
        yield
    finally:
        done.set()
        process.join(20)


def changes(address: str) -> dict[str, Change]:
    """What can be broken on a running machine."""
    device = f"{SYSFS}/{address}"
    group = f"/dev/vfio/{os.path.basename(os.readlink(f'{device}/iommu_group'))}"
    bridge = os.path.basename(os.path.dirname(os.path.realpath(device)))
    space = ConfigSpace("", (SYSFS / bridge / "config").read_bytes())
    command = ConfigSpace("", (SYSFS / address / "config").read_bytes()).word(COMMAND)
    cdev = f"/dev/vfio/devices/{os.listdir(f'{device}/vfio-dev')[0]}"
    parameters = "/sys/module/{}/parameters/{}"
    found: dict[str, Change] = {
        "group for everybody": mode(group, 0o666),
        "group of a user": owner(group, 1000),
        "registers for everybody": mode(f"{device}/resource0", 0o666),
        "configuration of a user": owner(f"{device}/config", 1000),
        "unsafe interrupts": written(parameters.format("vfio_iommu_type1", "allow_unsafe_interrupts"), "1"),
        "programs may make virtual functions": written(parameters.format("vfio_pci", "enable_sriov"), "1"),
        "reset by the bus only": written(f"{device}/reset_method", "bus"),
        "stale bus master": config(address, COMMAND, command | 0x4),
        "node of the device for everybody": mode(cdev, 0o666),
        "iommufd for everybody": mode("/dev/iommu", 0o666),
        "root driver": held(group, 0),
        "driver of a user": held(group, 1000),
    }
    if at := space.extended(EXT_ACS):
        found["bridge does not redirect"] = config(bridge, at + 6, 0)
    return found


def main(address: str, other: str) -> None:
    """Break one thing after the other."""
    found = {"nothing": flipped(address)}
    begin = time.monotonic()
    found["nothing any more"] = flipped(address)
    print(f"an audit takes {time.monotonic() - begin:.2f} s", file=sys.stderr)
    for name, change in (changes(address) | broken_hosts.changes(address, other)).items():
        with change:
            found[name] = flipped(address)
    found["nothing any more"] = flipped(address)
    print(json.dumps(found))


def of_devices(pair: str, ats: str) -> None:
    """A group of two, then one of them with the kernel's driver; a device with and without translations of its own."""
    beside = f"{pair[:-1]}1"
    for address in (pair, beside, ats):
        bind(address, "vfio-pci")
    found = {"two functions": statuses(pair), "ats off": statuses(ats)}
    bind(beside, "")
    found["one of them with Linux's driver"] = statuses(pair)
    at = ConfigSpace("", (SYSFS / ats / "config").read_bytes()).extended(EXT_ATS)
    assert at is not None
    with config(ats, at + 6, ATS_ENABLE):
        found["ats on"] = statuses(ats)
    print(json.dumps(found))


def seen_by(uid: int, address: str) -> None:
    """The report of an ordinary user."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    print(json.dumps(audit(Host(LiveSystem()), address).to_json()))


if __name__ == "__main__":
    if sys.argv[1] == "as":
        seen_by(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "devices":
        of_devices(sys.argv[2], sys.argv[3])
    else:
        main(sys.argv[1], sys.argv[2])
