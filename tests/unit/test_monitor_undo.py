"""The end of a lease: bus master off, unmap, release, over all devices, whatever fails on the way."""

import logging
from pathlib import Path

import pytest
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.protocol import Attach, Attached, Ended, Hello, Memory, Purpose

from tests.unit.lease_support import A, B, FakeBackend, open_fds, served

END = [
    f"bus_master_off {A}", f"bus_master_off {B}",
    f"unmap {A} 0x1000000000 0x1000", f"unmap {B} 0x1000000000 0x1000", f"close {A}", f"close {B}",
]  # fmt: skip


def whole_lease(backend: FakeBackend, directory: Path) -> list[object]:
    """Hello, two devices, memory for both, then close; the answers."""
    answers: list[object] = []
    with served(backend, directory) as client:
        for request in (Hello(), Attach(A), Attach(B), Memory(4096, 0b11, Purpose.PACKETS)):
            answers.append(client.ask(request))
            if isinstance(answers[-1], Ended):
                break
    return answers


# What fails on the way in -> what had been done, and must be undone.
STARTS = {
    f"open {A}": [f"open {A}", f"bus_master_off {A}", f"close {A}"],
    f"open {B}": [
        f"open {A}", f"open {B}", f"bus_master_off {A}", f"bus_master_off {B}", f"close {A}", f"close {B}",
    ],
    f"map {A}": [
        f"open {A}", f"open {B}", f"map {A} 0x1000000000 0x1000", f"bus_master_off {A}", f"bus_master_off {B}",
        f"unmap {A} 0x1000000000 0x1000", f"close {A}", f"close {B}",
    ],
    f"map {B}": [
        f"open {A}", f"open {B}", f"map {A} 0x1000000000 0x1000", f"map {B} 0x1000000000 0x1000", *END,
    ],
}  # fmt: skip


@pytest.mark.parametrize("failing", STARTS)
def test_a_failure_while_acting_ends_the_lease_and_undoes_everything(tmp_path: Path, failing: str) -> None:
    backend = FakeBackend(failing)
    before = open_fds()
    answers = whole_lease(backend, tmp_path)
    assert answers[-1] == Ended(f"failed: [Errno 5] injected: {failing.split()[0]}")
    assert backend.log == STARTS[failing]
    assert open_fds() == before
    backend.failing.clear()
    assert isinstance(whole_lease(backend, tmp_path)[1], Attached)  # the device can be leased again


@pytest.mark.parametrize("step", range(len(END)))
def test_a_failure_at_the_end_is_logged_and_the_rest_is_still_done(
    tmp_path: Path, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    what, address = END[step].split()[:2]
    backend = FakeBackend(f"{what} {address}")
    before = open_fds()
    with caplog.at_level(logging.INFO, "ixy_vfio_helper"):
        whole_lease(backend, tmp_path)
    assert backend.log[-len(END) :] == END
    assert open_fds() == before
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"failed: [Errno 5] injected: {what}" in errors[0]
    assert caplog.messages[-1] == "lease of uid 1000 ended: the client closed the connection (1 failures)"


def test_a_device_that_is_released_can_be_leased_before_the_next_one_is(tmp_path: Path) -> None:
    """A device takes a tenth of a second to be reset."""
    backend, claims = FakeBackend(), Claims(tmp_path)
    held: dict[str, list[bool]] = {}
    backend.heard = lambda entry: held.update({entry: [claims.holder(address) is not None for address in (A, B)]})
    whole_lease(backend, tmp_path)
    assert held[f"unmap {B} 0x1000000000 0x1000"] == [True, True]
    assert held[f"close {A}"] == [True, True]
    assert held[f"close {B}"] == [False, True]
    assert (claims.holder(A), claims.holder(B)) == (None, None)


def test_everything_failing_at_the_end_hides_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(*{" ".join(step.split()[:2]) for step in END})
    whole_lease(backend, tmp_path)
    assert backend.log[-len(END) :] == END
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == len(END)
    backend.failing.clear()
    assert isinstance(whole_lease(backend, tmp_path)[1], Attached)  # the claims went all the same
