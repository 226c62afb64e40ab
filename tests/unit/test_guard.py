"""The net below the commands: one line for what the surroundings refuse, and what to send for what is a bug."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ixy_vfio.core import signals, surroundings
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.guard import guarded
from ixy_vfio.core.streams import OutputError
from ixy_vfio.core.temporary import workplace


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UsageError("wrong"), 2, "x: wrong\n"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "allow more (ulimit -n)\n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 1, "allow more (ulimit -u, pids.max)\n"),
        (RuntimeError("can't start new thread"), 1, "allow more (ulimit -u, pids.max)\n"),
        (MemoryError(), 1, "allow more, or end programs\n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "allow more, or end programs\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "x: /x/y: No space left on device: the file "),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), 1, "x: /x: Disk quota exceeded: the file system is full"),
        (OSError(errno.EFBIG, "File too large", "/x"), 1, "allow more (ulimit -f)\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/\udcff"), 1, "x: /x/\\udcff: Permission denied\n"),
        (ImportError("libz.so: failed to map segment", name="zlib"), 1, "run scripts/venv again"),
        (OutputError(OSError(errno.EPIPE, "Broken pipe")), 1, ""),
        (OutputError(OSError(errno.ENOSPC, "No space left on device")), 1, "x: standard output: No space left on"),
        (signals.Stopped(signal.SIGTERM), 143, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_one_line_and_the_status(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("x", ["x"], raising(error)) == status
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == (1 if text else 0)


def test_a_bug_says_that_it_is_one_and_what_to_send(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("ixy-vfio x", ["/a/ixy-vfio", "x", "a b"], raising(KeyError("lost\x1b[2J"))) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("ixy-vfio x: this is a bug of ixy-vfio: KeyError: 'lost\\x1b[2J' (test_guard.py, line ")
    assert second == "ixy-vfio x: please report it, with what this prints: ixy-vfio --debug x 'a b'"


@pytest.mark.parametrize("error", [UsageError("wrong"), KeyError("lost"), OSError(errno.ENOSPC, "Full", "/x")])
def test_debug_shows_the_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    guarded("x", ["x", "--debug"], raising(error))
    assert "Traceback" in capsys.readouterr().err


def test_what_of_this_package_cannot_be_imported_is_a_bug() -> None:
    assert surroundings.told(ImportError("cannot import name 'x'", name="ixy_vfio.cli")) is None
    assert surroundings.told(ValueError("x")) is None


@pytest.mark.timed
def test_a_signal_unwinds_once_and_also_out_of_a_destructor() -> None:
    """What is raised in a destructor is dropped by Python: it comes again."""
    before = signal.getsignal(signal.SIGTERM)

    class Odd:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.001)

    undone = []

    def interrupted() -> None:
        with signals.unwinding():
            try:
                one = Odd()
                del one
                time.sleep(5.0)
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # too late to change anything
                undone.append(True)

    with pytest.raises(signals.Stopped) as raised:
        interrupted()
    assert (raised.value.code, undone) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    program = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ixy_vfio.core import signals; signals.leave()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "with signals.unwinding(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('not reached')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_an_error_of_what_a_signal_cut_off_does_not_take_its_place() -> None:
    def interrupted() -> None:
        with signals.unwinding():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                raise OSError("half done")

    with pytest.raises(signals.Stopped) as raised:
        interrupted()
    assert raised.value.code == 130
    with pytest.raises(OSError, match="no signal"), signals.unwinding():
        raise OSError("no signal")


@pytest.mark.timed
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "sys.exit(3)", "os.kill(0, 15)"])
def test_a_temporary_directory_ends_with_its_process(tmp_path: Path, end: str) -> None:
    program = (
        "import os, sys\nfrom ixy_vfio.core.temporary import workplace\n"
        f"with workplace('t-') as place:\n (place / 'file').touch(); print(place, flush=True)\n {end or 'pass'}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == tmp_path, done.stderr
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_temporary_directory_with_a_long_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "x" * 75)
    with pytest.raises(UsageError, match=r"^no temporary directory: /tmp/x+: too long .* TMPDIR"), workplace("p-"):
        pass


def test_no_room_for_a_temporary_directory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with pytest.raises(UsageError, match=r"no temporary directory: mkdir: .*/proc/t-"), workplace("t-"):
        pass


def test_standard_streams_that_are_closed_are_not_given_away() -> None:
    """The next file that is opened would get their numbers."""
    program = (
        "import os; from ixy_vfio.core import streams; streams.prepare()\n"
        "assert os.dup(2) > 2 and [os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)] == ['/dev/null'] * 3\n"
        "import sys; print('to nobody'); print('to nobody', file=sys.stderr); assert sys.stdin.read() == ''\n"
        "sys.stdout.flush(); os._exit(7)"
    )
    words = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program]
    assert subprocess.run(words, check=False).returncode == 7


def test_what_cannot_be_encoded_is_escaped(tmp_path: Path) -> None:
    program = (
        "from ixy_vfio.core import streams; streams.prepare(); import sys\n"
        "print('\\udcff \\u2502'); print('\\udcff \\u2502', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (done.stdout, done.stderr) == (b"\\udcff \\u2502\n",) * 2
    assert isinstance(sys.stdout, io.TextIOBase)


@pytest.mark.parametrize(("flags", "taken_apart"), [((), False), (("-X", "dev"), True)])
def test_the_end_keeps_what_was_promised(flags: tuple[str, ...], taken_apart: bool) -> None:
    """What is to be done at the end is done, and printed; the rest is taken apart only to look for what is open."""
    program = (
        "import atexit, sys\nfrom ixy_vfio.core.guard import end\n"
        "class Kept:\n    def __del__(self): print('taken apart', flush=True)\n"
        "kept = Kept()\natexit.register(lambda: print('at exit'))\nprint('no line end', end='')\nend(3)\n"
    )
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "no line endat exit\n" + "taken apart\n" * taken_apart
