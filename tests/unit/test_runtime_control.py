"""Control, where a whole run cannot show it: what is stopped when stopping itself fails, and what is then blamed."""

from typing import Any

import pytest

from ixy_vfio.core.errors import DeadlineError, DeviceGone, LeaseError, WorkerError
from ixy_vfio.runtime.control import Control
from ixy_vfio.runtime.page import Counted
from ixy_vfio.runtime.plan import Plan
from tests.programs import program_of


class Port:
    """A port that notes that it was stopped, and may fail at it."""

    def __init__(self, name: str, stopped: list[str], fails: bool) -> None:
        self.name, self.stopped, self.fails = name, stopped, fails

    def stop(self) -> list[str]:
        self.stopped.append(self.name)
        if self.fails:
            raise DeviceGone(f"{self.name} is gone")
        return []

    def close(self) -> None:
        self.stopped.append(f"close {self.name}")


class DeadWorker:
    """A worker that cannot be told to stop, and that notes that it was killed."""

    done = True

    def __init__(self, stopped: list[str]) -> None:
        self.stopped = stopped

    def wait(self, within: float) -> None:
        raise DeviceGone("the worker is gone")

    def kill(self) -> None:
        self.stopped.append("worker")


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_port_that_cannot_be_stopped_does_not_keep_the_other_running(failing: str) -> None:
    control = Control(Plan(("0000:03:00.0", "0000:03:00.1"), program_of()))
    stopped: list[str] = []
    ports: list[Any] = [Port(name, stopped, name == failing) for name in ("a", "b")]
    control.ports = ports
    with pytest.raises(DeviceGone, match=f"{failing} is gone"):
        control.stop()
    assert stopped == ["a", "b"]


def test_workers_are_killed_before_ports_are_stopped_whatever_happens() -> None:
    control = Control(Plan(("0000:03:00.0", "0000:03:00.1"), program_of()))
    stopped: list[str] = []
    ports: list[Any] = [Port(name, stopped, fails=False) for name in ("a", "b")]
    workers: list[Any] = [DeadWorker(stopped)]
    control.ports, control.workers = ports, workers
    with pytest.raises(DeviceGone, match="the worker is gone"):
        control.stop()
    assert stopped == ["worker", "a", "b"]


def test_after_an_error_the_lease_ends_and_no_device_is_asked_to_stop() -> None:
    """The helper takes their DMA away at once; a device that is stuck would take seconds."""
    control = Control(Plan(("0000:03:00.0", "0000:03:00.1"), program_of()))
    done: list[str] = []
    ports: list[Any] = [Port(name, done, fails=True) for name in ("a", "b")]
    workers: list[Any] = [DeadWorker(done)]
    control.ports, control.workers = ports, workers
    control._stack.callback(done.append, "lease")
    control.__exit__(LeaseError, LeaseError("ended"), None)
    assert done == ["worker", "close a", "close b", "lease"]


class Helper:
    """A lease of which the helper may still say, if one waits, that it has ended it."""

    def __init__(self, ended: bool) -> None:
        self.ended = ended

    def check(self, wait: float = 0.0) -> None:
        if self.ended and wait >= 0.5:
            raise LeaseError("its DMA was blocked")


@pytest.mark.parametrize(
    ("ended", "error", "text"),
    [(True, LeaseError, "its DMA was blocked"), (False, DeadlineError, "0000:03:00.0: RXDCTL is not 1")],
)
def test_a_device_that_was_taken_back_is_not_blamed(ended: bool, error: type[Exception], text: str) -> None:
    control = Control(Plan(("0000:03:00.0", "0000:03:00.1"), program_of()))
    lease: Any = Helper(ended)
    control.lease = lease
    with pytest.raises(error, match=f"^{text}$"), control._device("0000:03:00.0"):
        raise DeadlineError("RXDCTL is not 1")


class Silent:
    """A worker that last looked up at some time."""

    done, pid, looked_up, silent = False, 4711, 0, 0.0
    counted = Counted(at=1)


def test_a_worker_that_does_not_look_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline; not for a time in which control was stopped, too, or while it waits to be granted more."""
    control = Control(Plan(("0000:03:00.0", "0000:03:00.1"), program_of()))
    one: Any = Silent()
    control.workers = [one]
    clock = 100.0
    monkeypatch.setattr("ixy_vfio.runtime.control.time.monotonic", lambda: clock)
    for pause in (0.25, 0.25, 3600.0, *[0.25] * 15):
        clock += pause
        control._look_at_workers()
    one.counted = Counted(at=2)
    for waiting in (False, True):
        one.counted = Counted(at=2, waiting=waiting)
        for _ in range(100 if waiting else 20):
            clock += 0.25
            control._look_at_workers()
    one.counted = Counted(at=2)
    for _ in range(20):
        clock += 0.25
        control._look_at_workers()
    clock += 0.25
    with pytest.raises(WorkerError, match="worker 4711 did not answer in 5 s; are the processors busy"):
        control._look_at_workers()
