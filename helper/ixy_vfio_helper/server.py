"""The listening process: who connects, may they, and one process per lease. It never reads a message."""

import contextlib
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ixy_vfio_helper import locks, protocol
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.memory import PLACES, Account, account_page
from ixy_vfio_helper.monitor import Backend, Monitor, Refusal, log
from ixy_vfio_helper.policy import Grant, Policy, PolicyError
from ixy_vfio_helper.sandbox import Sandbox

MAX_LEASES = 64  # at one time, of all users
PAUSE = 0.1  # seconds after a connection that could not be accepted
END_DEADLINE = 20.0  # seconds for all leases to undo what they did
_PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


def listen(path: Path, mode: int) -> tuple[socket.socket, int]:
    """A listening socket at `path`, and the lock file that says that it is ours (keep it open).

    With that lock, a socket that is found there was left behind and is replaced. Raises Refusal.
    """
    try:
        name = path.with_name(f"{path.name}.lock")
        if (lock := locks.take(name, f"process {os.getpid()}")) is None:
            raise Refusal(
                f"{path}: another helper serves this socket ({locks.holder(name)}); stop it first, or use another one"
            )
        if path.is_socket():
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(16)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror or error}") from None
    return listener, lock


def activated() -> socket.socket | None:
    """The socket that systemd listens on for us (sd_listen_fds(3)), if there is one. Raises Refusal."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS")
    listener = socket.socket(fileno=3) if count == "1" else None
    if listener is None or (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        raise Refusal("socket activation: exactly one ListenSequentialPacket= socket is wanted")
    os.set_inheritable(3, False)
    return listener


def _wake_by(*signals: signal.Signals) -> tuple[int, int]:
    """A pipe that gets the number of each of these signals that comes."""
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda number, frame: None)
    return pipe


def _what(error: BaseException) -> str:
    """An error as one says it: without a number, and never nothing."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _end(connection: socket.socket, reason: str) -> None:
    """Tell a client why it gets no lease."""
    with contextlib.suppress(OSError):
        protocol.send(connection, protocol.Ended(protocol.one_line(reason)))


