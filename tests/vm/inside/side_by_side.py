"""Runs in a guest: two users, each with a lease; what one has written is looked for in all that the other gets.

    side_by_side.py HELPER PORT0 PORT1 PORT2

Prints a JSON object: where a byte was found that should not be there (empty lists: nowhere).
"""

import json
import os
import socket
import sys
from collections.abc import Callable

from ixy_vfio.core.memory import DmaMemory
from ixy_vfio.transport.lease import Lease, Purpose
from tests.vm.inside.beside import ATTACKER, OTHER, become

SIZES = (4096, 65536, 2 << 20, 4 << 20)
ROUNDS = 2


class User:
    """A user's process, which does what it is told on a socket: `lease`, `look`, `end`."""

    def __init__(self, helper: str, uid: int, address: str, mark: bytes) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._helper, self._mark, self._address = helper, mark, address
        self._leases: list[Lease] = []
        self._memory: list[DmaMemory] = []
        if os.fork() == 0:
            self._connection.close()
            become(uid)
            actions: dict[bytes, Callable[[], str]] = {b"lease": self._lease, b"look": self._look, b"end": self._end}
            while word := theirs.recv(64):
                theirs.send(actions[word]().encode() or b" ")
            os._exit(0)
        theirs.close()
        self._connection.settimeout(120)

    def do(self, word: str) -> str:
        """What it found, or what went wrong."""
        self._connection.send(word.encode())
        return self._connection.recv(4096).decode().strip()

    def _lease(self) -> str:
        """Take the device and memory of several sizes; all of it must be zero. Then fill it."""
        lease = Lease(self._helper)
        device = lease.attach(self._address)
        self._leases, found = [lease], []
        self._memory = [lease.memory(size, [device], Purpose.PACKETS) for size in SIZES]
        for memory in self._memory:
            if bytes(memory.view).strip(b"\0"):
                found.append(f"{memory.size} bytes at {memory.iova:#x} were not zero")
            memory.view[:] = self._mark * memory.size
        return "; ".join(found)

    def _look(self) -> str:
        """All of it must be as it was filled."""
        odd = [memory for memory in self._memory if bytes(memory.view) != self._mark * memory.size]
        return "; ".join(f"{memory.size} bytes at {memory.iova:#x} have changed" for memory in odd)

    def _end(self) -> str:
        self._memory = []
        self._leases.pop().close()
        return ""


def main(helper: str, first: str, _: str, third: str) -> None:
    a, b = User(helper, ATTACKER, first, b"\xa5"), User(helper, OTHER, third, b"\xc5")
    found: list[str] = []
    for _round in range(ROUNDS):  # each gets what the other has just given back
        for word, user in (("lease", a), ("lease", b), ("look", a), ("look", b), ("end", a), ("look", b), ("lease", a),
                           ("look", b), ("end", b), ("look", a), ("lease", b), ("look", a), ("look", b),
                           ("end", a), ("end", b)):  # fmt: skip
            found += filter(None, [user.do(word)])
    print(json.dumps({"found": found, "leases": 4 * ROUNDS}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
