"""What of its environment a command keeps; and that nothing else is in the memory of a worker."""

import os
import subprocess
from pathlib import Path

import pytest

from ixy_vfio.core import environment
from tests.conftest import StartSimulator, address, command

SECRET, KEPT = ("secret-of-another-", "program-5a17"), ("wanted-by-the-", "kernel-77c3")

# Imported by Python at its start; looks for both texts in all that a worker can write, before it is sealed.
SITE = f"""
import os, re

def count(first, second):
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            addresses, rights = line.split()[:2]
            if not rights.startswith("rw-p"):
                continue
            begin, end = (int(word, 16) for word in addresses.split("-"))
            for at in range(begin, end, 1 << 20):
                data = os.pread(memory.fileno(), min(1 << 20, end - at), at)
                found += sum(data[m.end():].startswith(second) for m in re.finditer(first, data))
    return found

def look():
    told = [count(b{SECRET[0]!r}, b{SECRET[1]!r}), count(b{KEPT[0]!r}, b{KEPT[1]!r})]
    with open(__file__ + ".told", "w") as file:
        print(*told, file=file)

os.register_at_fork(after_in_child=look)
"""


def test_what_stays() -> None:
    given = {
        "HOME": "/h",
        "LC_ALL": "C",
        "TOKEN": "t",
        "NUMBA_DISABLE_JIT": "0",
        "OMP_NUM_THREADS": "8",
        "A": "1",
        "B": "2",
    }
    kept = environment.allowed(given | {environment.KEEP: "A,B C"})
    threads = {name for name in kept if name.endswith("_NUM_THREADS")}
    assert {kept.pop(name) for name in threads} == {"1"}
    assert "OPENBLAS_NUM_THREADS" in threads
    assert set(kept) == {"HOME", "LC_ALL", "NUMBA_DISABLE_JIT", "A", "B", environment.KEEP}


@pytest.mark.parametrize("words", [["--kernel", "{}:f"], ["--kernel={}:f"]])
def test_what_a_kernels_file_names_stays(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text('import os\nPORT = int(os.environ["MY_PORT"])\n')
    kept = environment.allowed({"MY_PORT": "53", "TOKEN": "t"}, [word.format(path) for word in words])
    assert (kept.get("MY_PORT"), "TOKEN" in kept) == ("53", False)
    os.mkfifo(tmp_path / "pipe.py")
    assert "MY_PORT" not in environment.allowed({"MY_PORT": "53"}, [f"{tmp_path}/pipe.py:f", "/nowhere.py:f", "a:b"])


def test_a_secret_is_nowhere_in_a_workers_memory(simulator: StartSimulator, tmp_path: Path) -> None:
    """But a variable that was to be kept is found there: so the search finds what is there."""
    sim = simulator(cables=["0:port:1"])
    (tmp_path / "sitecustomize.py").write_text(SITE)
    extra = {"DATABASE_PASSWORD": "".join(SECRET), "MINE": "".join(KEPT), environment.KEEP: "MINE"}
    argv = command("forward", address(0), address(1), "--helper", sim.helper, "--quiet", "--duration", "0.1")
    result = subprocess.run(
        argv,
        env=os.environ | extra | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    secret, kept = map(int, (tmp_path / "sitecustomize.py.told").read_text().split())
    assert secret == 0
    assert kept > 0
