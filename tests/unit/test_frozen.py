"""The key of a user's kernel is what the compiler freezes of it: other values, another key; the same ones, the same."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath import frozen, kernels

KERNEL = "def kernel(packet, length):\n    return {}\n"
CALLED = "from rule import f\n" + KERNEL.format("f(length)")
INNER = "    def kernel(packet, length):\n        return length > n\n"
CLOSURE = f"def make(n):\n{INNER}    return kernel\nkernel = make({{}})\n"
READ = "import os, pathlib\nN = int((pathlib.Path(__file__).parent / 'rule.py').read_text()[1:])\n"
# (what the file and its helper say before, what they say after)
CHANGES = {
    "a global": (("N = 1\n" + KERNEL.format("length > N"), ""), ("N = 2\n" + KERNEL.format("length > N"), "")),
    "its type": (("N = 1\n" + KERNEL.format("length > N"), ""), ("N = 1.0\n" + KERNEL.format("length > N"), "")),
    "the statement": ((KERNEL.format("length > 1"), ""), (KERNEL.format("length >= 1"), "")),
    "an imported function": (
        ("import numba, rule\nf = numba.njit(rule.f)\n" + KERNEL.format("f(length)"), "def f(n):\n    return True\n"),
        ("import numba, rule\nf = numba.njit(rule.f)\n" + KERNEL.format("f(length)"), "def f(n):\n    return False\n"),
    ),
    "what a called function calls": (
        ("import numba\nfrom rule import f\n" + KERNEL.format("f(length)"),
         "import numba\n@numba.njit\ndef g(n):\n    return n > 1\n@numba.njit\ndef f(n):\n    return g(n)\n"),
        ("import numba\nfrom rule import f\n" + KERNEL.format("f(length)"),
         "import numba\n@numba.njit\ndef g(n):\n    return n > 2\n@numba.njit\ndef f(n):\n    return g(n)\n"),
    ),
    "how a called function is compiled": (
        (CALLED, "import numba\n@numba.njit\ndef f(n):\n    return n > 1\n"),
        (CALLED, "import numba\n@numba.njit(fastmath=True)\ndef f(n):\n    return n > 1\n"),
    ),
    "an attribute of a module": (
        ("import rule\n" + KERNEL.format("length > rule.N"), "N = 1\n"),
        ("import rule\n" + KERNEL.format("length > rule.N"), "N = 2\n"),
    ),
    "an array": (
        ("import numpy as np\nT = np.array([1, 2])\n" + KERNEL.format("length > T[0]"), ""),
        ("import numpy as np\nT = np.array([1, 3])\n" + KERNEL.format("length > T[0]"), ""),
    ),
    "an array's type": (
        ("import numpy as np\nT = np.array([1, 2], 'u1')\n" + KERNEL.format("length > T[0]"), ""),
        ("import numpy as np\nT = np.array([1, 2], 'i1')\n" + KERNEL.format("length > T[0]"), ""),
    ),
    "a tuple in a tuple": (
        ("T = ((1, 2), 3)\n" + KERNEL.format("length > T[0][1]"), ""),
        ("T = ((1, 4), 3)\n" + KERNEL.format("length > T[0][1]"), ""),
    ),
    "a closure": ((CLOSURE.format(1), ""), (CLOSURE.format(2), "")),
    "a default argument": (
        ("import numba\n@numba.njit\ndef f(a, b=1):\n    return a > b\n" + KERNEL.format("f(length)"), ""),
        ("import numba\n@numba.njit\ndef f(a, b=2):\n    return a > b\n" + KERNEL.format("f(length)"), ""),
    ),
    "an enumeration": (
        ("import enum\nclass E(enum.IntEnum):\n    A = 1\n" + KERNEL.format("length > E.A"), ""),
        ("import enum\nclass E(enum.IntEnum):\n    A = 2\n" + KERNEL.format("length > E.A"), ""),
    ),
    "a function inside": (
        ("def kernel(packet, length):\n    def f(n):\n        return n > 1\n    return f(length)\n", ""),
        ("def kernel(packet, length):\n    def f(n):\n        return n > 2\n    return f(length)\n", ""),
    ),
    "data read at import": ((READ + KERNEL.format("length > N"), "#1"), (READ + KERNEL.format("length > N"), "#2")),
    "a name that becomes another builtin": (
        ("f = min\n" + KERNEL.format("f(length, 2) > 1"), ""), ("f = max\n" + KERNEL.format("f(length, 2) > 1"), ""),
    ),
}  # fmt: skip


def key(directory: Path, main: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> str:
    directory.mkdir()
    (directory / "mine.py").write_text(main)
    (directory / "rule.py").write_text(rule)
    monkeypatch.syspath_prepend(directory)
    sys.modules.pop("rule", None)
    loaded = kernels.load(f"{directory}/mine.py:kernel")
    sys.modules.pop("rule", None)
    assert loaded.key, loaded.note
    return loaded.key


@pytest.mark.parametrize("what", CHANGES)
def test_another_value_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    before, after = CHANGES[what]
    first = key(tmp_path / "a", *before, monkeypatch)
    assert key(tmp_path / "b", *before, monkeypatch) == first
    assert key(tmp_path / "c", *after, monkeypatch) != first


def test_what_the_kernel_does_not_use_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import rule\nOTHER = object()\n{}\n" + KERNEL.format("length > rule.N")
    first = key(tmp_path / "a", text.format("X = 1"), "N = 1\n", monkeypatch)
    assert key(tmp_path / "b", text.format("X = 2  # a comment\n\n"), "N = 1\nM = 5\n", monkeypatch) == first


def test_the_environment_counts_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os\nOPEN = os.environ.get('GATE') == 'open'\n" + KERNEL.format("OPEN"))
    keys = []
    for gate in ("open", "shut", "closed"):
        monkeypatch.setenv("GATE", gate)
        keys.append(kernels.load(f"{path}:kernel").key)
    assert keys[0] != keys[1] == keys[2]


def test_the_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numba\nT = frozenset(('a', 'b', 'c', 1, 2))\nD = {'a': 1}\n"
        "@numba.njit\ndef f(n):\n    return n > 5\n"
        "def kernel(packet, length):\n    return f(length) or T is None or D is None\n"
    )
    code = f"from ixy_vfio.datapath import kernels; print(kernels.load({str(tmp_path / 'mine.py:kernel')!r}).key)"
    keys = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        argv = [sys.executable, "-c", code]
        keys.add(subprocess.run(argv, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("class C:\n    pass\nN = C()\n", "N: a C of"),
        ("import ctypes\nN = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)\n", "N: a "),
        ("import numpy as np\nN = np.array([None])\n", "N: an array of objects"),
        ("N = {object()}\n", "N: a set of objects"),
        (
            "from numba.extending import overload\nN = 1\ndef f(): pass\n"
            "@overload(f)\ndef g():\n    return lambda: 5\n",
            "extensions of the compiler",
        ),
    ],
)
def test_what_cannot_be_compared_is_compiled_anew_and_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text + KERNEL.format("length > N"))
    loaded = kernels.load(f"{path}:kernel")
    assert loaded.key is None
    assert loaded.note.startswith(
        "kernel kernel is compiled anew at each start, as this cannot be compared with before: "
    )
    assert why in loaded.note


@pytest.mark.timed
def test_many_values_are_quick_and_too_many_are_refused(tmp_path: Path) -> None:
    begin = time.monotonic()
    path = tmp_path / "mine.py"
    path.write_text("T = tuple((i,) for i in range(10_000))\n" + KERNEL.format("length > T[0][0]"))
    assert kernels.load(f"{path}:kernel").key
    assert time.monotonic() - begin < 10
    path.write_text(f"T = tuple((i,) for i in range({frozen.MOST}))\n" + KERNEL.format("length > T[0][0]"))
    assert "more than" in kernels.load(f"{path}:kernel").note


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_the_kind\n", "mine.py:1: `import nothing_of_the_kind`: ModuleNotFoundError: No module"),
        ("import sys\nsys.exit(3)\n", "mine.py:2: `sys.exit(3)`: SystemExit: 3"),
        ("def broken(:\n", "mine.py: SyntaxError: invalid syntax (mine.py, line 1)"),
    ],
)
def test_a_file_that_fails_says_where(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError) as error:
        kernels.load(f"{tmp_path}/mine.py:kernel")
    assert says in str(error.value)
