"""A client of the helper in a guest: leases QEMU's edu device, without privileges, and lets it do DMA."""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import resource
import socket
import struct
import sys
import time
from pathlib import Path

from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import Allocated, Attach, Attached, End, Ended, Hello, List, Listed, Memory, Message

from tests.vm.inside.raw_vfio import PAGE, Device

SOCKET = "/run/ixy_vfio/helper.sock"
OVER = Path("/run/policy/over")  # made by root: something else is over
REQUEST, ERROR = 4, 3  # VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ERR_IRQ_INDEX


def edu_dma(device: Device, iova: int, to_memory: bool) -> None:
    """As raw_vfio.edu_dma, with addresses of 64 bits."""
    buffer = 0x40000
    source, destination = (buffer, iova) if to_memory else (iova, buffer)
    start, _ = device.region(0)
    os.pwrite(device.fd, source.to_bytes(8, "little"), start + 0x80)
    os.pwrite(device.fd, destination.to_bytes(8, "little"), start + 0x88)
    device.write(0, 0x90, PAGE)
    device.write(0, 0x98, 3 if to_memory else 1)
    deadline = time.monotonic() + 20
    while device.read(0, 0x98) & 1:
        if time.monotonic() > deadline:
            raise TimeoutError("edu: the DMA does not end")
        time.sleep(0.02)


