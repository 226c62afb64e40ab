"""Options of the commands: numbers that have a range, and one line for what cannot be."""

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn

from ixy_vfio_helper.addresses import full_address

from ixy_vfio.core.errors import UsageError

YEAR = 366 * 86400.0  # seconds; nothing here is measured in longer times
_DECIMAL = re.compile(r"[+-]?([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")


def pci_address(text: str) -> str:
    """A PCI address in full; the domain 0000: may be left out. Raises UsageError."""
    try:
        return full_address(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the list of all options before it."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def number(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: a whole number from `low` to `high`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return convert


def seconds(low: float, high: float = YEAR) -> Callable[[str], float]:
    """The type of an option: a time in seconds."""

    def convert(text: str) -> float:
        value = float(text) if _DECIMAL.fullmatch(text) else math.nan
        if not low <= value <= high:  # which NaN is not
            raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds from {low:g} to {high:g}")
        return value

    return convert
