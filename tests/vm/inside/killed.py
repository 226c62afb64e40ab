"""Runs in a guest, as root: forwarders whose parts are killed in mid-traffic, and what memory and devices do then.

    killed.py UID A B FAR_A FAR_B WAY:VICTIM...

A and B are the forwarder's ports, Linux drives those at the far ends and sends into A all the time. For each victim
(reached by that way into VFIO) prints a JSON object and waits for SIGUSR1. Canaries are the lease's own pages: this
process keeps them mapped.
"""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.vm.inside.forked import Forks
from tests.vm.inside.programs import HELPER

SERVE = ["serve", "--policy", "/run/policy/policy.toml"]
RUN = Path("/run/ixy_vfio")
CANARY = b"canary.." * 8
PAGE = 4096
CANARIES = CANARY * (PAGE // len(CANARY))
WATCHED = 2.0  # seconds of traffic over the canaries
DEADLINE = 180.0
OF_LEASES = ("/dev/vfio", "anon_inode:[vfio", "/dev/iommu", "memfd:ixy_vfio")  # descriptors and mappings


def wait_until(what: str, ready: Callable[[], bool], pause: float = 0.02) -> None:
    """Poll; SystemExit after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {DEADLINE:.0f} s")
        time.sleep(pause)


def children(pid: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(process.name))
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Canaries:
    """The shared memory of a worker, mapped here as well; packets first, then rings."""

    def __init__(self, worker: int) -> None:
        lines = Path(f"/proc/{worker}/maps").read_text().splitlines()
        spans = [line.split()[0] for line in lines if "memfd:ixy_vfio" in line]
        self.maps: list[mmap.mmap] = []
        for span in spans:
            first, end = (int(word, 16) for word in span.split("-"))
            fd = os.open(f"/proc/{worker}/map_files/{span}", os.O_RDWR)
            self.maps.append(mmap.mmap(fd, end - first))
            os.close(fd)
        self.maps.sort(key=len, reverse=True)

    def fill(self, count: int) -> None:
        """Write the canary to the first `count` mappings."""
        for memory in self.maps[:count]:
            memory[:] = CANARY * (len(memory) // len(CANARY))

    def changed(self, count: int) -> int:
        """How many lines of 64 bytes are no canary any more."""
        found = 0
        for memory in self.maps[:count]:
            for page in range(0, len(memory), PAGE):
                held = memory[page : page + PAGE]
                if held != CANARIES:
                    found += sum(held[at : at + len(CANARY)] != CANARY for at in range(0, PAGE, len(CANARY)))
        return found

    def close(self) -> None:
        for memory in self.maps:
            memory.close()


class Far:
    """Linux's own driver at the other end of the cable, sending about 100 packets a second."""

    def __init__(self, *addresses: str) -> None:
        names = [os.listdir(f"/sys/bus/pci/devices/{address}/net")[0] for address in addresses]
        for name in names:
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        self.name = names[0]
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + b"traffic." * 30
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
            packets.bind((self.name, 0))
            while True:
                with contextlib.suppress(OSError):
                    packets.send(frame)
                time.sleep(0.01)

    def sent(self) -> int:
        return int(Path(f"/sys/class/net/{self.name}/statistics/tx_packets").read_text())

    def carrier(self) -> bool:
        return Path(f"/sys/class/net/{self.name}/carrier").read_text() == "1\n"


class Helper:
    """A helper that listens on a socket of its own."""

    def __init__(self, way: str) -> None:
        self.way, self.path = way, str(RUN / f"{way}{time.monotonic_ns()}.sock")
        with open(f"{self.path}.log", "ab") as log:
            self.process = subprocess.Popen([*HELPER, *SERVE, "--way", way, "--socket", self.path], stderr=log)

    def ready(self) -> "Helper":
        wait_until(f"{self.path} listens", Path(self.path).is_socket)
        return self

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def held() -> list[str]:
    """Every open descriptor and mapping of VFIO or of a lease's memory, in all processes; free hugepages."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            texts = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            texts += [line.split(maxsplit=5)[-1] for line in (process / "maps").read_text().splitlines()]
            found += [f"{process.name} {text}" for text in texts if any(word in text for word in OF_LEASES)]
    free = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("HugePages_Free")]
    return sorted(found) + free


class Scene:
    """One forwarder with its helper, until one of them is killed."""

    def __init__(self, forks: Forks, helper: Helper, ports: list[str], far: Far) -> None:
        self.forks, self.helper, self.ports, self.far = forks, helper.ready(), ports, far
        self.before = held()
        self.control = forks.start("forward", helper.path, *ports)
        wait_until("forwarding", lambda: "forwarding" in forks.output(self.control) or not alive(self.control))
        if not alive(self.control):
            raise SystemExit(forks.output(self.control))
        (self.worker,), (self.lease,) = children(self.control), children(helper.process.pid)
        self.canaries = Canaries(self.worker)

    def overwritten(self) -> None:
        """Wait until the canaries in packet memory are: packets arrive. SystemExit if they do not."""
        self.canaries.fill(1)
        wait_until("packets arrive", lambda: self.canaries.changed(1) > 0)

    def kill(self, victim: str) -> None:
        if victim == "unguarded":  # nobody ends the lease yet: what the helper is there for
            os.kill(self.lease, signal.SIGSTOP)
            os.kill(self.control, signal.SIGKILL)
            wait_until("all are dead", lambda: not alive(self.control) and not alive(self.worker))
            self.overwritten()
            os.kill(self.lease, signal.SIGCONT)
        elif victim == "helper":
            os.kill(self.helper.process.pid, signal.SIGKILL)
            os.kill(self.lease, signal.SIGKILL)
            self.helper.process.wait(30)
        else:
            os.kill({"worker": self.worker, "control": self.control, "lease": self.lease}[victim], signal.SIGKILL)

    def next_lease(self, victim: str, path: str) -> dict[str, float]:
        """Kill; how long after it the next lease had what. Its client runs already, connects now, and asks on."""
        probe = self.forks.start("probe", path, *self.ports)
        wait_until("a client", lambda: "waiting" in self.forks.output(probe))
        self.kill(victim)
        begun = time.monotonic()
        os.kill(probe, signal.SIGUSR2)
        wait_until("the next lease", lambda: "leased" in self.forks.output(probe) or not alive(probe), pause=0.1)
        if "leased" not in self.forks.output(probe):
            raise SystemExit(self.forks.output(probe))
        asked, *times = (float(word) for word in self.forks.output(probe).split()[2:])
        names = ("first", "second", "memory")
        result = {name: at - begun for name, at in zip(names, times, strict=True)}
        wait_until("all are gone", lambda: not any(map(alive, (self.control, self.worker, self.lease, probe))))
        return {**result, "asked": asked}

    def run(self, victim: str, path: str) -> dict[str, object]:
        """Kill it; what came of that. The next lease is taken at `path`."""
        self.overwritten()
        everything = len(self.canaries.maps)
        times = self.next_lease(victim, path)
        self.canaries.fill(everything)
        wait_until("carrier", self.far.carrier)
        sent = self.far.sent()
        time.sleep(WATCHED)
        wait_until("enough was sent", lambda: self.far.sent() - sent > 50)
        result = {
            "victim": victim, "said": self.forks.output(self.control), "changed": self.canaries.changed(everything),
            "maps": everything, "sent": self.far.sent() - sent, "times": times,
        }  # fmt: skip
        self.canaries.close()
        result["left"] = [text for text in held() if text not in self.before]
        return result


def main(uid: str, a: str, b: str, far_a: str, far_b: str, *victims: str) -> None:
    """All victims, one after the other; a helper serves until it is one, or the way is another."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    forks = Forks(int(uid))  # first: they import slowly, and fork from a process that has done so
    helper = Helper(victims[0].split(":")[0])
    sender = Far(far_a, far_b)
    for way, victim in (words.split(":") for words in victims):
        if helper.way != way:
            helper.end()
            helper = Helper(way)
        following = Helper(way).ready() if victim == "helper" else helper
        print(json.dumps(Scene(forks, helper, [a, b], sender).run(victim, following.path)), flush=True)
        helper = following
        signal.sigwait([signal.SIGUSR1])
    helper.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
