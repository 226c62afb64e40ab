"""Runs in a guest, as root: audits a forwarder that is sound, then such as lack one layer of their isolation each.

    audited_session.py UID WAY A B FAR_A FAR_B BROKEN...    a JSON object: what is broken -> {check: WARN or FAIL}

BROKEN is `nothing`, or one of those below.
A and B are the forwarder's ports, FAR_A and FAR_B those at the other ends of their cables, which Linux drives.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ixy_vfio_locks import calls, seccomp

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.runner import audit
from ixy_vfio.audit.system import LiveSystem
from ixy_vfio.runtime import sandbox
from tests.vm.inside.forked import Forks
from tests.vm.inside.killed import SERVE, alive, wait_until
from tests.vm.inside.programs import HELPER

SOCKET = "/run/ixy_vfio/audited.sock"
Break = Callable[[], None]


def _instead(owner: object, name: str, value: object) -> Break:
    return lambda: setattr(owner, name, value)


def _can_be_traced() -> None:
    real = calls.prctl

    def but_one(option: int, *values: int) -> None:
        if (option, *values) != (calls.PR_SET_DUMPABLE, 0):
            real(option, *values)

    setattr(calls, "prctl", but_one)  # noqa: B010


def _all_registers() -> None:
    """The whole of BAR0 stays, and is sealed as the rest."""
    real = sandbox._seal_mappings
    mapped: list[tuple[int, int]] = []

    def keep_all(keep: Sequence[tuple[int, int]]) -> None:
        mapped.extend((begin, end - begin) for begin, end in sandbox.shared_mappings())

    sandbox.unmap_all_but = keep_all
    sandbox._seal_mappings = lambda keep: real(mapped)


BROKEN_FORWARDERS: dict[str, Break] = {
    "no system-call filter": _instead(seccomp, "install", lambda program: None),
    "no limits": _instead(sandbox, "_NONE_OF", ()),
    "can be traced": _can_be_traced,
    "mappings can be moved": _instead(sandbox, "_seal_mappings", lambda keep: None),
    "code can be written": _instead(sandbox, "freeze_code", lambda: None),
    "all registers": _all_registers,
    "all descriptors": _instead(sandbox, "_close_all_but", lambda keep: None),
}
BROKEN_HELPERS = ("seals", "beside")


def audited(broken: str, forks: Forks, way: str, ports: list[str]) -> dict[str, str]:
    """The checks that are not content when this is broken."""
    Path(SOCKET).unlink(missing_ok=True)
    argv = [sys.executable, "-m", "tests.vm.inside.broken_helper", "ixy-vfio-helper", broken]
    server = subprocess.Popen(
        [*(argv if broken in BROKEN_HELPERS else HELPER), *SERVE, "--socket", SOCKET, "--way", way]
    )
    wait_until("the helper listens", Path(SOCKET).is_socket)
    control = forks.start("forward", SOCKET, *ports, *[broken] * (broken in BROKEN_FORWARDERS))
    wait_until("forwarding", lambda: "forwarding" in forks.output(control) or not alive(control))
    if not alive(control):
        raise SystemExit(f"{broken}: {forks.output(control)}")
    report = audit(Host(LiveSystem()), ports[0])
    os.kill(control, signal.SIGINT)
    wait_until("the forwarder ends", lambda: not alive(control))
    server.terminate()
    server.wait(30)
    return {one.check: one.status.name for one in report.results if one.status >= Status.WARN}


def main(uid: str, way: str, a: str, b: str, far_a: str, far_b: str, *everything: str) -> None:
    """One after the other."""
    forks = Forks(int(uid), BROKEN_FORWARDERS)
    for address in (far_a, far_b):
        (name,) = os.listdir(f"/sys/bus/pci/devices/{address}/net")
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
    print(json.dumps({broken: audited(broken, forks, way, [a, b]) for broken in everything}))


if __name__ == "__main__":
    main(*sys.argv[1:])
