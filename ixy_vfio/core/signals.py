"""How a command ends by a signal: without a word, and with the status that shells give it, 128 + its number.

    leave()               nothing has to be put back: the process ends where it is
    with unwinding():     something has: `Stopped` is raised once, and `with` and `finally` put it back

The commands that serve until they are stopped (forward, sim) have handlers of their own while they do.
A signal that was ignored when the process was started (nohup, a job in the background) stays ignored.
"""

import _signal as signal  # type: ignore[import-not-found]  # without its enumerations, which take 10 ms to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 0.005  # seconds after which a Stopped that was lost is raised again


class Stopped(SystemExit):
    """A signal asked this process to end. Not an Exception: only what ends a process catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def leave() -> None:
    """From now on a signal ends this process where it is; also one that `hold` has kept back."""
    _handle(_leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def hold() -> None:
    """Keep signals back until `leave`, also beyond exec: Python's own start would show a traceback, or die of one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _leave(number: int, frame: "FrameType | None") -> "NoReturn":
    os._exit(128 + number)


def _handle(handler: "Callable[[int, FrameType | None], Any]") -> None:
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class unwinding:  # a context manager, used like a function
    """In this block the first signal raises `Stopped`; the others are too late to change anything.

    A handler that the block sets stays after it: those that follow the signal that it serves must not cut off its end.
    An error on the way out, of something that was cut off by the signal, does not take the place of `Stopped`.
    """

    def __enter__(self) -> "unwinding":
        self._before = [(number, signal.getsignal(number)) for number in ENDING]
        self._hook = sys.unraisablehook
        self._number = 0
        sys.unraisablehook = self._unraisable
        _handle(self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        for number, handler in self._before:
            if signal.getsignal(number) in (self._stop, signal.SIG_IGN):
                signal.signal(number, handler)
        sys.unraisablehook = self._hook
        if self._number and isinstance(value, Exception):  # of what was put back: the signal is why it all ended
            raise Stopped(self._number) from None

    def _stop(self, number: int, frame: "FrameType | None") -> None:
        if not self._number:
            self._number = number
            raise Stopped(number)

    def _unraisable(self, lost: "sys.UnraisableHookArgs") -> None:
        """Python drops what is raised in a destructor or a callback of C: raise it again outside."""
        if not isinstance(lost.exc_value, Stopped):
            self._hook(lost)
            return
        number = lost.exc_value.number

        def again(_: int, frame: "FrameType | None") -> None:
            raise Stopped(number)

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
