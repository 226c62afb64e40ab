"""kill -9 of each part of a forwarder in mid-traffic: no DMA afterwards, nothing is left, and the next lease begins."""

import contextlib
import json
import re
import sys
from typing import Any

import pytest

from tests.vm.harness import Guest
from tests.vm.support import OWNER
from tests.vm.test_forward import bound, lab
from tests.vm.test_helper import policy, wait_until

pytestmark = pytest.mark.vm

ENDED = "ixy-vfio forward: the helper closed the connection; its log says why\n"
SAID = {  # victim -> what the forwarder that is left says, if one is
    "worker": r"ixy-vfio forward: worker \d+ was killed by SIGKILL\n",
    "control": "",
    "lease": ENDED,  # the helper's process for this lease
    "helper": ENDED,  # that, and the one that listens
    "unguarded": "",  # control, while the process of its lease is stopped: packets arrive until that goes on
}
KERNEL_ALONE = ("lease", "helper")  # after these nobody is left to end the lease
NEXT_LEASE = 30.0  # seconds, where the processor is emulated and shared; the output tells how many it was


def judge(told: dict[str, Any], histories: list[list[tuple[str, int]]]) -> None:
    """What must be so after each kill."""
    said = [line for line in told["said"].splitlines(keepends=True) if not line.startswith("{")]
    assert re.fullmatch(rf"forwarding \S+ <-> \S+\n{SAID[told['victim']]}", "".join(said)), told["said"]
    for summary in told["said"].splitlines():  # what was known at the end is not lost
        assert not summary.startswith("{") or json.loads(summary)["error"] in said[-1]
    # Packets had been arriving in these pages, and the far end went on sending; no line of 64 bytes has changed.
    assert (told["maps"], told["changed"]) == (3, 0)
    assert told["sent"] > 50
    assert told["left"] == []
    assert told["times"]["memory"] < NEXT_LEASE
    for history in histories:
        names = [name for name, _ in history if name != "map"]
        begun = names.index("bus master on")
        assert names[begun + 1] == "bus master off"
        if told["victim"] in KERNEL_ALONE:
            assert sorted(names[begun + 2 : begun + 4]) == ["reset", "unmap"]  # in the kernel's own order
        else:
            assert names[begun + 2 : begun + 4] == ["unmap", "reset"]
        assert "bus master on" not in names[begun + 1 :]


CDEV = tuple(f"cdev:{victim}" for victim in SAID)


@pytest.mark.parametrize(
    ("guest", "victims"),
    [
        (lab("stock"), ("group:lease", "group:unguarded")),
        pytest.param(lab("iommufd"), (*CDEV, "group:worker", "group:control"), marks=pytest.mark.long),
    ],
    indirect=["guest"],
    ids=["stock", "iommufd"],
    scope="session",
)
def test_nothing_is_written_after_a_kill(guest: Guest, victims: tuple[str, ...]) -> None:
    simulator = guest.simulator
    assert simulator is not None
    with bound(guest) as (ours, far), contextlib.ExitStack() as stack:
        policy(guest, OWNER, *ours)
        before = len(guest.kernel_log())
        argv = [sys.executable, "-m", "tests.vm.inside.killed", str(OWNER), *ours, *far, *victims]
        scene = guest.start(argv)
        stack.callback(scene.kill)
        for count, victim in enumerate(victims, 1):
            for port in range(2):
                simulator.ask("history", port=port)
            ready = lambda: len(scene.output().stdout.splitlines()) == count or scene.poll() is not None  # noqa: E731, B023
            wait_until(ready, 400)
            assert scene.poll() is None, scene.output()
            told = json.loads(scene.output().stdout.splitlines()[-1])
            print(f"{victim}:", ", ".join(f"{name} {value:.2f}" for name, value in told["times"].items()))
            judge(told, [simulator.ask("history", port=port)["history"] for port in range(2)])
            guest.run(["kill", "-USR1", str(scene.pid)])
        assert scene.wait(30).stderr == ""
        assert not re.search(r"DMAR: \[DMA", guest.kernel_log()[before:])
