"""Attack code in the process of a lease, after each step of its sandbox. Each attack works where nothing is sealed.

With root, as the helper has it: the attacks on files then say what user id 0 without capabilities may not do.
"""

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ixy_vfio_helper import __main__ as helper
from ixy_vfio_helper import sandbox
from ixy_vfio_helper.sandbox import READ, RECORDS, Sandbox
from ixy_vfio_locks import rights, seccomp

from ixy_vfio.transport.lease import Lease, Purpose
from tests.attack import evil_calls
from tests.attack import evil_process as evil
from tests.attack.evil_calls import LAST_SYSCALL
from tests.attack.evil_process import Attack
from tests.conftest import StartSimulator, address, wait_until
from tests.filters import run_filter

HELPER = Path(sandbox.__file__).parent
SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")
FREE, FIRST, LAST = "free", "begin", "finish"


def run(attack: Attack, directory: Path, step: str) -> str:
    """What `attack` tells from a process that is as far as `step`."""

    def prepare() -> None:
        box = Sandbox({directory / "leases": RECORDS, directory / "sys": READ})
        if step != FREE:
            assert box.begin() == []
        if step == LAST:
            box.finish()

    return evil.run(attack, directory, prepare)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """What stands for the file system: records, sysfs, and a file of root's."""
    if run(lambda _: "sealed", tmp_path, LAST) != "sealed":
        pytest.skip("this kernel cannot seal the process of a lease")
    for name in ("leases", "sys"):
        (tmp_path / name).mkdir()
    for name in ("sys/attribute", "shadow"):
        (tmp_path / name).write_text("as it was")
    yield tmp_path
    assert (tmp_path / "sys/attribute").read_text() == (tmp_path / "shadow").read_text() == "as it was"


