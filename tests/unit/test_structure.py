"""The house keeps its plan: who imports whom, who touches raw memory, types and style of every file."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "ixy_vfio"
HELPER = TOP / "helper" / "ixy_vfio_helper"
SETUP = TOP / "helper" / "ixy_vfio_setup"
LOCKS = TOP / "helper" / "ixy_vfio_locks"

# What each floor may import of the project; an entry stands for itself and what lies below it.
DRIVERS = {"ixy_vfio.drivers"}
SHARED = {
    f"ixy_vfio.drivers.{name}" for name in ("contract", "intel", "port", "queues", "semaphore", "statistics")
}  # by the drivers
ALLOWED: dict[str, set[str]] = {
    "ixy_vfio.hw": {"ixy_vfio.hw", "ixy_vfio_helper.nics"},
    "ixy_vfio.core": {"ixy_vfio.core", "ixy_vfio_helper.shown", "ixy_vfio_helper.addresses", "ixy_vfio_locks"},
    "ixy_vfio.transport.base": {"ixy_vfio.core"},
    "ixy_vfio.transport": {
        "ixy_vfio.core", "ixy_vfio.transport", "ixy_vfio_helper.protocol",
    },
    "ixy_vfio.datapath": {"ixy_vfio.core", "ixy_vfio.datapath"},
    "ixy_vfio.drivers": {"ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport.base", "ixy_vfio.datapath.format"},
    "ixy_vfio.drivers.contract": {
        "ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport.base", "ixy_vfio.datapath.format",
    },
    "ixy_vfio.drivers.port": {
        "ixy_vfio.core", "ixy_vfio.transport.base", "ixy_vfio.datapath.format", "ixy_vfio.drivers.contract",
        "ixy_vfio.drivers.queues",
    },
    "ixy_vfio.drivers.ixgbe": {
        "ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport.base", "ixy_vfio.datapath.format", *SHARED,
        "ixy_vfio.drivers.ixgbe",
    },
    "ixy_vfio.drivers.igb": {
        "ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport.base", "ixy_vfio.datapath.format", *SHARED,
        "ixy_vfio.drivers.igb",
    },
    "ixy_vfio.wires": {"ixy_vfio.core", "ixy_vfio.wires"},
    "ixy_vfio.sim": {
        "ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport.wire", "ixy_vfio.wires", "ixy_vfio.sim", "ixy_vfio_helper",
        "ixy_vfio_locks.calls",
    },
    "ixy_vfio.runtime": {
        "ixy_vfio.core", "ixy_vfio.transport", "ixy_vfio.datapath", "ixy_vfio.drivers.contract", "ixy_vfio.runtime",
        "ixy_vfio_helper.protocol", "ixy_vfio_locks",
    },
    "ixy_vfio.bench": {"ixy_vfio"},
    "ixy_vfio.audit": {
        "ixy_vfio.core", "ixy_vfio.hw.devices", "ixy_vfio.audit", "ixy_vfio_helper.shown", "ixy_vfio_helper.addresses",
    },
    "ixy_vfio.audit.attack": {
        "ixy_vfio.core", "ixy_vfio.hw", "ixy_vfio.transport", "ixy_vfio.datapath.format", *DRIVERS,
        "ixy_vfio.audit", "ixy_vfio_locks.calls",
    },
    "ixy_vfio.apps": {
        "ixy_vfio", "ixy_vfio_helper.shown",
        "ixy_vfio_setup.netlink", "ixy_vfio_setup.netstate",
    },
    "ixy_vfio.cli": {"ixy_vfio"},
    "ixy_vfio.__init__": {"ixy_vfio"},
    "ixy_vfio.__main__": {"ixy_vfio"},
    "ixy_vfio_locks": {"ixy_vfio_locks"},
    "ixy_vfio_helper": {"ixy_vfio_helper", "ixy_vfio_locks"},
    "ixy_vfio_setup": {"ixy_vfio_setup", "ixy_vfio_helper"},
}  # fmt: skip


def modules() -> list[tuple[str, Path]]:
    found = []
    for top in (PACKAGE, HELPER, SETUP, LOCKS):
        for path in sorted(top.rglob("*.py")):
            name = ".".join(path.relative_to(top.parent).with_suffix("").parts)
            found.append((name.removesuffix(".__init__") if name.count(".") > 1 else name, path))
    return found


def imports(path: Path, name: str) -> set[str]:
    """Every module that a file imports, wherever in the file it does so, by full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                package = parts if path.name == "__init__.py" else parts[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def within(name: str, floors: set[str]) -> bool:
    return any(name == floor or name.startswith(floor + ".") for floor in floors)


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_import_directions(name: str, path: Path) -> None:
    floor = max((f for f in ALLOWED if within(name, {f})), key=len, default=None)
    assert floor is not None, f"{name} lies on no floor of the plan"
    ours = {i for i in imports(path, name) if i.split(".")[0].startswith("ixy_vfio")}
    assert {i for i in ours if not within(i, ALLOWED[floor])} == set()


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that cannot be taken apart: each list is one circle, from a module back to before itself."""
    left = {name: set(to) for name, to in edges.items()}
    while ends := {name for name, to in left.items() if not to & left.keys()}:
        left = {name: to for name, to in left.items() if name not in ends}
    found = []
    while left:
        path = [min(left)]
        while (following := min(left[path[-1]] & left.keys())) not in path:
            path.append(following)
        found.append(path[path.index(following) :])
        left = {name: to for name, to in left.items() if name not in found[-1]}
        while ends := {name for name, to in left.items() if not to & left.keys()}:
            left = {name: to for name, to in left.items() if name not in ends}
    return found


def test_no_circles() -> None:
    """Those for types and within functions included: what cannot be read alone cannot be changed alone."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    known = dict(modules())
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        to = edges.setdefault(name, set())
        for one in imports(path, name):
            while one and one not in known:
                one = one.rpartition(".")[0]
            to.add(one)
        to -= {name, ""}
    assert circles(edges) == []


def test_driver_and_simulator_do_not_know_each_other() -> None:
    for name, path in modules():
        if within(name, {"ixy_vfio.sim"}):
            assert not any(within(i, DRIVERS) for i in imports(path, name)), name
        if within(name, DRIVERS | {"ixy_vfio.transport", "ixy_vfio.core", "ixy_vfio.datapath", "ixy_vfio.runtime"}):
            assert not any(within(i, {"ixy_vfio.sim"}) for i in imports(path, name)), name


def test_what_root_runs_imports_the_standard_library_only() -> None:
    for path in (*HELPER.glob("*.py"), *SETUP.glob("*.py"), *LOCKS.glob("*.py")):
        for name in imports(path, f"{path.parent.name}.{path.stem}"):
            top = name.split(".")[0]
            assert top in ("ixy_vfio_helper", "ixy_vfio_setup", "ixy_vfio_locks") or top in sys.stdlib_module_names, (
                f"{path.name} imports {name}"
            )


SERVING = """
import sys; sys.path.insert(0, sys.argv[1])
import ixy_vfio_helper.__main__ as helper
class Server:
    def __init__(self, *parts): pass
    def run(self): print(*(name for name in sys.modules if name.startswith("ixy_vfio")))
helper.server.Server, helper.policy.load, helper.lower = Server, lambda path: {}, lambda: None
sys.exit(helper.run(["--run", sys.argv[2], "--root", sys.argv[2], "serve"]))
"""


def test_what_serves_leases_cannot_bind(tmp_path: Path) -> None:
    """Root's commands change the host's drivers and interfaces. No process that a client reaches has their code.

    The helper is started here, isolated, and recovers; what it has loaded then, each process of a lease has too.
    """
    (tmp_path / "bound").mkdir(mode=0o755)
    (tmp_path / "bound/0000:03:00.0.json").write_text(
        '{"address": "0000:03:00.0", "driver": "", "override": "", "interfaces": []}'
    )
    argv = [sys.executable, "-I", "-S", "-B", "-c", SERVING, str(HELPER.parent), str(tmp_path)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    recovered, loaded = result.stdout.splitlines()
    assert (result.returncode, result.stderr, recovered) == (0, "", "0000:03:00.0: as it was before")
    names = loaded.split()
    assert {"ixy_vfio_helper.monitor", "ixy_vfio_helper.server"} < set(names)
    assert [name for name in names if not within(name, ALLOWED["ixy_vfio_helper"])] == []


RAW = {"carray", "intrinsic", "from_address", "from_buffer_copy", "inttoptr", "ctypes"}


def test_raw_memory_is_touched_in_one_module() -> None:
    for name, path in modules():
        if name in ("ixy_vfio.core.unsafe", "ixy_vfio.core.libc", "ixy_vfio_locks.calls", "ixy_vfio.core.bound"):
            continue  # the libc modules make calls of the C library, `bound` of the interpreter, none an address
        used = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        used |= {i.rsplit(".", 1)[-1] for i in imports(path, name)}
        assert not used & RAW, f"{name}: {used & RAW}"


@pytest.mark.parametrize(
    "command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=["ruff", "format", "mypy"]
)
def test_style_and_types(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_help_and_import_load_nothing_heavy() -> None:
    program = (
        "import sys, ixy_vfio, ixy_vfio.cli; print(*(m for m in ('numba', 'numpy', 'pyroute2') if m in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_scripts_venv_asks_for_nothing_that_a_plain_install_does_not_bring() -> None:
    """Else each `scripts/demo` would make .venv anew."""
    asked = re.search(r"find_spec, (\(.*?\))", (TOP / "scripts/venv").read_text())
    assert asked is not None
    names = set(ast.literal_eval(asked[1]))
    brought = {
        re.split(r"[<>=]", one)[0]
        for one in tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    assert names == (brought & names) | {"ixy_vfio", "ixy_vfio_helper", "ixy_vfio_locks", "ixy_vfio_setup"}


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_who_imports_numba_looks_first_whether_it_can_be_had(name: str, path: Path) -> None:
    """Else it is a traceback, or a signal, where the surroundings refuse it memory that can be executed."""
    found = [
        [alias.name for alias in node.names]
        if isinstance(node, ast.Import)
        else [f"{node.module}.{node.names[0].name}"]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    tops = [one for some in found for one in some]
    compiled = [one.split(".")[0] in ("numba", "llvmlite") for one in tops]
    if any(compiled) and name != "ixy_vfio.core.compiler":
        assert "ixy_vfio.core.compiler" in tops[: compiled.index(True)]
