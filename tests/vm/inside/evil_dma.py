"""Runs in a guest: attack code in a sealed worker aims a leased NIC at memory that is not its own.

    evil_dma.py HELPER_BY_CDEV HELPER_BY_GROUP PORT0 PORT1 PORT2

Ports 0 and 1 are the attacker's (uid 1000); port 2 is leased to somebody else (uid 1001), whose memory is full of
canaries, as is a page of root's. Each attack is made at an address that the lease maps, then at one that it must not
reach; each time with a new lease. Prints one JSON object.
"""

import ctypes
import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import ixy_vfio.transport.vfio  # noqa: F401  (now, while it may be read)
from ixy_vfio.core.errors import LeaseError
from ixy_vfio.datapath.queue import counters
from ixy_vfio.runtime import child
from ixy_vfio.runtime.plan import Plan
from ixy_vfio.runtime.worker import Job
from ixy_vfio.transport.lease import Lease
from tests.attack import evil_dma as evil
from tests.attack.evil_dma import Attack, Evil, Port, Target
from tests.model_nic import World
from tests.programs import program_of
from tests.vm.inside.beside import ATTACKER, CANARY, PAGE, Other, become, canaries

# Seconds between attacks, each of which is one fault: in five seconds the kernel tells of three.
QUIET = 2.2
TOLD = 16384  # where in packet memory the attack says what came of it
FEW = ("the page behind the packets", "memory of another session", "physical memory")
# The attack, and an offset in packet memory that shows it to work. To the IOMMU a read is a read: one kind of read and
# one of write at every address, the others at a few.
KINDS: dict[str, tuple[Callable[..., Attack], int]] = {
    "transmit": (evil.transmit_from, 64),
    "ring": (evil.ring_at, 4096),
    "head": (evil.head_written_to, 8192),
    "receive": (evil.receive_to, 8192),
}
EVERYWHERE = ("transmit", "head")


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


def targets(other: Other, page: RootsPage) -> dict[str, Target]:
    """Addresses that the attacker's first NIC must not reach."""
    return evil.NEAR | {
        "memory of another session": lambda _: other.number,
        "physical memory": lambda _: page.physical,
        "an address of control": lambda _: page.virtual,
    }


class Attacker:
    """Leases of ports 0 and 1, one after the other, each with a sealed worker that attacks."""

    def __init__(self, helper: str, ports: tuple[str, str], untouched: Callable[[], bool]) -> None:
        self._helper, self._ports, self._untouched = helper, ports, untouched
        self._quiet = 0.0  # until then
        self._told = b""

    def at(self, kind: str, target: Target) -> dict[str, Any]:
        """Attack at a mapped address, then there; what each told, and how the helper ended the lease."""
        make, offset = KINDS[kind]
        mapped, there = make(lambda port: port.packets.iova + offset), make(target)

        def hold(port: Port) -> str:
            """Tell it in packet memory, and stay: how the lease ends is to be seen."""
            evil.pause(self._quiet - time.monotonic())
            port.put(TOLD, mapped(port).encode())
            port.put(TOLD + 32, there(port).encode())
            while True:
                os.sched_yield()

        job, _, ended = self._run(hold)
        self._quiet = time.monotonic() + QUIET
        told = self._told
        first, second = (part.rstrip(b"\0").decode() for part in (told[:32], told[32:]))
        iova = target(Port(job))
        return {"iova": iova, "mapped": first, "told": second, "ended": ended, "untouched": self._untouched()}

    def _run(self, attack: Attack) -> tuple[Job, str, str]:
        one, told, ended = Evil(attack), "", ""
        close = Lease.close

        def closing(lease: Lease) -> None:
            """The helper takes the pages back when its client leaves."""
            if one.job is not None:
                self._told = bytes(one.job.pool.memory.view[TOLD : TOLD + 64])
            close(lease)

        try:
            with mock.patch.object(Lease, "close", closing):
                plan = Plan(self._ports, program_of(one, "evil"), helper=self._helper, link_deadline=120.0)
                told = evil.drive(plan, one, 60.0)
        except LeaseError as error:
            ended = str(error)
        assert one.job is not None
        return one.job, told, ended

    def interrupts(self) -> str:
        """DMA writes to the interrupt controller; what the attack told."""
        return self._run(evil.head_written_to(lambda _: evil.REMAPPABLE, lambda _: evil.COMPATIBLE))[1]


def main(by_cdev: str, by_group: str, *ports: str) -> None:
    evil.DMA_DEADLINE = 10.0
    child.DEADLINE = 30.0  # a worker that waits for QUIET answers nobody
    world = World(buffers=64)
    world.pairs[0].arm()  # compiled now, while it may be written, as is what counts
    counters(world.pairs[0])
    page, other = RootsPage(), Other(lambda: canaries(by_cdev, ports[2]))
    become(ATTACKER)

    def untouched() -> bool:
        return page.untouched() and other.untouched()

    where = targets(other, page)
    attacker = Attacker(by_cdev, (ports[0], ports[1]), untouched)
    result: dict[str, Any] = {
        kind: {name: attacker.at(kind, where[name]) for name in (where if kind in EVERYWHERE else FEW)}
        for kind in KINDS
    }
    time.sleep(QUIET)
    by_other_way = Attacker(by_group, (ports[0], ports[1]), untouched)
    result["by group"] = by_other_way.at("receive", where["memory of another session"])
    result["interrupts"] = {"told": attacker.interrupts(), "untouched": untouched()}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