def capable(bit: int) -> bool:
    """Whether this process has a capability."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> bit & 1)


PTRACE = 19
# attack, what comes of it without the seal, after the first step, after the second
ATTACKS: dict[str, tuple[Attack, str, str, str]] = {
    "read an attribute": (evil.read_attribute, "as it was", "as it was", "EPERM"),
    "write a record": (evil.record, "written", "written", "EPERM"),
    "memfd": (evil_calls.memfd, "made", "made", "EPERM"),
    "map memory": (evil.map_private, "mapped", "mapped", "mapped"),
    "map for DMA": (evil.ioctl(evil.MAP_DMA), "ENOTTY", "ENOTTY", "EPERM"),
    "reset": (evil.ioctl(evil.RESET), "ENOTTY", "ENOTTY", "EPERM"),
    "unmap": (evil.ioctl(evil.UNMAP_DMA), "ENOTTY", "ENOTTY", "ENOTTY"),
    "write an attribute": (evil.write_attribute, "opened", "EACCES", "EPERM"),
    "read a file": (evil.read_secret, "as it was", "EACCES", "EPERM"),
    "write a file": (evil.write_secret, "opened", "EACCES", "EPERM"),
    # Yama lets no child read its parent.
    "control's memory": (evil.control_memory, "opened" if capable(PTRACE) else "opened|EACCES", "EACCES", "EPERM"),
} | {name: (attack, free, "EPERM", "EPERM") for name, (attack, free) in evil.REFUSED.items()}
ATTACKS["attach elsewhere"] = (evil.ioctl(evil.ATTACH), "ENOTTY", "ENOTTY", "EPERM")


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_from_a_lease_process(place: Path, name: str) -> None:
    attack, *outcomes = ATTACKS[name]
    for step, expected in zip((FREE, FIRST, LAST), outcomes, strict=True):
        assert re.fullmatch(expected, told := run(attack, place, step)), (step, told)


NOT_BY_THESE_ARGUMENTS = {9, 10, 15, 16, 60, 72, 231, 285}  # refused, or not tried


def test_every_system_call_of_a_sealed_lease(place: Path) -> None:
    told = {int(word) for word in run(evil.calls_that_answer, place, LAST).split()}
    allowed = {rule.number for rule in sandbox.LAST}
    assert told == allowed - NOT_BY_THESE_ARGUMENTS
    assert len(allowed) < 50
    assert not allowed & {2, 41, 56, 57, 58, 59, 62, 101, 157, 257, 272, 310, 319, 321, 322, 425, 435, 437}


def test_a_call_by_the_numbers_of_another_abi(place: Path) -> None:
    """The gate of 32-bit programs: number 5 is open() there, and fstat() for the filter that does not ask."""
    if (free := run(evil.open_of_i386, place, FREE)) == "killed by SIGSEGV":
        pytest.skip("this kernel runs no 32-bit programs")
    assert (free, *(run(evil.open_of_i386, place, step) for step in (FIRST, LAST))) == ("opened", "EPERM", "EPERM")


@pytest.mark.parametrize("rules", [sandbox.LAST, (*sandbox.FIRST, *sandbox.SIMULATED)])
def test_the_filter_refuses_every_call_of_another_abi(rules: tuple[seccomp.Rule, ...]) -> None:
    program, refused = sandbox.program(rules), 0x0005_0000 | errno.EPERM
    for number in range(LAST_SYSCALL):
        for arguments in ((0,) * 6, (3,) * 6):
            assert run_filter(program, number, arguments, 0x4000_0003) == refused, f"{number} of i386"
            assert run_filter(program, number | 0x4000_0000, arguments) == refused, f"{number} of x32"
    assert run_filter(program, 5, (0,) * 6) == 0x7FFF_0000


def test_sockets_are_those_of_a_simulated_device_alone() -> None:
    """A lease of real devices makes none; one of simulated ones makes Unix sockets, and none once it is sealed."""
    refused = 0x0005_0000 | errno.EPERM
    simulated = sandbox.program((*sandbox.FIRST, *sandbox.SIMULATED))
    for family in range(64):
        assert run_filter(simulated, 41, (family, 1, 0, 0, 0, 0)) == (0x7FFF_0000 if family == 1 else refused), family
        for rules in (sandbox.FIRST, sandbox.LAST):
            assert run_filter(sandbox.program(rules), 41, (family, 1, 0, 0, 0, 0)) == refused, family


def test_a_sealed_lease_gives_pages_back_and_makes_none() -> None:
    program = sandbox.program(sandbox.LAST)
    for mode in (0, 1, 2, 8, 16, 32, 64, 3 | 8, 3 | 64):
        assert run_filter(program, 285, (5, mode, 0, 4096, 0, 0)) == 0x0005_0000 | errno.EPERM
    assert run_filter(program, 285, (5, 3, 0, 4096, 0, 0)) == 0x7FFF_0000  # PUNCH_HOLE, KEEP_SIZE


def of_the_helper(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox that `serve` gives its leases, with `directory` for /run/ixy_vfio."""
    made: list[Sandbox] = []

    class Server:
        def __init__(
            self, listener: socket.socket, policy: object, backend: object, claims: object, box: Sandbox, lock: int
        ) -> None:
            made.append(box)
            listener.close()
            os.close(lock)

        def run(self) -> None:
            """Serve nobody."""

    with monkeypatch.context() as patched:
        patched.setattr("ixy_vfio_helper.policy.load", lambda path: {})
        patched.setattr(helper, "lower", lambda: None)
        patched.setattr("ixy_vfio_helper.server.Server", Server)
        assert helper.run(["--run", str(directory), "serve"]) == 0
    return made[0]


@pytest.mark.parametrize("where", ["bound/0000:03:00.0", "bound/new", "new", "helper.sock", "leases/../new", "bound"])
def test_of_its_run_directory_a_lease_may_write_its_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """`bound` is the journal that root's `recover` believes."""
    box = of_the_helper(tmp_path, monkeypatch)
    (tmp_path / "bound/0000:03:00.0").write_text("as it was")

    def write(name: str) -> Attack:
        def attack(directory: Path) -> str:
            path = directory / name
            if path.is_dir():
                (path / "more").mkdir()
            elif path.is_socket():
                path.unlink()
            else:
                path.write_text("written")
            return "written"

        return attack

    def begin() -> None:
        assert box.begin() == []

    assert evil.run(write("leases/0000:03:00.0.ledger"), tmp_path, begin) == "written"
    assert evil.run(write(where), tmp_path, begin) in ("EACCES", "EPERM")
    assert (tmp_path / "bound/0000:03:00.0").read_text() == "as it was"
    assert evil.run(write(where), tmp_path, lambda: None) == "written"


