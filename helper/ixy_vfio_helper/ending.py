"""How the commands that root runs end: by a signal, by an error, or where nobody reads what they print."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from ixy_vfio_helper.shown import shown_lines

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEBUG = "--debug"


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end, once: what was begun is undone on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    for one in SIGNALS:  # not SIG_IGN, which programs that undo something would inherit
        signal.signal(one, lambda number, frame: None)
    raise Stopped(number)


def say(text: str) -> None:
    """Print it at once. What cannot be printed must not keep the command from its work, nor from undoing it."""
    try:
        print("\n".join(shown_lines(text)), flush=True)
    except OSError:
        _silence()


def complain(name: str, error: object) -> None:
    """Say on standard error, in the name of the command, what is wrong."""
    for line in shown_lines(str(error)):
        print(f"{name}: {line}", file=sys.stderr)


def _silence() -> None:
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def answered(name: str, act: Callable[[], int], *refusals: type[Exception]) -> int:
    """The exit status of `act()`: 2 where it raises one of `refusals`, 1 for an OSError; either is told."""
    try:
        return act()
    except refusals as refusal:
        complain(name, refusal)
        return 2
    except OSError as error:
        complain(name, f"{error}" + "; run it as root" * (os.geteuid() != 0))
        return 1


def guarded(name: str, run: Callable[[], int]) -> int:
    """The exit status of `run()`; of a signal 128 + its number. An error that nobody has caught is told in a line."""
    for fd in range(3):  # a closed one would be the next file that is opened
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # to the end
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # by nohup
            signal.signal(number, _stop)
    try:
        status = run()
    except Stopped as stopped:
        status = 128 + stopped.number
    except SystemExit as end:  # of the parser
        status = end.code if isinstance(end.code, int) else 0
    except Exception as error:
        status = 1
        if DEBUG in sys.argv:
            traceback.print_exc()
        text = f"this is a bug of it: {type(error).__name__}: {error}; please report it, with what {DEBUG} shows"
        complain(name, " ".join(text.split()))
    try:
        sys.stdout.flush()
    except OSError:
        _silence()
        status = status or 1
    return status
