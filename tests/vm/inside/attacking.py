"""In the guest: `ixy-vfio audit ADDRESS --attack` at one helper after the other, by one process that forks them all.

attacking.py WAY ADDRESS,... SCENE...   binds the devices to vfio-pci; prints a list with a list of runs for each SCENE

A helper without a fault is the real one, started as the service does it; one with a fault is made by broken_helper.
Auditors change to their user, who may not read where Python lies: all that they import is there before.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from ixy_vfio_helper import __main__ as helper
from ixy_vfio_locks import calls

from ixy_vfio.apps import audit as _app  # noqa: F401
from ixy_vfio.audit.attack import edu, igb, ixgbe, places, run, session  # noqa: F401
from ixy_vfio.cli import main
from ixy_vfio.transport import vfio  # noqa: F401
from tests.vm.inside.broken_helper import KEPT, break_it_as
from tests.vm.inside.programs import HELPER
from tests.vm.inside.raw_vfio import bind

RUN, POLICY, SOCKET = Path("/run/policy"), Path("/run/policy/policy.toml"), Path("/run/ixy_vfio/helper.sock")
DEADLINE = 60.0


class Run(TypedDict):
    """One audit: more words for it, and whose it is."""

    address: str
    user: int
    words: list[str]


class Scene(TypedDict):
    """JSON: a helper, and audits at it. `fault` "": a sound one; `open`: a file that everybody may write meanwhile."""

    fault: str
    open: str
    runs: list[Run]


def serve(fault: str, words: list[str]) -> int:
    """Start a helper; its process id, when it listens."""
    SOCKET.unlink(missing_ok=True)
    if not fault:
        pid = subprocess.Popen([*HELPER, *words], stdout=sys.stderr).pid
    elif not (pid := os.fork()):
        os.dup2(2, 1)
        break_it_as(fault)
        os._exit(helper.run(words))
    end = time.monotonic() + DEADLINE
    while not SOCKET.exists():
        if time.monotonic() > end:
            raise SystemExit("the helper does not listen")
        time.sleep(0.02)
    return pid


@contextlib.contextmanager
def serving(fault: str, way: str, runs: list[Run]) -> Iterator[None]:
    """A helper that leases to each user what the runs name."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    users = sorted({one["user"] for one in runs})
    POLICY.write_text(
        "\n".join(
            f"[user.{user}]\ndevices = {json.dumps(sorted({one['address'] for one in runs if one['user'] == user}))}"
            for user in users
        )
    )
    pid = serve(fault, ["serve", "--policy", str(POLICY), "--way", way])
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        if KEPT.is_dir():
            for path in KEPT.iterdir():
                path.unlink()


def attack(one: Run) -> Any:
    """The report, with the seconds that it took."""
    reader, writer = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if not pid:
        status = 9
        try:
            os.setgroups([])
            os.setresgid(one["user"], one["user"], one["user"])
            os.setresuid(one["user"], one["user"], one["user"])
            calls.prctl(calls.PR_SET_DUMPABLE, 1)  # as after an exec
            os.dup2(writer, 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            status = main(["audit", one["address"], "--attack", "--yes", "--json", *one["words"]])
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"status": status, "seconds": time.monotonic() - begin, "report": json.loads(said or "null")}


def play(way: str, scene: Scene) -> list[Any]:
    """One scene."""
    if scene["open"]:
        os.chmod(scene["open"], 0o666)
    try:
        with serving(scene["fault"], way, scene["runs"]):
            return [attack(one) for one in scene["runs"]]
    finally:
        if scene["open"]:
            os.chmod(scene["open"], 0o600)


if __name__ == "__main__":
    for device in sys.argv[2].split(","):
        bind(device, "vfio-pci")
    print(json.dumps([play(sys.argv[1], json.loads(word)) for word in sys.argv[3:]]))
