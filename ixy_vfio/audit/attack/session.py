"""Attacks on the life of a session: a driver or a helper that is killed, and what a driver's user may not."""

import fcntl
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ixy_vfio.audit.attack.engine import BLOCK, DEADLINE, LANDED
from ixy_vfio.audit.attack.field import CANARY, SIMULATED, Field, Lab, filler
from ixy_vfio.audit.model import Finding, Findings, fail, passed, skip
from ixy_vfio.audit.reading import Reading
from ixy_vfio.core import pci
from ixy_vfio.core.errors import DeviceError, IxyError, LeaseError, RefusedError
from ixy_vfio.transport.lease import Purpose

TRAFFIC = 0.3  # seconds of it before the driver is killed
QUIET = 1.0  # seconds without DMA that count as its end
PATIENCE = 10.0  # seconds for it to end
VFIO_ATTACH = 0x3B77  # VFIO_DEVICE_ATTACH_IOMMUFD_PT, linux/vfio.h
OTHER_IDS = 64
PCI = Path("/sys/bus/pci")


# --- a driver is killed ----------------------------------------------------------------------------------------------


def driver_killed(field: Field) -> Finding:
    """Kill the process that has the lease, while another one has the device, and keeps it busy."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    driver = os.fork()
    if not driver:
        try:
            with field.lab() as lab:
                if not os.fork():
                    os.close(lab.lease.fileno())  # the end of the lease must not wait for this process
                    _tell(writer, _keep_busy(lab, told, writer))
                    os._exit(0)
                time.sleep(600)  # killed long before
        except Exception as error:
            _tell(writer, {"error": str(error)})
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as lines:
        said = json.loads(lines.readline() or '{"error": "its process died"}')
        if "error" in said:
            return skip(f"could not be judged: {said['error']}")
        time.sleep(TRAFFIC)
        killed = time.monotonic()
        os.kill(driver, signal.SIGKILL)
        os.write(tell, struct.pack("d", killed))
        os.waitpid(driver, 0)
        return _judge(json.loads(lines.readline() or '{"error": "its process died"}'), killed)


def _tell(fd: int, what: object) -> None:
    os.write(fd, json.dumps(what).encode() + b"\n")


def _keep_busy(lab: Lab, told: int, tell: int) -> dict[str, object]:
    """Ring the doorbell until no DMA has arrived for QUIET seconds after the kill; then try to go on."""
    assert lab.target is not None
    place, spot = lab.target.iova, lab.target.view[:BLOCK]
    last = quiet_since = time.monotonic()
    count, killed, gone = 0, 0.0, ""
    os.set_blocking(told, False)
    while True:
        spot[:] = CANARY * BLOCK
        try:
            lab.engine.kick(place)
        except DeviceError as error:
            gone = str(error)
        if _changes(spot):
            last = quiet_since = time.monotonic()
            count += 1
            if count == 3:
                _tell(tell, {"ready": True})
        if not killed and (data := _try_read(told)):
            (killed,) = struct.unpack("d", data)
            quiet_since = max(killed, last)
        now = time.monotonic()
        if killed and (gone or now - quiet_since > QUIET or now - killed > PATIENCE):
            break
        if not killed and now - last > PATIENCE:
            return {"error": "positive control failed: the device does no DMA that goes on"}
    lab.target.view[:] = CANARY * lab.target.size  # new pages, since the helper has given back those of the lease
    return {"last": last, "count": count, "gone": gone, **_afterwards(lab, place)}


def _try_read(fd: int) -> bytes:
    try:
        return os.read(fd, 8)
    except BlockingIOError:
        return b""


def _changes(spot: memoryview, within: float = 0.15) -> bool:
    end = time.monotonic() + within
    while bytes(spot) == CANARY * BLOCK:
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


def _afterwards(lab: Lab, place: int) -> dict[str, object]:
    """What whoever kept the device can still do: turn bus mastering on again, and write to what was mapped."""
    assert lab.target is not None
    try:
        master = pci.bus_master(lab.device)
        pci.set_bus_master(lab.device, True)
        for _ in range(3):
            lab.engine.kick(place)
            _changes(lab.target.view[:BLOCK])
        pci.set_bus_master(lab.device, False)
    except DeviceError as error:
        return {"master": False, "harmed": lab.harmed(), "gone": str(error)}
    return {"master": master, "harmed": lab.harmed()}


def _judge(said: dict[str, object], killed: float) -> Finding:
    if "error" in said:
        return skip(f"could not be judged: {said['error']}")
    last = said["last"]
    assert isinstance(last, float)
    late = max(last - killed, 0.0)
    evidence = Reading("memory", f"{said['count']} DMA writes, the last {late * 1000:.1f} ms after the kill")
    if late > PATIENCE - QUIET:
        return fail(f"DMA goes on {late:.0f} s after the driver was killed", evidence)
    if said["master"]:
        return fail("DMA ended, but bus mastering is still on", evidence)
    if said["harmed"]:
        return fail(f"who kept the device can go on: {said['harmed']}", evidence)
    text = f"the last DMA came {late * 1000:.0f} ms after the driver was killed"
    more = (Reading("device", str(said["gone"])),) if said.get("gone") else ()
    return passed(text, evidence, *more)


# --- the helper is killed --------------------------------------------------------------------------------------------


def helper_killed(field: Field) -> Findings:
    """Kill the helper's process of the lease; nothing more may be reached, and nothing stays behind."""
    if field.uid and not field.address.startswith(SIMULATED):
        yield skip("only root can kill the helper")
        return
    with field.lab() as lab:
        os.kill(_helper_pid(field.address, lab), signal.SIGKILL)
        yield _client_is_told(lab)
        iova = lab.unmapped
        try:
            got = lab.engine.read(iova, lab.grace)
        except DeviceError as error:
            yield passed(f"its death took the device away: {error}")
        else:
            read = None if got is None or filler(got) else f"the device read it: {got[:8].hex()}..."
            yield lab.verdict("after the helper's death, an address far from all mappings", iova, read)
    if not field.address.startswith(SIMULATED):
        yield _bus_master_off(field.address)
    try:
        with field.lab():
            yield passed("the device can be leased again")
    except IxyError as error:
        yield fail(f"the device cannot be leased again: {error}")


