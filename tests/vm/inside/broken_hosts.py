"""More of what can be broken on a running machine, for audited.py: files, programs, domains, drivers.

Everything is as it was when a block is left.
"""

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.vm.inside.raw_vfio import CdevDevice, bind, group_of

RUN, ETC, UNITS = Path("/run/ixy_vfio"), Path("/etc/ixy_vfio"), Path("/etc/systemd/system")
PROGRAM = Path("/tmp/open/ixy_vfio_helper")
USER = 1000


@contextlib.contextmanager
def files(*texts: tuple[Path, str], owner: int = 0) -> Iterator[None]:
    """These files are there."""
    made = []
    for path, text in texts:
        for above in reversed([path.parent, *path.parent.parents]):
            if not above.exists():
                above.mkdir(mode=0o755)
                made.append(above)
        path.write_text(text)
        os.chown(path, owner, owner)
    yield
    for path, _ in texts:
        path.unlink()
    for above in reversed(made):
        above.rmdir()


@contextlib.contextmanager
def node(path: str, device: int, mode: int) -> Iterator[None]:
    """A device node more."""
    os.mknod(path, stat.S_IFCHR, device)
    os.chmod(path, mode)
    yield
    os.unlink(path)


@contextlib.contextmanager
def helper_socket(mode: int) -> Iterator[None]:
    """A socket of a helper, in a directory of this mode; nobody listens."""
    RUN.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{RUN}/helper.sock")
    os.chmod(RUN, mode)
    yield
    shutil.rmtree(RUN)


@contextlib.contextmanager
def helper_program(mode: int) -> Iterator[None]:
    """A helper without capabilities, whose program lies in a directory of this mode.

    It is known by its socket, which lies where only root can make one.
    """
    RUN.mkdir(exist_ok=True)
    PROGRAM.parent.mkdir()
    PROGRAM.write_text(
        "import socket, time; one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        f"one.bind('{RUN}/open.sock'); one.listen(); print('up', flush=True); time.sleep(600)"
    )
    os.chmod(PROGRAM.parent, mode)
    bare = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-all", "--", sys.executable]
    process = subprocess.Popen([*bare, str(PROGRAM)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.kill()
    process.wait()
    shutil.rmtree(PROGRAM.parent)
    shutil.rmtree(RUN)


@contextlib.contextmanager
def domain(group: str, kind: str) -> Iterator[None]:
    """The default domain of a group is of another type."""
    path = Path(f"/sys/kernel/iommu_groups/{group}/type")
    before = path.read_text()
    path.write_text(kind)
    yield
    path.write_text(before)


@contextlib.contextmanager
def virtual_function(address: str) -> Iterator[None]:
    """A device that a program may drive has a virtual function."""
    parameter = Path("/sys/module/vfio_pci/parameters/enable_sriov")
    count = Path(f"/sys/bus/pci/devices/{address}/sriov_numvfs")
    parameter.write_text("Y")
    count.write_text("1")
    parameter.write_text("N")
    yield
    parameter.write_text("Y")
    count.write_text("0")
    parameter.write_text("N")


Act = Callable[[], object]


def _driver(act: Act, ready: Event, done: Event) -> None:
    held = act()
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    ready.set()
    done.wait(120)
    del held


@contextlib.contextmanager
def driver(act: Act) -> Iterator[None]:
    """A program of a user that has done this before, as root; what it returns stays open."""
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.get_context("fork").Process(target=_driver, args=(act, ready, done))
    process.start()
    try:
        if not ready.wait(30):
            raise SystemExit("a driver could not start")
        yield
    finally:
        done.set()
        process.join(30)


@contextlib.contextmanager
def held_twice(address: str) -> Iterator[None]:
    """A second program has a duplicate of a driver's descriptor."""
    ours, theirs = socket.socketpair()

    def first() -> object:
        device = CdevDevice(address)
        registers = mmap.mmap(device.fd, mmap.PAGESIZE, offset=device.region(0)[0])
        socket.send_fds(theirs, [b"x"], [device.fd])
        return device, registers

    def second() -> object:
        return socket.recv_fds(ours, 1, 1)[1]

    with driver(first), driver(second):
        ours.close()
        theirs.close()
        yield


def in_one_container(*addresses: str) -> object:
    """Several devices in one IOMMU domain."""
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    groups = []
    for address in addresses:
        groups.append(os.open(f"/dev/vfio/{group_of(address)}", os.O_RDWR))
        fcntl.ioctl(groups[-1], 0x3B68, struct.pack("i", container))  # GROUP_SET_CONTAINER
        if len(groups) == 1:
            fcntl.ioctl(container, 0x3B66, 3)  # SET_IOMMU, type1 v2
    return container, groups


def with_code_that_can_be_written(address: str) -> object:
    """A driver with a page that is writable and executable."""
    device = CdevDevice(address)
    registers = mmap.mmap(device.fd, mmap.PAGESIZE, offset=device.region(0)[0])
    return device, registers, mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


@contextlib.contextmanager
def bound(address: str) -> Iterator[None]:
    """A second device is bound to vfio-pci."""
    bind(address, "vfio-pci")
    yield
    unbind = Path(f"/sys/bus/pci/devices/{address}/driver/unbind")
    Path(f"/sys/bus/pci/devices/{address}/driver_override").write_text("\n")
    unbind.write_text(address)


@contextlib.contextmanager
def both(
    first: contextlib.AbstractContextManager[None], second: contextlib.AbstractContextManager[None]
) -> Iterator[None]:
    """Two changes."""
    with first, second:
        yield


def changes(address: str, other: str) -> dict[str, contextlib.AbstractContextManager[None]]:
    """All of them. `other` is a device that nobody drives."""
    group = group_of(other)
    eeprom = Path("/var/lib/ixy_vfio/eeprom")
    digests = [(eeprom / f"{address}.first", "sha256:1\n"), (eeprom / f"{address}.last", "sha256:2\n")]
    unit = UNITS / "ixy-vfio-helper.service"
    return {
        "memory for everybody": node("/dev/kmem", os.makedev(1, 2), 0o666),
        "eeprom changed": files(*digests),
        "policy of a user": files((ETC / "policy.toml", ""), owner=USER),
        "unit without hardening": files((unit, "[Service]\nExecStart=/usr/sbin/ixy-vfio-helper serve\n")),
        "anybody can replace the helper's socket": helper_socket(0o777),
        "anybody can replace the helper's program": helper_program(0o777),
        "a group in passthrough": domain(group, "identity"),
        "a lazy group": domain(group, "DMA-FQ"),
        "virtual function below a program": virtual_function(address),
        "duplicate of the descriptor": held_twice(address),
        "two devices in one domain": both(bound(other), driver(lambda: in_one_container(address, other))),
        "writable code": driver(lambda: with_code_that_can_be_written(address)),
    }
