"""Numbers on command lines: every option of every command refuses what cannot be, in one line, with status 2."""

import argparse

import pytest

from ixy_vfio import cli
from ixy_vfio.core.options import number, seconds

A, B = "8259:00:00.0", "8259:00:01.0"
ODD = ["-1", "nan", "inf", "-inf", "1e99", "", " ", "1_0", "0x10", "٣", "9" * 5000, "1" + "0" * 30, "--"]
NUMBERS = {
    ("forward", A, B): ["--batch", "--ring", "--queues", "--mtu", "--packets", "--cores"],
    ("sim", "--dir", "/nowhere/at/all"): ["--ports", "--seed"],
    ("demo",): ["--megabytes"],
    ("in-use", A): ["--home", "--below"],
}
TIMES = ["--duration", "--interval", "--link-deadline"]
CASES = [(words, option) for words, options in NUMBERS.items() for option in options]
CASES += [(("forward", A, B), option) for option in TIMES]


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = cli.main(words)
    except SystemExit as error:
        status = int(str(error.code))
    return status, *capsys.readouterr()


@pytest.mark.parametrize(("words", "option"), CASES)
def test_out_of_range(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], option: str) -> None:
    for value in ODD:
        status, out, error = ended(capsys, *words, option, value)
        assert (status, out, error.count("\n")) == (2, "", 1), (value, error)
        assert option in error, value


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--batch", ["0", "4097"]),
        ("--ring", ["63", "65", "4097", "8192"]),
        ("--queues", ["0", "17"]),
        ("--mtu", ["67", "9201"]),
        ("--packets", ["0"]),
        ("--duration", ["0", "0.0", "31622401"]),
        ("--interval", ["0", "0.001"]),
        ("--cores", ["0-99999999", "1-0", "0,", "0-", "-", "4096"]),
    ],
)
def test_just_outside(capsys: pytest.CaptureFixture[str], option: str, values: list[str]) -> None:
    for value in values:
        status, _, error = ended(capsys, "forward", A, B, option, value)
        assert (status, error.count("\n")) == (2, 1), (value, error)
        assert option in error


def test_an_option_that_is_not_there_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = ended(capsys, "forward", A, B, "--nonsense")
    assert (status, error.count("\n")) == (2, 1)
    assert "--nonsense" in error


def test_what_is_taken() -> None:
    assert [number(1, 64)(text) for text in ("1", "64", "+5", "007")] == [1, 64, 5, 7]
    assert [seconds(0)(text) for text in ("0", "1e3", ".5")] == [0.0, 1000.0, 0.5]
    with pytest.raises(argparse.ArgumentTypeError, match="'65' is not a whole number from 1 to 64"):
        number(1, 64)("65")
