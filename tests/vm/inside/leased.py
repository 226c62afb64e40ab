"""A client of the helper in a guest: leases QEMU's edu device, without privileges, and lets it do DMA."""

import contextlib
import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import Allocated, Attach, Attached, End, Ended, Hello, List, Listed, Memory, Message

from tests.vm.inside.raw_vfio import PAGE, Device

SOCKET = "/run/ixy_vfio/helper.sock"


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
    ended, _ = client.ask(End())
    assert isinstance(ended, Ended)
    print(json.dumps({"listed": [listed.address, listed.driver, listed.state], "iova": [from_, to],
                      "target": target[:8].decode(), "locked": locked, "ended": ended.reason}))  # fmt: skip


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
    time.sleep(1.0)  # unmapping comes next; until then it reaches its own memory still
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


def refused(address: str) -> None:
    """Say what the helper says to an attach."""
    print(Client().ask(Attach(address))[0])


if __name__ == "__main__":
    uid = int(sys.argv[3])  # given up here, as the interpreter may lie where that user cannot start it
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    scenes = (dma, fault, survivor, hidden, wanted_back, refused)
    {scene.__name__: scene for scene in scenes}[sys.argv[1]](sys.argv[2])
