"""Two users of one helper quarrel in a guest: one does all it can, the other's forwarder must not notice.

    python -m tests.quarrel [--seconds 600] [--messages 100000] [--kernel iommufd|stock] [--way cdev|group]

User 1000 has one port, and does what tests/vm/inside/quarrelsome.py lists, in turns. User 1001 forwards 1,000 frames a
second between two others, each frame with a number and checked at the far end, and takes a lease of a fourth port again
and again. Prints what was measured as a JSON object; the exit status is 1 if something was lost, refused or is left.

Processor time, memory pressure and the pool of hugepages are everybody's (SECURITY.md): the attacks leave those alone.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.vm.harness import Config, Guest
from tests.vm.harness.guest import Process, compile_for
from tests.vm.inside.programs import HELPER
from tests.vm.support import load, open_python

ATTACKER, OTHER = 1000, 1001
RATE = 1000  # frames a second
SOCKET, POLICY_FILE = "/run/ixy_vfio/helper.sock", "/run/policy/policy.toml"
POLICY = """
[user.{attacker}]
devices = ["{own}"]
memory_mib = 128
leases = 3
[user.{other}]
devices = ["{0}", "{1}", "{2}"]
"""
QUIET = 5  # leases that are timed before the attacks: what is usual
SPARE = 60.0  # seconds that frames go on beyond those of the attacks: for start and end
PAUSE = 2.0  # seconds between two of the leases that are timed
PATIENCE = 90.0  # seconds until a frame that was sent must be there, on a busy host


def lab(kernel: str, seconds: float) -> Config:
    """Four ports: 0 and 1 are forwarded between, 2 is leased again and again, 3 is the attacker's."""
    frames = int((seconds + SPARE) * RATE)
    cables = (f"0:gen:count={frames},sizes=60-1514,pace={RATE / 1e6:g}", "1:gen:count=0,expect=0")
    return Config(kernel=kernel, ports=4, cables=cables, sim_options=("--no-helper",))


@dataclass
class Look:
    """What can be seen of the helper and the machine at one time."""

    resident: int  # KiB of the listening process
    descriptors: int
    leases: int  # processes of leases
    shared: int  # KiB of memory in memfds and tmpfs
    files: list[str]  # below /run/ixy_vfio


