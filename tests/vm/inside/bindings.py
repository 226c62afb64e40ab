"""Runs in a guest, as root: a NIC is bound and given back with a fault, or a kill -9, at every step.

    bindings.py ADDRESS PEER [fault] [kill] [unbind]

PEER is a NIC on the same wire; the series are a fault at each step of bind, a kill at each, and a kill at each step of
unbind (without a name: all three). Prints a JSON object: for each series the steps in order, as far as each was
followed by what was before (else with what was found instead), and whether the host at PEER answered at the end.
"""

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ixy_vfio_helper.kernel import ROOT, VFIO_PCI, PciDevice
from ixy_vfio_setup import bind, netrestore
from ixy_vfio_setup.bound import Bound
from ixy_vfio_setup.netlink import Netlink, unpack

NAME, MTU, FAULT = "uplink0", 1400, 3
OBJECTS = {20: "address", 24: "route", 28: "neighbour", 104: "nexthop", 21: "no address", 25: "no route"}
Fail = Callable[[], None]


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def steps(tried: set[str], fails: bool) -> None:
    """From now on the first step not `tried` is an error in its place (`fails`), or the last: kill -9 comes after it.

    A step is known by what it does and how often that was done: how many there are varies with what the kernel sets.
    """
    done: Counter[str] = Counter()
    failed: list[str] = []

    def step(what: str, act: Callable[[], Any]) -> Any:
        done[what] += 1
        if (key := f"{what} {done[what]}") in tried or failed:
            return act()
        failed.append(key)  # one a run: what puts things back goes through
        Path("/run/step").write_text(key)
        if fails:
            raise OSError(errno.EIO, "injected")
        try:
            act()
        finally:  # also after a change that the kernel refuses, and that is noted
            os.kill(os.getpid(), signal.SIGKILL)

    write, change, keep, forget = bind.write, Netlink.change, Bound.write, Bound.remove

    def faulty_write(path: Path, text: str) -> None:
        what = f"{path.name}={text.strip()}" if path.name in ("driver_override", "mtu") else path.name
        step(what, lambda: write(path, text.rstrip("\n")))

    def faulty_change(netlink: Netlink, kind: int, body: bytes, flags: int = 0) -> None:
        step(OBJECTS.get(kind) or meaning(body), lambda: change(netlink, kind, body, flags))

    bind.write = netrestore.write = faulty_write
    Netlink.change = faulty_change  # type: ignore[method-assign, assignment]
    Bound.write = lambda self, entry: step("journal", lambda: keep(self, entry))  # type: ignore[method-assign]
    Bound.remove = lambda self, address: step("forget", lambda: forget(self, address))  # type: ignore[method-assign]


def meaning(body: bytes) -> str:
    """What a message changes of the interface itself."""
    flags, mask = struct.unpack_from("=II", body, 8)
    attributes = dict(unpack(body[16:]))
    if mask:
        return "up" if flags & 1 else "down"
    return f"name {attributes[3].rstrip(bytes(1)).decode()}" if 3 in attributes else f"attributes {[*attributes]}"


def attempt(act: Fail, tried: set[str], fails: bool) -> int:
    """Do it in a child that fails, or dies, at the first step not tried; its exit status, -9 when it was killed."""
    pid = os.fork()
    if pid == 0:
        steps(tried, fails)
        try:
            act()
        except OSError as error:
            os._exit(FAULT if error.strerror == "injected" else 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Nic:
    """The NIC, its interface up and named as the test wants it."""

    def __init__(self, address: str) -> None:
        self.device = PciDevice(address)
        os.makedirs("/run/bindings", exist_ok=True)
        self.journal = Bound(Path("/run/bindings"))
        (now,) = bind._interfaces(self.device)
        self.was = now.name
        ip(f"link set {now.name} down")
        if now.name != NAME:
            ip(f"link set {now.name} name {NAME}")
        ip(f"link set {NAME} mtu {MTU}")
        ip(f"link set {NAME} up")
        self.before = self.state()

    def state(self) -> object:
        return (self.device.driver, self.device.read("driver_override"), bind._interfaces(self.device),
                self.journal.addresses())  # fmt: skip

    def bind(self) -> None:
        with self.journal:
            bind.bind(self.device, self.journal, down=True, other=True)

    def unbind(self) -> None:
        with self.journal:
            bind.unbind(self.device, self.journal)

    def recover(self) -> None:
        """What the helper does when it starts; and unbind, where the device stays bound."""
        with self.journal:
            bind.recover(self.journal, ROOT)
        if self.device.driver == VFIO_PCI:
            self.unbind()

    def give_back(self) -> None:
        """The name that it had."""
        ip(f"link set {NAME} down")
        if self.was != NAME:
            ip(f"link set {NAME} name {self.was}")

    def judged(self, step: str) -> str:
        """The step; with what was found, if that is not what was before."""
        return step if self.state() == self.before else f"{step}: {self.state()}"


def series(nic: Nic, kind: str) -> list[str]:
    """A fault, or a kill, at every step there is."""
    found: list[str] = []
    tried: set[str] = set()
    while True:
        if kind == "unbind":
            nic.bind()
        status = attempt(nic.unbind if kind == "unbind" else nic.bind, tried, kind == "fault")
        if status == 0:
            if kind != "unbind":
                nic.unbind()
            return [*found, nic.judged("done")]
        key = Path("/run/step").read_text()
        tried.add(key)
        step = key.rpartition(" ")[0]
        if status != (FAULT if kind == "fault" else -signal.SIGKILL):
            return [*found, f"{step}: status {status}"]
        if kind != "fault":
            nic.recover()
        found.append(nic.judged(step))


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ping(deadline: float = 180.0) -> bool:
    """Whether 10.99.0.2 answers an echo."""
    ip(f"address replace 10.99.0.1/24 dev {NAME}")  # a NIC that was away has no address
    body = struct.pack(">HH", os.getpid() & 0xFFFF, 1) + b"payload."
    echo = struct.pack(">BBH", 8, 0, checksum(struct.pack(">BBH", 8, 0, 0) + body)) + body
    end = time.monotonic() + deadline
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as packets:
        packets.settimeout(0.5)
        while time.monotonic() < end:
            try:
                packets.sendto(echo, ("10.99.0.2", 0))
                if packets.recv(256)[20:21] == b"\0":
                    return True
            except OSError:
                time.sleep(0.1)
    return False


def main(address: str, peer: str, *kinds: str) -> None:
    """The far host first."""
    far = bind._interfaces(PciDevice(peer))[0].name
    ip("netns add far")
    try:
        ip(f"link set {far} netns far")
        ip(f"-n far address add 10.99.0.2/24 dev {far}")
        ip(f"-n far link set {far} up")
        nic = Nic(address)
        result: dict[str, object] = {"before": ping()}
        for kind in kinds or ("fault", "kill", "unbind"):
            result[kind] = [series(nic, kind), ping()]
        nic.give_back()
    finally:
        ip(f"-n far link set {far} netns 1")
        ip("netns delete far")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
