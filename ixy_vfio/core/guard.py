"""The net below every command: what nobody has caught is told here in a line or two, with the exit status."""

import atexit
import contextlib
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ixy_vfio_helper.shown import shown_lines

from ixy_vfio.core import signals, streams, surroundings
from ixy_vfio.core.errors import IxyError

DEBUG = "--debug"


def guarded(name: str, words: Sequence[str], run: Callable[[], int]) -> int:
    """`run()`'s exit status, or that of what it raises, which is told on standard error.

    `name` is what the lines begin with, `words` the whole command line: with --debug in it there is a traceback.
    """
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # here, where an error of it is still told
    except signals.Stopped as stopped:
        return 128 + stopped.number
    except Exception as error:
        with contextlib.suppress(OSError, MemoryError):
            if DEBUG in words:
                traceback.print_exception(error)
            for text in _told(error, words):  # it may quote a device, a file or another process
                print("\n".join(shown_lines(f"{name}: {text}")), file=sys.stderr)
        return error.exit_status if isinstance(error, IxyError) else 1


def end(status: int) -> NoReturn:
    """End the process. What the compiler has in memory is not taken apart first: that takes half a second.

    With `python -X dev` it is, so that whatever was left open is told.
    """
    if sys.flags.dev_mode:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, IxyError, ValueError):
            stream.flush()
    os._exit(status)


def _told(error: Exception, words: Sequence[str]) -> list[str]:
    if isinstance(error, IxyError):
        return [] if isinstance(error, streams.OutputError) and error.quiet else [str(error)]
    text = surroundings.told(error)
    return [text] if text else _bug(error, words)


def _bug(error: Exception, words: Sequence[str]) -> list[str]:
    """Of an error that nobody thought of: what it is, and what to send."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in place)
    versions = f"Python {platform.python_version()}, Linux {platform.release()}"
    again = shlex.join([Path(words[0]).name, DEBUG, *words[1:]])
    send = f"all of the above, and {versions}" if DEBUG in words else f"what this prints: {again}"
    return [f"this is a bug of ixy-vfio: {said}{where}", f"please report it, with {send}"]