@dataclass
class Verdict:
    """What came out. `wrong` is empty if the other user noticed nothing."""

    numbers: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def must(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong unless this holds."""
        if not holds:
            self.wrong.append(otherwise)


def wait_for(what: str, ready: Callable[[], bool], deadline: float) -> None:
    """Poll until `ready()`. Raises TimeoutError."""
    end = time.monotonic() + deadline
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline:.0f} s")
        time.sleep(0.2)


def look(guest: Guest, helper: int) -> Look:
    """Take stock."""
    script = (
        f"grep VmRSS /proc/{helper}/status | tr -dc 0-9; echo; ls /proc/{helper}/fd | wc -l; "
        f"pgrep -P {helper} | wc -l; grep Shmem: /proc/meminfo | tr -dc 0-9; echo; find /run/ixy_vfio | sort"
    )
    resident, descriptors, leases, shared, *files = guest.run(["sh", "-c", script]).stdout.split()
    return Look(int(resident), int(descriptors), int(leases), int(shared), files)


def cable(guest: Guest, port: int) -> dict[str, Any]:
    """Counters of the generator or sink at a port."""
    assert guest.simulator is not None
    (found,) = [one for one in guest.simulator.ask("cables")["cables"] if one["ports"] == [port]]
    return dict(found)


class Quarrel:
    """The guest with everything bound and a helper that serves both users."""

    def __init__(self, guest: Guest, way: str) -> None:
        """Bind four ports and start the helper."""
        self.guest, self.way = guest, way
        load(guest, "ixgbe", "vfio-pci")
        open_python(guest)
        self.ports = [guest.address(f"port{n}") for n in range(4)]
        compile_for(OTHER)
        for address in self.ports:
            guest.run([*HELPER, "bind", "--down", address], timeout=300)
        *others, own = self.ports
        guest.run(["mkdir", "-p", "/run/policy"])
        guest.put(POLICY.format(*others, own=own, attacker=ATTACKER, other=OTHER).encode(), POLICY_FILE)
        guest.run(["chmod", "644", POLICY_FILE])
        self.helper = self.serve()

    def serve(self) -> Process:
        """A helper that listens."""
        self.guest.run(["rm", "-f", SOCKET])
        helper = self.guest.start([*HELPER, "serve", "--policy", POLICY_FILE, "--way", self.way])
        wait_for(
            "the helper's socket",
            lambda: self.guest.run(["test", "-S", SOCKET], check=False).status == 0 or helper.poll() is not None,
            60,
        )
        if helper.poll() is not None:
            raise RuntimeError(f"the helper did not start: {helper.output().stderr}")
        return helper

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[Process]:
        """The other user's forwarder, past its start."""
        # The longest ring: 4 s of frames, for an emulated processor stands still now and then.
        words = ["--json", "--announce", "--link-deadline", "240", "--ring", "4096"]
        argv = [sys.executable, "-m", "ixy_vfio.cli", "forward", *self.ports[:2], *words]
        process = self.guest.start(argv, user=OTHER)
        try:
            begun = lambda: "forwarding" in process.output().stdout or process.poll() is not None  # noqa: E731
            wait_for("the forwarder", begun, 240)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(check=False)

    def inside(self, script: str, *words: str, user: int) -> Process:
        """Start a script of tests/vm/inside."""
        return self.guest.start([sys.executable, "-m", f"tests.vm.inside.{script}", *words], user=user)

    def run(self, seconds: float, messages: int, tell: Callable[[str], None]) -> Verdict:
        """The quarrel, and what came out of it."""
        verdict = Verdict()
        with self.forwarding() as forwarder:
            leases = self.inside("next_leases", SOCKET, self.ports[2], str(PAUSE), user=OTHER)
            wait_for("the usual leases", lambda: len(leases.output().stdout.splitlines()) >= QUIET, 120)
            usual = len(leases.output().stdout.splitlines())
            before = look(self.guest, self.helper.pid)
            attacker = self.attack(seconds, messages, leases, forwarder, verdict, tell)
            self.last_frames(forwarder, verdict)
            self.leases(leases, usual, verdict)
            wait_for("the end of the attacker's leases", lambda: look(self.guest, self.helper.pid).leases <= 1, 60)
            self.flat(before, look(self.guest, self.helper.pid), verdict)
            self.summary(forwarder, verdict)
        self.afterwards(verdict)
        attacker.kill()
        attacker.wait(check=False)
        return verdict

    def attack(
        self,
        seconds: float,
        messages: int,
        leases: Process,
        forwarder: Process,
        verdict: Verdict,
        tell: Callable[[str], None],
    ) -> Process:
        """Let the attacker do its rounds; it lives on, with its locks."""
        *others, own = self.ports
        attacker = self.inside("quarrelsome", str(seconds), str(messages), SOCKET, own, *others, user=ATTACKER)
        seen = 0
        while attacker.poll(1.0) is None:
            said = attacker.output().stdout.splitlines()
            for line in said[seen:]:
                tell(line)
            seen = len(said)
            if forwarder.poll() is not None or leases.poll() is not None or self.helper.poll() is not None:
                break
            if said and said[-1] == "done":
                break
        verdict.must(attacker.poll() is None, f"the attacker ended: {attacker.output().stderr[-1500:]}")
        rounds = [json.loads(line) for line in attacker.output().stdout.splitlines() if line.startswith("{")]
        verdict.must(bool(rounds), "the attacker did not finish a round")
        summed = ("faults", "hoarded", "interrupts", "killed", "silent", "refused")
        attacks = {name: sum(one[name] for one in rounds) for name in summed}
        attacks |= {name: rounds[-1][name] if rounds else 0 for name in ("round", "sent", "locks")}
        log = self.guest.kernel_log()
        attacks["segfaults in the kernel log"] = log.count("]: segfault at")
        verdict.numbers["attacks"] = attacks
        verdict.must("]: segfault at" in log, "no segmentation fault was logged, so that attack was none")
        return attacker

    def last_frames(self, forwarder: Process, verdict: Verdict) -> None:
        """Wait until all numbered frames were sent and have come; none may be missing."""
        end = time.monotonic() + SPARE + PATIENCE
        while time.monotonic() < end and forwarder.poll() is None:
            if cable(self.guest, 0)["done"] and not cable(self.guest, 1)["outstanding"]:
                break
            time.sleep(0.5)
        sent, came = cable(self.guest, 0), cable(self.guest, 1)
        verdict.numbers["frames"] = {"sent": sent["sent"], "received": came["unique"], "lost": came["lost"],
                                     "outstanding": came["outstanding"], "corrupted": came["corrupted"],
                                     "reordered": came["reordered"], "duplicated": came["duplicated"]}  # fmt: skip
        verdict.must(forwarder.poll() is None, f"the forwarder ended: {forwarder.output().stderr[-1500:]}")
        for what in ("lost", "outstanding", "corrupted", "reordered", "duplicated"):
            verdict.must(not came[what], f"{came[what]} frames {what}")

    def leases(self, process: Process, usual: int, verdict: Verdict) -> None:
        """The other user's next lease, again and again: never refused, and no slower than a busy processor makes it."""
        verdict.must(process.poll() is None, f"the leases ended: {process.output().stderr[-1500:]}")
        process.kill()
        process.wait(check=False)
        lines = process.output().stdout.splitlines()
        refused = [line for line in lines if line.startswith("refused")]
        verdict.must(not refused, f"{len(refused)} leases refused, the first: {refused[:1]}")
        times = [float(line) for line in lines if not line.startswith("refused")]
        quiet, loud = times[:usual], times[usual:]
        verdict.must(len(quiet) > 1 and len(loud) > 1, f"{len(quiet)} leases before and {len(loud)} beside the attacks")
        if quiet and loud:
            verdict.numbers["seconds to a lease"] = {
                "usual": statistics.median(quiet), "usual, at most": max(quiet),
                "beside the attacks": statistics.median(loud), "beside the attacks, at most": max(loud),
                "leases": len(times),
            }  # fmt: skip

    def flat(self, before: Look, after: Look, verdict: Verdict) -> None:
        """The helper's memory, descriptors and files, and the machine's shared memory, are as before."""
        verdict.numbers["helper"] = {"before": vars(before), "after": vars(after)}
        left = sorted(set(after.files) - set(before.files))
        left = [one for one in left if self.ports[3] not in one]  # what is written of the attacker's own device
        verdict.must(not left, f"files that were not there before: {left}")
        more = f"descriptors: {before.descriptors} -> {after.descriptors}"
        verdict.must(after.descriptors <= before.descriptors, more)
        verdict.must(after.resident - before.resident < 2048, f"resident KiB: {before.resident} -> {after.resident}")
        verdict.must(after.shared - before.shared < 8192, f"shared memory, KiB: {before.shared} -> {after.shared}")

    def summary(self, forwarder: Process, verdict: Verdict) -> None:
        """End the forwarder; its own account of it."""
        if forwarder.poll() is not None:
            return
        forwarder.kill(2)
        result = forwarder.wait(check=False)
        verdict.must(result.status == 0, f"the forwarder ended with status {result.status}: {result.stderr}")
        if result.status == 0:
            summary = json.loads(result.stdout.splitlines()[-1])
            verdict.must(summary["balanced"] is True, "the forwarder's packets do not add up")

    def afterwards(self, verdict: Verdict) -> None:
        """While the attacker keeps its locks: the helper ends and starts anew, and the other ports are unbound."""
        times: dict[str, float] = {}
        begun = time.monotonic()
        self.guest.run(["kill", str(self.helper.pid)])
        self.helper.wait(60)
        self.helper = self.serve()
        times["helper, ended and started"] = time.monotonic() - begun
        for address in self.ports[:3]:
            begun = time.monotonic()
            self.guest.run([*HELPER, "unbind", address], timeout=300)
            times[f"unbind {address}"] = time.monotonic() - begun
        verdict.numbers["seconds"] = {name: round(took, 1) for name, took in times.items()}


def quarrel(seconds: float, messages: int, kernel: str, way: str, tell: Callable[[str], None]) -> Verdict:
    """Boot the guest, and let them quarrel."""
    with Guest(lab(kernel, seconds)) as guest:
        return Quarrel(guest, way).run(seconds, messages, tell)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.quarrel", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the attacks go on, at least (600)")
    parser.add_argument("--messages", type=int, default=100_000, help="fuzzed messages, at least (100,000)")
    parser.add_argument("--kernel", default="iommufd", choices=["iommufd", "stock"], help="see docs/vm.md (iommufd)")
    parser.add_argument("--way", default="cdev", choices=["cdev", "group"], help="into VFIO (cdev)")
    words = parser.parse_args()
    verdict = quarrel(words.seconds, words.messages, words.kernel, words.way, lambda line: print(line, file=sys.stderr))
    print(json.dumps(verdict.numbers, indent=1))
    for one in verdict.wrong:
        print(f"WRONG: {one}")
    return bool(verdict.wrong)


if __name__ == "__main__":
    sys.exit(main())