def _client_is_told(lab: Lab) -> Finding:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            lab.lease.check()
        except LeaseError as error:
            return passed("the driver was told", Reading("lease", str(error)))
        time.sleep(0.005)
    return fail("the driver was not told")


def _bus_master_off(address: str) -> Finding:
    path = PCI / "devices" / address / "config"
    end = time.monotonic() + PATIENCE
    while True:
        command = int.from_bytes(path.read_bytes()[pci.COMMAND : pci.COMMAND + 2], "little")
        reading = Reading(str(path), f"COMMAND {command:#06x}")
        if not command & pci.COMMAND_MASTER:
            return passed("bus mastering is off since the driver closed the device", reading)
        if time.monotonic() > end:
            return fail("bus mastering is still on although nobody has the device", reading)
        time.sleep(0.01)


# --- what a driver's user may not ------------------------------------------------------------------------------------


def refused(field: Field) -> Findings:
    """Everything that would step around the helper; nothing is written, only opened."""
    if not field.uid:
        yield skip("root may do all of this; run it as the user who runs drivers")
        return
    with field.lab() as lab:
        yield _files(field.address, lab)
        yield from _refused_by_the_helper(field, lab)


def _files(address: str, lab: Lab) -> Finding:
    tried, open_ = [], []
    for path, flags in _paths(address, lab):
        try:
            os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
            open_.append(path)
        except OSError as error:
            tried.append(f"{path}: {error.strerror}")
    if open_:
        return fail(f"you can open {', '.join(open_)}", *(Reading(path, "opened") for path in open_))
    return passed(f"{len(tried)} files could not be opened", *(Reading(*line.split(": ", 1)) for line in tried))


def _paths(address: str, lab: Lab) -> Iterator[tuple[str, int]]:
    """Files that give power over devices, and how they would be opened."""
    device = PCI / "devices" / address
    for name in ("config", "reset", "remove", "driver_override", *(f"resource{bar}" for bar in range(6))):
        if (device / name).exists():
            yield str(device / name), os.O_RDWR if name.startswith("resource") else os.O_WRONLY
    for folder in ("/dev/vfio", "/dev/vfio/devices"):
        for node in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            if not node.is_dir() and node.name != "vfio":  # the container's node alone does nothing
                yield str(node), os.O_RDWR
    for path in ("/dev/mem", "/dev/port", "/etc/ixy_vfio/policy.toml", "/sys/bus/pci/drivers/vfio-pci/unbind"):
        if Path(path).exists():
            yield path, os.O_WRONLY
    if not lab.simulated:
        yield f"/proc/{_helper_pid(address, lab)}/mem", os.O_RDWR


def _helper_pid(address: str, lab: Lab) -> int:
    """Of the helper's process that serves the lease."""
    return int((Path(lab.lease.path).parent / "leases" / f"{address}.lease").read_text().split()[1])


def _refused_by_the_helper(field: Field, lab: Lab) -> Findings:
    with field.lease() as second:
        yield _must_refuse("a device that is leased", lambda: second.attach(field.address))
    yield _must_refuse("a device that is nobody's", lambda: lab.lease.attach("0000:ff:1f.7"))
    beyond = lab.lease.memory_limit + 4096
    yield _must_refuse("more memory than was granted", lambda: lab.lease.memory(beyond, [lab.device], Purpose.PACKETS))
    if not lab.simulated:
        yield _other_address_spaces(lab)
    lab.lease.seal()
    try:
        lab.lease.memory(4096, [lab.device], Purpose.PACKETS)
        yield fail("the helper gives memory after it was told to give nothing more")
    except LeaseError as error:
        yield passed("asking after the seal ends the lease", Reading("lease", str(error)))


def _must_refuse(what: str, ask: Callable[[], object]) -> Finding:
    try:
        ask()
    except RefusedError as error:
        return passed(f"the helper refuses {what}", Reading("helper", str(error)))
    return fail(f"the helper gives {what}")


def _other_address_spaces(lab: Lab) -> Finding:
    """With a descriptor of the device, attach it to every address space of its iommufd: there must be one only."""
    mine = os.urandom(BLOCK)
    lab.work.view[LANDED : LANDED + BLOCK] = mine
    tried = 0
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        target = os.readlink(path) if os.path.islink(path) else ""
        if "vfio-device" not in target and not target.startswith("/dev/vfio/"):
            continue
        for identity in range(OTHER_IDS):
            tried += 1
            try:
                fcntl.ioctl(int(name), VFIO_ATTACH, bytearray(struct.pack("=III", 12, 0, identity)))
            except OSError:
                continue
            # The address space that it has already answers to a number, too.
            if lab.engine.read(lab.work.iova + LANDED, DEADLINE) != mine:
                return fail(f"the device can be attached to another address space: {identity}")
    return passed(f"{tried} attempts to give the device another address space failed")
