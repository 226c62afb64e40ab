"""The commands that root runs: signals, output that goes away, closed streams, and what nobody thought of."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).parents[2] / "helper"
PYTHON = [sys.executable, "-I", "-S"]


def program(text: str) -> list[str]:
    head = f"import sys; sys.path.append({str(HELPER)!r}); import os, signal, time\n"
    head += "from ixy_vfio_helper.ending import *\n"
    return [*PYTHON, "-c", head + text]


@pytest.mark.parametrize("words", [["ixy_vfio_helper", "--help"], ["ixy_vfio_setup", "--help"]], ids=" ".join)
def test_output_that_goes_away(words: list[str]) -> None:
    for sink in ("/dev/full", None):
        argv = [*PYTHON, str(HELPER / words[0]), *words[1:]]
        shell = ["sh", "-c", '"$@" > /dev/full' if sink else 'exec "$@" <&- >&-', "sh", *argv]
        done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1 if sink else 0, "")


@pytest.mark.timed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_once(number: int) -> None:
    text = (
        "def run():\n try:\n"
        f"  os.kill(os.getpid(), {number:d}); time.sleep(5)\n"
        " finally:\n  os.kill(os.getpid(), signal.SIGTERM); say('undone')\n"
        "sys.exit(guarded('x', run))"
    )
    done = subprocess.run(program(text), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "undone\n", "")


def test_a_bug_is_said_in_a_line_and_shown_with_debug() -> None:
    text = "sys.exit(guarded('x', lambda: {}['lost']))"
    done = subprocess.run(program(text), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("x: this is a bug of it: KeyError: 'lost'; please report it")
    done = subprocess.run([*program(text), "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr


def test_setup_undoes_what_it_did_although_nobody_reads_what_it_says() -> None:
    """`say` in the middle of an undo must not end it."""
    text = (
        "def run():\n"
        " try:\n  say('done'); raise ValueError\n"
        " except ValueError:\n  say('failed'); print('undone', file=sys.stderr)\n return 1\n"
        "sys.exit(guarded('x', run))"
    )
    done = subprocess.run(
        ["sh", "-c", '"$@" > /dev/full', "sh", *program(text)], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "undone\n")
