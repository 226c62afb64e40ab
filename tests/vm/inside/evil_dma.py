"""Runs in a guest: attack code in a sealed worker aims a leased NIC at memory that is not its own.

    evil_dma.py KIND PORT0 PORT1 PORT2

Ports 0 and 1 are the attacker's (uid 1000); port 2 is leased to somebody else (uid 1001), whose memory is full of
canaries, as is a page of root's. The attack is made at each address that it must not reach, then at one that the lease
maps, each time with a new lease. Prints one JSON object.
"""

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import ixy_vfio.transport.vfio  # noqa: F401  (now, while it may be read)
from ixy_vfio.core.errors import LeaseError
from ixy_vfio.ixgbe.datapath import arm
from ixy_vfio.runtime.control import Plan
from ixy_vfio.runtime.worker import Job
from ixy_vfio.transport.lease import Lease, Purpose
from tests.attack import evil_dma as evil
from tests.attack.evil_dma import Evil, Port
from tests.model_nic import World
from tests.vm.inside.leased import SOCKET

PAGE = 4096
QUIET = 6.0  # seconds; the kernel logs ten faults in five: each attack shall find the log open
CANARY = b"\xc5"
ATTACKER, OTHER = 1000, 1001
TOLD = 16384  # where in packet memory the attack says what came of it
KINDS: dict[str, tuple[Callable[[Callable[[Port], int]], Callable[[Port], str]], int]] = {
    # the attack, and a mapped offset for the positive control
    "transmit": (evil.transmit_from, 64),
    "ring": (evil.ring_at, 4096),
    "head": (evil.head_written_to, 8192),
    "receive": (evil.receive_to, 8192),
}


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Other:
    """The other user's session, in a process of its own, that answers questions on a socket."""

    def __init__(self, address: str) -> None:
        self._connection, theirs = socket.socketpair()
        if os.fork() == 0:
            self._connection.close()
            become(OTHER)
            self._serve(address, theirs)
        theirs.close()
        self._connection.settimeout(60)
        self.far = int(self._connection.recv(64))

    def _serve(self, address: str, connection: socket.socket) -> None:
        with Lease(SOCKET) as lease:
            memory = lease.memory(16 << 20, [lease.attach(address)], Purpose.PACKETS)
            zeroed = not any(memory.view)
            memory.view[:] = CANARY * memory.size
            connection.send(b"%d" % (memory.iova + memory.size - PAGE))
            while connection.recv(1):
                lease.check()
                connection.send(b"y" if zeroed and bytes(memory.view) == CANARY * memory.size else b"n")
        os._exit(0)

    def untouched(self) -> bool:
        self._connection.send(b"?")
        return self._connection.recv(1) == b"y"


class RootsPage:
    """A page of memory that is in no lease, and where it lies physically."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGE)
        self.memory[:] = CANARY * PAGE
        self.virtual = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(self.virtual // PAGE * 8)
            (entry,) = struct.unpack("<Q", file.read(8))
        self.physical = (entry & (1 << 55) - 1) * PAGE
        assert self.physical

    def untouched(self) -> bool:
        return self.memory[:] == CANARY * PAGE


def targets(other: Other, page: RootsPage) -> dict[str, Callable[[Port], int]]:
    """Addresses that the attacker's first NIC must not reach."""
    return {
        "the page before the packets": lambda port: port.packets.iova - PAGE,
        "the page behind the packets": lambda port: port.packets.iova + port.packets.size,
        "the page before the rings": lambda port: min(port.queue.rx.iova, port.queue.tx.iova) // PAGE * PAGE - PAGE,
        "the page behind the rings": lambda port: max(
            -(-(ring.iova + 16 * ring.descriptors) // PAGE) * PAGE for ring in (port.queue.rx, port.queue.tx)
        ),
        "the rings of the other port": lambda port: port.job.pairs[1].queue.tx.iova,
        "memory of another session": lambda _: other.far,
        "physical memory": lambda _: page.physical,
        "an address of control": lambda _: page.virtual,
    }


def run(attack: Callable[[Port], str], ports: tuple[str, str], stay: bool) -> tuple[Job, str, str]:
    """A lease and a sealed worker that attacks; its job, what the attack told, and how the helper ended the lease."""

    def hold(port: Port) -> str:
        """Tell it in packet memory, and stay: how the lease ends is to be seen."""
        port.put(TOLD, attack(port).encode())
        while True:
            os.sched_yield()

    one, told, ended = Evil(hold if stay else attack), "", ""
    try:
        told = evil.drive(Plan(ports, one, "evil", helper=SOCKET, link_deadline=120.0), one, 30.0)
    except LeaseError as error:
        ended = str(error)
    assert one.job is not None
    return one.job, told or bytes(one.job.pool.memory.view[TOLD : TOLD + 16]).rstrip(b"\0").decode(), ended


def main(kind: str, *ports: str) -> None:
    evil.DMA_DEADLINE = 10.0
    world = World(buffers=64)
    arm(world.pairs[0].state)  # compiled now, while it may be written
    page, other = RootsPage(), Other(ports[2])
    become(ATTACKER)
    make, offset = KINDS[kind]

    def at(target: Callable[[Port], int], stay: bool) -> dict[str, Any]:
        time.sleep(QUIET)
        job, told, ended = run(make(target), (ports[0], ports[1]), stay)
        untouched = page.untouched() and other.untouched()
        return {"iova": target(Port(job)), "told": told, "ended": ended, "untouched": untouched}

    result = {name: at(target, True) for name, target in targets(other, page).items()}
    mapped = at(lambda port: port.packets.iova + offset, False)  # last: so a lease that was ended is no hindrance
    print(json.dumps({"mapped": mapped, "attacks": result}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
