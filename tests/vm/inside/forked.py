"""In a guest: unprivileged forwarders and leases, forked from one process that has imported and compiled everything.

Imports alone take ten seconds where the processor is emulated.
"""

import contextlib
import importlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ixy_vfio_locks import calls

FOLDER = "/run/forks"


class Forks:
    """Starts children of that process: user `uid`, no capabilities, no locked memory."""

    def __init__(self, uid: int, before: Mapping[str, Callable[[], None]] = MappingProxyType({})) -> None:
        os.makedirs(FOLDER, exist_ok=True)
        os.chown(FOLDER, uid, uid)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._ours.close()
            _become(uid)
            _serve(theirs, before)
            os._exit(0)
        theirs.close()

    def start(self, *words: str) -> int:
        """`forward SOCKET A B [BEFORE]`, or `probe SOCKET A B`, which waits for SIGUSR2; its process id.

        BEFORE names one of what was given to be done `before` it forwards.
        """
        self._ours.sendall("\0".join(words).encode())
        return int(self._ours.recv(64))

    def output(self, pid: int) -> str:
        """What it has written up to now."""
        path = Path(f"{FOLDER}/{pid}")
        return path.read_text() if path.exists() else ""


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    os.setresuid(uid, uid, uid)
    calls.prctl(calls.PR_SET_DUMPABLE, 1)  # as after an exec
    os.environ["XDG_CACHE_HOME"] = f"/run/vm/cache/{uid}"


def _serve(commands: socket.socket, before: Mapping[str, Callable[[], None]]) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads would not survive a fork
    from ixy_vfio import cli
    from tests.vm.inside import warm

    for module in ("ixy_vfio.runtime.control", "ixy_vfio.transport.vfio"):
        importlib.import_module(module)  # now, not in each child
    warm.main()
    while words := commands.recv(4096).decode().split("\0"):
        if words == [""]:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        pid = os.fork()
        if pid == 0:
            commands.close()
            output = os.open(f"{FOLDER}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            if words[0] == "forward":
                for name in words[4:]:
                    before[name]()
                status = cli.main(["forward", *words[2:4], "--helper", words[1], "--json", "--announce",
                                   "--link-deadline", "90"])  # fmt: skip
            else:
                status = _probe(words[1], words[2:])
            sys.stdout.flush()
            os._exit(status)
        commands.sendall(str(pid).encode())


def _probe(path: str, addresses: list[str]) -> int:
    """At SIGUSR2 connect, and ask until both devices are leased; prints how often it asked, and when it had what."""
    from ixy_vfio.core.errors import RefusedError
    from ixy_vfio.transport.base import Device
    from ixy_vfio.transport.lease import Lease, Purpose

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    print("waiting", flush=True)
    signal.sigwait([signal.SIGUSR2])
    end = time.monotonic() + 90
    asked, times = 0, []
    devices: list[Device] = []
    with Lease(path) as lease:
        while len(devices) < len(addresses):
            asked += 1
            try:
                devices.append(lease.attach(addresses[len(devices)]))
                times.append(time.monotonic())
            except RefusedError as refused:
                if time.monotonic() > end:
                    print(refused, flush=True)
                    return 1
                time.sleep(0.02)
        lease.memory(1 << 20, devices, Purpose.PACKETS)
        print("leased", asked, *times, time.monotonic(), flush=True)
    return 0
