"""Two users in a guest: the attacker, and somebody else whose lease must not be disturbed."""

import os
import socket
from collections.abc import Callable

from ixy_vfio.transport.lease import Lease, Purpose

PAGE = 4096
CANARY = b"\xc5"
ATTACKER, OTHER = 1000, 1001
Session = tuple[int, Callable[[], bool]]  # a number to tell, and whether all is as it was


def become(uid: int) -> None:
    """Be this user, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Other:
    """The other user's session, in a process of its own. `begin` runs there, as that user."""

    def __init__(self, begin: Callable[[], Session]) -> None:
        self._connection, theirs = socket.socketpair()
        if os.fork() == 0:
            self._connection.close()
            become(OTHER)
            number, as_it_was = begin()
            theirs.send(b"%d" % number)
            while theirs.recv(1):
                theirs.send(b"y" if as_it_was() else b"n")
            os._exit(0)
        theirs.close()
        self._connection.settimeout(60)
        self.number = int(self._connection.recv(64))

    def untouched(self) -> bool:
        """Whether all is as it was."""
        self._connection.send(b"?")
        return self._connection.recv(1) == b"y"

    def end(self) -> None:
        """End it, and wait until it is over."""
        self._connection.close()
        os.wait()


def canaries(helper: str, address: str) -> Session:
    """A lease of memory that was zero, and is full of canaries now; the IOVA of its last page."""
    lease = Lease(helper)
    memory = lease.memory(16 << 20, [lease.attach(address)], Purpose.PACKETS)
    zeroed = not any(memory.view)
    memory.view[:] = CANARY * memory.size

    def as_it_was() -> bool:
        lease.check()
        return zeroed and bytes(memory.view) == CANARY * memory.size

    return memory.iova + memory.size - PAGE, as_it_was
