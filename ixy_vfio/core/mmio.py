"""What drivers share below registers: 32-bit access, waiting with a deadline, and which page of the book is open."""

import functools
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeVar

ALL_ONES = 0xFFFF_FFFF  # what a read answers when nobody is there

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_section: ContextVar[str] = ContextVar("datasheet section", default="")


class Mmio(Protocol):
    """Anything with 32-bit registers; `transport.base.Bar` is one."""

    def read32(self, offset: int) -> int:
        """Read the register at byte `offset`."""

    def write32(self, offset: int, value: int) -> None:
        """Write the register at byte `offset`."""


def section(number: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Mark a function as the work of one datasheet section: error messages and traces name it."""

    def mark(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            token = _section.set(number)
            try:
                return function(*args, **kwargs)
            finally:
                _section.reset(token)

        return run

    return mark


def current_section() -> str:
    """The datasheet section that is being worked on; empty outside of all."""
    return _section.get()


def polls(within: float) -> Iterator[None]:
    """Yield again and again until `within` seconds have passed, pausing longer each time (up to 1 ms).

    The last turn comes after the deadline, so a process that was not scheduled in between still looks once more.
    """
    deadline = time.monotonic() + within
    pause = 1e-5
    while time.monotonic() < deadline:
        yield
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, 1e-3)
    yield
