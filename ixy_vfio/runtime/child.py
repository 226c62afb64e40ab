"""A running worker, as control sees it: what it says, how it ended."""

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field

from ixy_vfio.core.errors import SealError, WorkerError
from ixy_vfio.runtime import messages
from ixy_vfio.runtime.messages import Kind, Share
from ixy_vfio.runtime.page import Counted, Page
from ixy_vfio.runtime.sandbox import Seal

DEADLINE = 5.0  # seconds for a worker to take a message, to answer, to seal itself, to stop
DEATH = 5.0  # seconds for a worker to be gone after SIGKILL


@dataclass(slots=True)
class Worker:
    """A running worker, as control sees it."""

    pid: int
    connection: socket.socket
    page: Page
    core: int | None = None
    granted: int | None = None  # packets that it may receive, but for what it has returned; None: any number
    granted_at: int = 0  # when that was last more, on CLOCK_MONOTONIC in nanoseconds
    seal: Seal = field(default_factory=Seal)
    share: Share = field(default_factory=Share)
    looked_up: int = 0  # when it last did, as it says itself, on CLOCK_MONOTONIC in nanoseconds
    silent: float = 0.0  # seconds since then, as control has seen them pass
    done: bool = False
    status: int | None = None  # of waitpid

    @property
    def may_receive(self) -> int:
        """How many packets it could have received when it was granted the last ones: some of them it has."""
        return 0 if self.granted is None else max(self.granted - self.share.returned, 0)

    @property
    def at_limit(self) -> bool:
        """It has received all that it may, and waits."""
        return self.granted is not None and not self.done and self.share.taken >= self.may_receive

    @property
    def counted(self) -> Counted:
        """What it has counted, also when it has ended, however it did."""
        return self.page.read()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Tell it something. WorkerError when it does not read; where it is gone, `receive` says why."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                messages.send(self.connection, kind, payload)
            except (BlockingIOError, TimeoutError):
                raise WorkerError(f"worker {self.pid} does not read what control tells it") from None

    def receive(self) -> None:
        """Take one message. WorkerError when the worker failed or died, SealError when it could not be sealed."""
        try:
            try:
                message = messages.receive(self.connection)
            except ConnectionResetError:
                # It ended with a message of ours unread. The error is reported once; what it said comes after.
                message = messages.receive(self.connection)
        except OSError:
            message = None
        if message is None:
            raise WorkerError(f"worker {self.pid} {self.cause()}")
        kind, payload = message
        if kind is Kind.ERROR:
            text = "".join(c if c.isprintable() else "?" for c in payload.decode(errors="replace"))
            raise (WorkerError if self.seal.applied else SealError)(f"worker {self.pid}: {text}")
        if kind is Kind.READY and not self.seal.applied:
            self.seal = Seal.unpack(payload)
        elif kind is Kind.SHARE and self.seal.applied:
            self.share = Share.unpack(payload)
        elif kind is Kind.DONE and self.seal.applied:
            self.done = True
        else:
            raise WorkerError(f"worker {self.pid} sent {kind.name}, which is not its turn")

    def cause(self) -> str:
        """How it ended."""
        status = self.wait(1.0)
        if status is None:
            return "does not answer"
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGSYS:
            return "made a system call that a sealed worker may not make, and was killed by SIGSYS"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def wait(self, deadline: float) -> int | None:
        """The status it ended with; None while it lives after `deadline` seconds."""
        end = time.monotonic() + deadline
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            elif time.monotonic() > end:
                break
            else:
                time.sleep(0.002)
        return self.status

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.wait(0.0) is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(DEATH)
        self.connection.close()
