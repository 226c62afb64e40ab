"""The standard streams of a command, also where they are closed, full, or read by nobody any more."""

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from ixy_vfio.core.errors import IxyError


class OutputError(IxyError):
    """Standard output takes nothing more. `quiet`: its reader has gone, as `head` does, and nobody has to be told."""

    def __init__(self, error: OSError) -> None:
        self.quiet = error.errno == errno.EPIPE
        super().__init__(f"standard output: {error.strerror or error}; the rest of what was to be printed is lost")


class _Stream(io.FileIO):
    """A descriptor to write to; after the first error all is dropped, so that it is told once and the end is calm."""

    def __init__(self, fd: int, told: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self._told, self._lost = told, False

    def write(self, data: Any) -> int:
        """All of `data`; OutputError if it is an error to be told."""
        size = memoryview(data).nbytes
        if self._lost:
            return size
        try:
            while (written := super().write(data)) is None:  # somebody has made the descriptor non-blocking
                select.select([], [self], [])
            return written
        except OSError as error:
            self._lost = True
            if self._told:
                raise OutputError(error) from None
            return size


def prepare() -> None:
    """Make standard input, output and error what the rest of the program may rely on.

    A closed one becomes /dev/null: its number would be given to the next file, and printed into. What cannot be
    encoded is printed as an escape. An error of standard output is an OutputError, one of standard error nothing.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115  # for as long as the process
    sys.stdout = _text(1, sys.stdout, told=True)
    sys.stderr = _text(2, sys.stderr, told=False)


def _text(fd: int, before: TextIO | None, *, told: bool) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(fd, told)),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=not told or getattr(before, "line_buffering", False),
        write_through=getattr(before, "write_through", False),
    )