@pytest.mark.root  # somebody else has no capability to give up
def test_the_last_capability_goes_when_the_lease_is_sealed(place: Path) -> None:
    shown: list[int] = []

    def prepare(last: bool) -> None:
        shown.append(os.open("/proc/self/status", os.O_RDONLY))
        box = Sandbox({place / "sys": READ})
        assert box.begin() == []
        if last:
            box.finish()

    def capabilities(_: Path) -> str:
        lines = os.pread(shown[0], 8192, 0).decode().splitlines()
        return " ".join(line.split()[1] for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb")))

    syslog, none = f"{sandbox.CAP_SYSLOG:016x}", "0" * 16
    assert evil.run(capabilities, place, lambda: prepare(False)) == f"{none} {syslog} {syslog} {none}"
    assert evil.run(capabilities, place, lambda: prepare(True)) == f"{none} {none} {none} {none}"


def test_no_ioctl_of_a_sealed_lease_gives_a_device_more_memory() -> None:
    """Of container, group, iommufd and device those that map, attach and bind are missing."""
    ioctls = [check for rule in sandbox.LAST if rule.number == 16 for check in rule.checks]
    assert {(check.number, check.mask) for check in ioctls} == {(1, 0xFFFF_FFFF)}
    by_number = {check.value & 0xFF for check in ioctls if check.value & 0xFF00 == sandbox.VFIO}
    assert by_number == {0x72, 0x86}  # unmap, IOAS unmap


def test_what_the_kernel_shows_of_a_lease_process(simulator: StartSimulator) -> None:
    """From outside: no capabilities, no new privileges, a filter; two when the client has sealed its lease."""
    sim = simulator()
    with Lease(sim.helper) as lease:
        device = lease.attach(address(0))
        lease.memory(4096, [device], Purpose.RINGS)
        assert status(sim.directory) == ("1", "1", {"0" * 16})
        lease.seal()
        assert status(sim.directory) == ("1", "2", {"0" * 16})


@pytest.mark.root  # it shows how root gives its rights up
def test_the_listening_process(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[user.1000]\ndevices = ["0000:03:00.0"]\n')
    policy.chmod(0o600)
    argv = [sys.executable, "-I", "-S", str(HELPER), "--run", str(tmp_path), "serve", "--policy", str(policy)]
    with subprocess.Popen(argv) as process:
        try:
            path = Path(f"/proc/{process.pid}/status")

            def lowered() -> bool:
                fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
                held = [int(fields[f"Cap{kind}"], 16) & ~sandbox.CAP_SYSLOG for kind in SETS]
                return fields["NoNewPrivs"] == "1" and not any(held)

            wait_until("it has given up its rights", lowered)
            assert (tmp_path / "helper.sock").is_socket()
        finally:
            process.terminate()


def status(directory: Path) -> tuple[str, str, set[str]]:
    """NoNewPrivs, filters and capabilities of the process that has the claim on port 0."""
    _, pid = (directory / "leases" / f"{address(0)}.lease").read_text().split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    sets = {f"{int(fields[f'Cap{kind}'], 16) & ~sandbox.CAP_SYSLOG:016x}" for kind in ("Inh", "Prm", "Eff", "Amb")}
    return fields["NoNewPrivs"], fields["Seccomp_filters"], sets


def test_a_kernel_without_landlock_is_named(place: Path) -> None:
    def attack(_: Path) -> str:
        rights.no_new_privileges()
        lacks = seccomp.Rule(444, (), seccomp.ERRNO | errno.EPERM)
        seccomp.install(seccomp.program([lacks], seccomp.ALLOW))
        return "; ".join(Sandbox({}).begin())

    assert run(attack, place, FREE) == "landlock: Operation not permitted"