class Client:
    """The lease connection."""

    def __init__(self, helper: str = SOCKET) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(30)
        self.connection.connect(helper)
        self.sequence = 0
        welcome, _ = self.ask(Hello())
        if isinstance(welcome, Ended):
            raise SystemExit(welcome.reason)

    def ask(self, message: Message) -> tuple[Message, list[int]]:
        self.sequence += 1
        with contextlib.suppress(OSError):  # a refusal closes at once; what it said can still be read
            protocol.send(self.connection, message, self.sequence)
        return self.hear()

    def hear(self) -> tuple[Message, list[int]]:
        try:
            received = protocol.receive(self.connection, protocol.REPLIES)
        except ConnectionResetError:
            received = protocol.receive(self.connection, protocol.REPLIES)
        assert received is not None
        return received[1:]

    def attach(self, address: str) -> Device:
        reply, fds = self.ask(Attach(address))
        if not isinstance(reply, Attached):
            raise SystemExit(str(reply))
        device = Device()
        device.fd = fds[0]
        return device

    def memory(self, fill: bytes, devices: int = 1) -> tuple[int, mmap.mmap]:
        reply, fds = self.ask(Memory(PAGE, devices, 1))
        assert isinstance(reply, Allocated), reply
        mapped = mmap.mmap(fds[0], reply.size)
        os.close(fds[0])
        assert mapped[:] == bytes(reply.size)
        mapped[:PAGE] = fill * (PAGE // len(fill))
        return reply.iova, mapped


def dma(address: str) -> None:
    """Carry a page through the device; then end the lease."""
    client = Client()
    device = client.attach(address)
    listed, _ = client.ask(List(0))
    assert isinstance(listed, Listed)
    (from_, _), (to, target) = client.memory(b"source.."), client.memory(b"target..")
    device.bus_master(True)
    edu_dma(device, from_, to_memory=False)
    edu_dma(device, to, to_memory=True)
    status = Path("/proc/self/status").read_text()
    locked = [line.split()[1] for line in status.splitlines() if line.startswith("VmLck")]
    os.close(device.fd)
    carried = target[:8].decode()
    ended, _ = client.ask(End())
    assert isinstance(ended, Ended)
    assert target[:8] == bytes(8)  # its pages were given back
    print(json.dumps({"listed": [listed.address, listed.driver, listed.state], "iova": [from_, to],
                      "target": carried, "locked": locked, "ended": ended.reason}))  # fmt: skip


def fault(address: str) -> None:
    """Let the device write where nothing is mapped; say what the helper says to that."""
    client = Client()
    device = client.attach(address)
    iova, memory = client.memory(b"canary..")
    device.bus_master(True)
    edu_dma(device, iova + PAGE, to_memory=True)  # the guard gap
    ended, _ = client.hear()
    assert isinstance(ended, Ended)
    print(json.dumps({"memory": memory[:8].decode(), "ended": ended.reason}))


def survivor(address: str) -> None:
    """This process is to be killed; its child keeps the device's descriptor, and tries to go on with DMA."""
    client = Client()
    device = client.attach(address)
    iova, memory = client.memory(b"canary..")
    device.bus_master(True)
    before = device.read(7, 4) & 0xFFFF
    if os.fork():
        time.sleep(600)
    client.connection.close()
    print(json.dumps({"before": before}), flush=True)
    deadline = time.monotonic() + 30
    while (after := device.read(7, 4) & 0xFFFF) & 4:
        if time.monotonic() > deadline:
            raise SystemExit("bus mastering stays on")
        time.sleep(0.02)
    while memory[:8] == b"canary..":  # unmapping comes next, and then its pages are given back
        if time.monotonic() > deadline:
            raise SystemExit("the memory is not given back")
        time.sleep(0.02)
    memory[:8] = b"canary.."
    device.bus_master(True)
    edu_dma(device, iova, to_memory=True)
    print(json.dumps({"after": after, "memory": memory[:8].decode()}), flush=True)


def hidden(address: str) -> None:
    """This process is to be killed; its child keeps the device's descriptor until it is killed as well."""
    client = Client()
    client.attach(address)
    if not os.fork():
        client.connection.close()
        print(os.getpid(), flush=True)
    time.sleep(600)


def wanted_back(address: str) -> None:
    """Hold a device until the helper ends the lease; then let it go."""
    client = Client()
    device = client.attach(address)
    print("up", flush=True)
    ended, _ = client.hear()
    assert isinstance(ended, Ended)
    os.close(device.fd)
    print(ended.reason, flush=True)


def deaf(address: str, way: str) -> None:
    """Take the interrupts by which the kernel tells the helper that it wants the device; then as `wanted_back`."""
    client = Client()
    device = client.attach(address)
    mine = os.eventfd(0)
    for index in (REQUEST, ERROR):
        # By groups they are turned off (DATA_NONE), by iommufd they are this process's own (DATA_EVENTFD).
        layout, fields = ("IIIIi", (0x24, index, 0, 1, mine)) if way == "cdev" else ("IIII", (0x21, index, 0, 0))
        data = struct.pack("=I" + layout, struct.calcsize("=I" + layout), *fields)
        with contextlib.suppress(OSError) if index == ERROR else contextlib.nullcontext():
            fcntl.ioctl(device.fd, 0x3B6E, data)
    print("up", flush=True)
    ended, _ = client.hear()
    assert isinstance(ended, Ended)
    os.close(device.fd)
    print(ended.reason, flush=True)


def held(address: str) -> None:
    """Hold a device until something is over; say whether the lease still is one."""
    client = Client()
    client.attach(address)
    print("up", flush=True)
    while not OVER.exists():
        time.sleep(0.1)
    print(type(client.ask(List(0))[0]).__name__, flush=True)


def named(address: str) -> None:
    """Die by null pointers under names that begin like what an IOMMU's driver or vfio-pci logs."""
    number = address.partition(":")[2]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in (f"DMAR {number}", f"AMD-Vi {number}", "DMAR: [DMA Read", f"vfio-pci {address}"):
        pid = os.fork()
        if not pid:
            ctypes.CDLL(None).prctl(15, name.encode()[:15])  # PR_SET_NAME; its /proc is root's since it changed its uid
            ctypes.string_at(0)
        assert os.waitpid(pid, 0)[1] & 0x7F == 11
    print("done")


def keeps(address: str) -> None:
    """Lease after lease, and what was got in each is kept, and written to."""
    size, huge, kept, free = 64 << 20, 8 << 20, [], []
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    for _ in range(5):
        client = Client()
        device = client.attach(address)
        for bytes_, purpose in ((size, 1), (huge, 2)):
            reply, fds = client.ask(Memory(bytes_, 1, purpose))
            assert isinstance(reply, Allocated), reply
            view = mmap.mmap(fds[0], reply.size)
            for at in range(0, reply.size, reply.page_size):
                view[at] = 1
            kept.append((fds[0], view, reply.page_size))
        free.append(int(pool.read_text()))
        os.close(device.fd)
        assert isinstance(client.ask(End())[0], Ended)
        free.append(int(pool.read_text()))
    held_now = sum(os.fstat(fd).st_blocks * 512 for fd, *_ in kept)
    print(json.dumps({"free": free, "kept": held_now, "pages": [page for *_, page in kept[:2]], "byte": kept[0][1][0]}))


def both(*addresses: str) -> None:
    """Ask for devices in one lease; say what the last answer is."""
    client = Client()
    for address in addresses:
        reply = client.ask(Attach(address))[0]
    print(reply)


def refused(address: str) -> None:
    """Say what the helper says to an attach."""
    print(Client().ask(Attach(address))[0])


if __name__ == "__main__":
    what, uid, *words = sys.argv[1], int(sys.argv[3]), sys.argv[2], *sys.argv[4:]
    os.setgroups([])  # given up here, as the interpreter may lie where that user cannot start it
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    scenes = (dma, fault, survivor, hidden, wanted_back, deaf, held, named, keeps, both, refused)
    {scene.__name__: scene for scene in scenes}[what](*words)