@dataclass(slots=True)
class Server:
    """Accepts clients on `listener` until SIGTERM or SIGINT, then ends all leases."""

    listener: socket.socket
    policy: Callable[[], Policy]  # read again for each client: an edit counts from the next lease on
    backend: Backend
    claims: Claims
    sandbox: Sandbox
    lock: int = -1
    _leases: dict[int, tuple[int, int]] = field(default_factory=dict)  # process id -> uid, place in its account
    _accounts: dict[int, mmap.mmap] = field(default_factory=dict)  # by uid
    _spare: int = -1  # a descriptor to give up when there is none to accept a connection with

    def run(self) -> None:
        """Serve."""
        alive, mine = os.pipe2(os.O_CLOEXEC)  # a lease ends when `mine` is closed, whatever closed it
        signals, wakes = _wake_by(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        self._keep_spare()
        own = [self.listener.fileno(), mine, signals, wakes] + [self.lock] * (self.lock >= 0)
        self.listener.setblocking(False)
        while True:
            ready, _, _ = select.select([self.listener.fileno(), signals], [], [])
            if signals in ready:
                came = os.read(signals, 64)
                self._reap()
                if signal.SIGTERM in came or signal.SIGINT in came:
                    break
            if self.listener.fileno() in ready:
                self._accept(alive, own)
        self.listener.close()
        os.close(mine)
        deadline = time.monotonic() + END_DEADLINE
        while self._leases and (left := deadline - time.monotonic()) > 0:
            if select.select([signals], [], [], left)[0]:
                os.read(signals, 64)
            self._reap()
        if self._leases:
            log.error("leases that did not end in %.0f s: %s", END_DEADLINE, sorted(self._leases))

    def _accept(self, alive: int, own: Sequence[int]) -> None:
        """Whatever goes wrong with one client is told to that client, and the others go on."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._turn_away(error)
            return
        with connection:
            try:
                self._begin(connection, alive, own)
            except Exception as error:
                log.error("cannot begin a lease: %s", _what(error), exc_info=not isinstance(error, OSError | Refusal))
                _end(connection, f"the helper cannot begin a lease ({_what(error)}); try again later")

    def _turn_away(self, error: OSError) -> None:
        """No descriptor, or no memory, to accept a connection with: give up the spare one, and say so to the client."""
        log.error("cannot accept a connection: %s", _what(error))
        with contextlib.suppress(OSError):
            os.close(self._spare)
            connection, _ = self.listener.accept()
            with connection:
                _end(connection, f"the helper cannot accept connections ({_what(error)}); try again later")
        self._keep_spare()
        time.sleep(PAUSE)

    def _keep_spare(self) -> None:
        self._spare = -1
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _begin(self, connection: socket.socket, alive: int, own: Sequence[int]) -> None:
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        pid, uid, _ = _PEERCRED.unpack(peer)
        granted = self._grant(uid)
        if isinstance(granted, str):
            log.info("refused uid %d (process %d): %s", uid, pid, granted)
            _end(connection, granted)
            return
        account = self._account(uid)
        child = os.fork()
        if child:
            self._leases[child] = uid, account.place
            return
        status = 1
        try:
            log.info("lease of uid %d began: client process %d", uid, pid)
            self._serve_lease(connection, granted, account, alive, (*own, self._spare))
            status = 0
        except BaseException as error:
            log.error("process of a lease: %s", _what(error), exc_info=True)
            _end(connection, f"the helper failed to begin a lease ({_what(error)}); its log says more")
        finally:
            os._exit(status)

    def _account(self, uid: int) -> Account:
        """A place in the account of the user that no lease has, and none has left bytes in."""
        if uid not in self._accounts:
            self._accounts[uid] = account_page()
        page = self._accounts[uid]
        used = {place for owner, place in self._leases.values() if owner == uid}
        used |= {place for place, count in enumerate(Account(page).counts()) if count}
        if len(used) == PLACES:
            raise Refusal("processes of earlier leases died with memory; the helper must be started again")
        return Account(page, min(set(range(PLACES)) - used))

    def _grant(self, uid: int) -> Grant | str:
        """What this user may have, or why nothing."""
        try:
            grant = self.policy().get(uid)
        except PolicyError as error:
            log.error("policy: %s", error)
            return "the helper's policy file has an error, so nobody gets anything; its log names the line"
        if grant is None:
            return f"the helper's policy gives nothing to uid {uid}; ask the administrator"
        if Counter(owner for owner, _ in self._leases.values())[uid] >= grant.leases:
            return f"uid {uid} has {grant.leases} leases already, as many as the policy allows; end one first"
        if len(self._leases) >= MAX_LEASES:
            return f"the helper serves {MAX_LEASES} leases already; try again when one has ended"
        return grant

    def _serve_lease(
        self, connection: socket.socket, grant: Grant, account: Account, alive: int, foreign: Sequence[int]
    ) -> None:
        """In the process of a lease; `foreign` is what it has of its parent and must not have."""
        # Ctrl-C reaches the whole process group; the parent ends its leases by the pipe. SIGTERM ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        terminated, _ = _wake_by(signal.SIGTERM)
        for fd in foreign:
            if fd >= 0:
                os.close(fd)
        for page in self._accounts.values():
            if page is not account.page:
                page.close()
        with contextlib.suppress(OSError):  # when memory runs out, it is not the listening process that the kernel ends
            Path("/proc/self/oom_score_adj").write_text("500")
        for missing in self.sandbox.begin():
            log.warning("the process of a lease is not fully sealed: %s", missing)
        Monitor(connection, grant, self.backend, self.claims, (alive, terminated), self.sandbox.finish, account).run()

    def _reap(self) -> None:
        while self._leases:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            uid, place = self._leases.pop(child)
            if status:  # nobody gave its memory back
                left = Account(self._accounts[uid]).counts()[place]
                log.error("lease process %d of uid %d died (%d): its device is stopped when the client closes it; its"
                          " %d bytes stay counted", child, uid, os.waitstatus_to_exitcode(status), left)  # fmt: skip
