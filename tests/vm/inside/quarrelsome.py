"""Runs in a guest as a user who has one device, and who wants to end, block or hoard what others need of the helper.

    quarrelsome.py SECONDS MESSAGES HELPER OWN OTHER...

OWN is this user's device, the others are somebody else's. Does everything below in turns until SECONDS are over and
MESSAGES fuzzed messages are sent, says "done", and keeps its locks until it is killed. Prints a JSON object a round.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ixy_vfio_helper import protocol
from ixy_vfio_helper.protocol import Allocated, Attach, Attached, Hello, List, Memory, Message, Purpose, encode

from tests.attack.messages import mutated_session, sessions

PR_SET_NAME, PR_SET_DUMPABLE = 15, 4  # linux/prctl.h
# Where files lie that a helper, a lease, bind or setup could have locked.
PLACES = ("/run/ixy_vfio", "/var/lib/ixy_vfio", "/etc/ixy_vfio", "/run/policy", "/run/lock", "/sys/bus/pci/devices")
VFIO_DEVICE_SET_IRQS = 0x3B6E  # linux/vfio.h, as the three below
EVENTFD_TRIGGER, NONE_TRIGGER = 1 << 2 | 1 << 5, 1 << 0 | 1 << 5
ERROR_INDEX, REQUEST_INDEX = 3, 4
PIECE = 16 << 20
PATIENCE = 60.0  # seconds for a lease to end, on an emulated processor
SILENT, NEVER_READ = 64, 400


def connect(helper: str, deadline: float = 20.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(deadline)
    connection.connect(helper)
    return connection


def answers(connection: socket.socket) -> Iterator[tuple[Message, list[int]]]:
    """What the helper says, until it closes or is silent for the socket's deadline."""
    while True:
        try:
            said = protocol.receive(connection, protocol.REPLIES)
        except ConnectionResetError:  # told once, when something of ours was not read
            continue
        except OSError:
            return
        if said is None:
            return
        yield said[1], said[2]


class Client:
    """A lease, by the bytes of its protocol; keeps every descriptor that it gets."""

    def __init__(self, helper: str) -> None:
        self.connection, self._sequence, self.fds = connect(helper), 0, list[int]()
        self.ask(Hello())

    def ask(self, request: Message) -> Message | None:
        """The answer, None if the lease is over."""
        self._sequence += 1
        with contextlib.suppress(OSError):
            self.connection.send(encode(request, self._sequence))
        for answer, fds in answers(self.connection):
            self.fds += fds
            return answer
        return None

    def close(self) -> None:
        """Close everything."""
        for fd in (*self.fds, self.connection.detach()):
            os.close(fd)
        self.fds = []


def child(work: Callable[[], None]) -> int:
    """A process that does this and ends; its identity."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def die_as(name: str) -> None:
    """A segmentation fault, of which the kernel writes a line that begins with this name."""
    libc = ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    ctypes.string_at(8)


def names_of_faults(devices: Sequence[str]) -> int:
    """Segmentation faults of processes that are called like the kernel's lines about the IOMMU."""
    names = [form.format(device[5:]) for device in devices for form in ("DMAR {}", "DMAR: [DMA", "AMD-Vi: Event", "{}")]
    for name in names:
        os.waitpid(child(lambda name=name: die_as(name)), 0)  # type: ignore[misc]
    return len(names)


