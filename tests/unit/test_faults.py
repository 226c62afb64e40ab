"""Kernels that cannot be: one line with file, line and statement, why, and what to do instead, before any lease."""

from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import check

HEAD = """import random
import numba
import numpy as np
from numpy import random as dice
SEEN = np.zeros(65536, np.uint64)
LIST = [1, 2]
N = 0

def plain(x):
    return x

@numba.njit
def says(x):
    print(x)
    return x

def kernel(packet, length):
"""
WRONG = {
    "    print(length)\n    return True": ("print(length)", "prints"),
    "    return says(length) > 4": ("print(x)", "prints"),
    "    return random.random() < 0.5": ("return random.random() < 0.5", "draws random numbers"),
    "    return dice.randint(5) < 2": ("return dice.randint(5) < 2", "draws random numbers"),
    "    return np.random.rand() < 0.5": ("return np.random.rand() < 0.5", "draws random numbers"),
    "    SEEN[packet[36]] += 1  # so\n    return True": ("SEEN[packet[36]] += 1", "a global array is a constant"),
    "    global N\n    N = N + 1\n    return True": ("N = N + 1", "a global cannot be written"),
    "    return length == LIST[0]": ("return length == LIST[0]", "make it a tuple"),
    "    try:\n        return packet[5000] == 0\n    except IndexError:\n        return False": (
        "except IndexError:",
        "look at `length`",
    ),
    '    return packet[0:6].tobytes() == b"123456"': (
        'return packet[0:6].tobytes() == b"123456"',
        "compare byte by byte",
    ),
    "    return open('/etc/passwd')": ("return open('/etc/passwd')", "`open` cannot be used in compiled code"),
    "    return plain(length) > 4": ("return plain(length) > 4", "`plain` is a plain Python function; put @numba.njit"),
    "    import math\n    return math.sqrt(length) > 4": ("import math", "import it at the top of the file"),
    "    return nothing_such(length)": ("return nothing_such(length)", "`nothing_such` is not defined"),
    "    return packet.nothing > 4": ("return packet.nothing > 4", "`nothing` is nothing that compiled code has"),
}


def load(directory: Path, body: str) -> kernels.Kernel:
    path = directory / "mine.py"
    path.write_text(f"{HEAD}{body}\n")
    return kernels.load(f"{path}:kernel")


@pytest.mark.parametrize("body", WRONG)
def test_the_line_the_statement_and_the_remedy(tmp_path: Path, body: str) -> None:
    statement, remedy = WRONG[body]
    with pytest.raises(UsageError) as error:
        check(load(tmp_path, body))
    text = str(error.value)
    lines = (HEAD + body).splitlines()
    number = next(i + 1 for i, line in enumerate(lines) if line.partition("  #")[0].strip() == statement)
    assert f"mine.py:{number}: `{statement}`: " in text
    assert remedy in text
    assert "\n" not in text


def test_values_of_different_types(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine.py:(19|20): `return ('x'|True)`: it returns values of different types"):
        check(load(tmp_path, "    if length > 4:\n        return 'x'\n    return True"))


def test_a_generator_and_a_compiled_function_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a generator"):
        check(load(tmp_path, "    yield True"))
    with pytest.raises(UsageError, match="without @njit"):
        check(load(tmp_path, "    return True\nkernel = numba.njit(kernel)"))


@pytest.mark.parametrize(
    ("body", "statement"),
    [
        ("    a = np.zeros(5, np.uint8)\n    a[packet[0] % 5] = 1\n    return a[3] == 0", "a = np.zeros(5, np.uint8)"),
        ("    a = [packet[0]]\n    a.append(packet[1])\n    return len(a) == packet[5]", "a = [packet[0]]"),
    ],
)
def test_a_kernel_that_allocates_runs_with_a_note(tmp_path: Path, body: str, statement: str) -> None:
    note = check(load(tmp_path, body))
    assert f"`{statement}`: it allocates memory for each packet" in note
    assert check(load(tmp_path, "    return packet[12] == 8 and SEEN[0] == 0 and length > N")) == ""


@pytest.mark.parametrize("name", ["k\udcff\udcc3.py", "Gerät 1.py", "a.b-c.py"])
def test_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    """Also one whose name is no UTF-8: it is compiled, and known again."""
    file = tmp_path / name
    file.write_text("def kernel(packet, length):\n    return length > 60\n")
    kernel = kernels.load(f"{file}:kernel")
    assert (check(kernel), kernel.note, kernel.key is None) == ("", "", False)
