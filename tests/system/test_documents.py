"""Every example in the documents runs as it stands, without a word on standard error, or says why it is not run.

Simulated ports take the place of the NICs. Not run is what has `<!-- not run: WHY -->` before it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Simulator, address

TOP = Path(__file__).parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
BLOCK = re.compile(r"((?:^<!-- .*? -->\n)?)\n((?:^    .*\n|^\n(?=    ))+)", re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
INSTEAD = {
    "0000:03:00.0": address(0),
    "0000:03:00.1": address(1),
    " A B ": f" {address(0)} {address(1)} ",
    "1_000_000": "1_000",
    "count=1000000": "count=1000",
}
KERNEL = "def my_kernel(packet, length):\n    packet[48] += 1\n    return True\n"


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """The comment before each block of code, and its text."""
    text = document.read_text()
    assert "```" not in text, "code is indented here"
    for match in BLOCK.finditer(text):
        yield match[1], "".join(line[4:] + "\n" for line in match[2].strip("\n").splitlines())


EXAMPLES = [
    pytest.param(text, id=f"{document.relative_to(TOP)}: {text.splitlines()[0][:40]}")
    for document in DOCUMENTS
    for comment, text in blocks(document)
    if not NOT_RUN.match(comment)
]


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    one = Simulator(tmp_path_factory.mktemp("sim"), 2, ["0:gen:pace=0.001,expect=1", "1:gen:count=0,expect=0"], [])
    yield one
    one.stop()


def test_there_are_examples_that_run() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example(text: str, sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(KERNEL)
    for old, new in {**INSTEAD, "/tmp/ports": str(tmp_path / "ports")}.items():
        text = text.replace(old, new)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"IXY_VFIO_HELPER": sim.helper, "PATH": path, "PYTHONUNBUFFERED": "1"}
    if "import ixy_vfio" in text:
        done = subprocess.run(
            [sys.executable, "-"], input=text, capture_output=True, text=True, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return
    running = []
    try:
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            process = subprocess.Popen(
                words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            if words[:2] == ["ixy-vfio", "sim"]:
                running.append(process)
                assert process.stdout.readline().startswith("ready")
                continue
            if words[1] in ("forward", "reflect"):  # until Ctrl-C
                late = threading.Timer(120, process.kill)
                late.start()
                assert any(one.startswith((address(0), "{")) for one in process.stdout), "no numbers"
                late.cancel()
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
            assert errors == "", line
            assert process.returncode in ((0, 1) if "audit" in words else (0,)), line
    finally:
        for process in running:
            process.terminate()
            said = process.communicate(timeout=60)[1].splitlines()
            assert [one for one in said if not one.startswith("helper[")] == []  # the log of its helper