class Locks:
    """Every lock that this user can have on a file of the helper's; kept until the process ends."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self.held = 0

    def take(self) -> int:
        """Lock whatever has come since; how many locks there are."""
        for place in PLACES[:-1]:
            for folder, _, files in os.walk(place):
                for path in (folder, *(f"{folder}/{file}" for file in files)):
                    if path not in self._fds:
                        self._lock(path)
        return self.held

    def _lock(self, path: str) -> None:
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                self._fds[path] = fd = os.open(path, flags | os.O_NONBLOCK)
                break
            except OSError:
                continue
        else:
            return
        whole = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        for lock in (
            lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole),
            lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        ):
            with contextlib.suppress(OSError):
                lock()
                self.held += 1


class Quarrel:
    """The attacks that need a device or the socket."""

    def __init__(self, helper: str, own: str, other: str) -> None:
        self.helper, self.own = helper, own
        self._recorded = sessions(own, other)
        self._chance = random.Random(82599)
        self._hoard: list[int] = []

    def _lease(self) -> tuple[Client, int]:
        """A lease of this user's own device, as soon as its lease before is over, and the device's descriptor."""
        end = time.monotonic() + PATIENCE
        while True:
            client = Client(self.helper)
            attached = client.ask(Attach(self.own))
            if isinstance(attached, Attached):
                return client, client.fds[-1]
            client.close()
            assert isinstance(attached, protocol.Refused), attached
            assert f"leased by uid {os.getuid()} " in attached.reason, attached
            assert time.monotonic() < end, attached
            time.sleep(0.1)

    def hoard(self) -> int:
        """As much memory as there is to have; its descriptors are kept beyond the lease. MiB of this lease."""
        client, _ = self._lease()
        got = 0
        while isinstance(client.ask(Memory(PIECE, 1, Purpose.PACKETS)), Allocated):
            self._hoard.append(client.fds.pop())
            got += PIECE >> 20
        client.close()
        return got

    def take_interrupts(self) -> int:
        """The helper's own: by them the kernel asks for the device back, and reports its errors."""
        client, device = self._lease()
        done = 0
        for index in (REQUEST_INDEX, ERROR_INDEX):
            for flags, more in ((EVENTFD_TRIGGER, struct.pack("i", os.eventfd(0))), (NONE_TRIGGER, b"")):
                count = 1 if more else 0
                head = struct.pack("IIIII", 20 + len(more), flags, index, 0, count)
                with contextlib.suppress(OSError):
                    fcntl.ioctl(device, VFIO_DEVICE_SET_IRQS, head + more)
                    done += 1
        client.close()
        return done

    def fuzz(self, messages: int) -> int:
        """Mutated sessions, each after some messages that are right."""
        sent = 0
        while sent < messages:
            connection = connect(self.helper)
            packets = mutated_session(self._recorded, self._chance)
            listed = self._chance.randrange(60)
            packets[1:1] = [(encode(List(0), 2), 0)] * listed
            with connection:
                for packet, fds in packets:
                    try:
                        socket.send_fds(connection, [packet], [0] * fds) if fds else connection.send(packet)
                    except OSError:
                        break
                    sent += 1
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                for _, fds_ in answers(connection):
                    for fd in fds_:
                        os.close(fd)
        return sent

    def say_nothing(self) -> int:
        """Connections that say nothing, and one that reads nothing; how many could be made."""
        made: list[socket.socket] = []
        for _ in range(SILENT):
            with contextlib.suppress(OSError):
                made.append(connect(self.helper, 0.5))
        time.sleep(1)
        for connection in made:
            connection.close()
        deaf = connect(self.helper, 0.2)
        with contextlib.suppress(OSError):
            for number in range(NEVER_READ):
                deaf.send(encode(Hello() if not number else List(0), number + 1))
        time.sleep(1)
        deaf.close()
        return len(made)

    def die_with_the_device(self) -> int:
        """A client that is killed; its child keeps the device, and its memory, for a while."""

        def keep() -> None:
            client, _ = self._lease()
            client.ask(Memory(PIECE, 1, Purpose.PACKETS))
            if os.fork() == 0:
                client.connection.close()
                time.sleep(2)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

        os.waitpid(child(keep), 0)
        time.sleep(3)
        return 1

    def refused(self, other: str) -> int:
        """Somebody else's device, named by a client that may not have it."""
        client = Client(self.helper)
        answer = client.ask(Attach(other))
        client.close()
        return int(isinstance(answer, protocol.Refused))


def free(quarrel: Quarrel, patience: float = 60.0) -> None:
    """Wait until this user's own device can be had again: the kernel resets it, and may take its time."""
    end = time.monotonic() + patience
    while True:
        client = Client(quarrel.helper)
        answer = client.ask(Attach(quarrel.own))
        client.close()
        if isinstance(answer, Attached):
            return
        if time.monotonic() > end:
            raise SystemExit(f"this user cannot have its own device any more: {answer}")
        time.sleep(0.2)


def main(seconds: float, messages: int, helper: str, own: str, *others: str) -> None:
    """The rounds."""
    os.umask(0)
    for path in sorted(Path("/proc/self/fd").iterdir()):
        if int(path.name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(path.name))
    quarrel, locks = Quarrel(helper, own, others[0]), Locks()
    begun, sent, rounds = time.monotonic(), 0, 0
    share = 400
    while time.monotonic() - begun < seconds or sent < messages:
        turn: dict[str, int] = {"faults": names_of_faults([own, *others])}
        turn["locks"] = locks.take()
        for name, attack in (
            ("hoarded", quarrel.hoard),
            ("interrupts", quarrel.take_interrupts),
            ("killed", quarrel.die_with_the_device),
            ("silent", quarrel.say_nothing),
            ("refused", lambda: sum(quarrel.refused(other) for other in others)),
        ):
            free(quarrel)
            turn[name] = attack()
        sent += quarrel.fuzz(share)
        rounds += 1
        if left := seconds - (time.monotonic() - begun):
            share = max(400, int((messages - sent) / max(1.0, left / ((time.monotonic() - begun) / rounds))))
        print(json.dumps({"round": rounds, "sent": sent, **turn}), flush=True)
    print("done", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
