"""A short run of the fuzzer; `python -m tests.wires.fuzz 1000000` is the long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ixy_vfio.core.errors import CaptureError
from tests.wires import fuzz


@pytest.mark.timed
def test_changed_captures_give_packets_or_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.wires.fuzz", "20000", str(os.getpid())],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for end in ("read whole", "ends early", "refused"):  # it reaches what it is made for
        assert int(done.stdout.partition(f"{end} ")[2].partition(",")[0]) > 1000, done.stdout


def test_the_fuzzer_sees_a_reader_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixy_vfio.wires.pcapng._check_length", lambda *_: None)
    with pytest.raises(Exception, match=r"struct|negative|unpack|read length|must be") as caught:
        fuzz.run(20_000, 1)
    assert not isinstance(caught.value, CaptureError)
