"""Whatever started us may forbid system calls: each is done without, or the refusal is one line that names the call."""

import errno
import functools
import os
from collections.abc import Callable

import pytest
from ixy_vfio_locks import rights, seccomp
from ixy_vfio_locks.calls import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_SECCOMP
from ixy_vfio_locks.seccomp import Check, Rule

from ixy_vfio.core.errors import IxyError, SealError
from ixy_vfio.datapath.queue import counters
from ixy_vfio.runtime import control_seal, worker
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind
from ixy_vfio.runtime.worker import Idle, Job
from tests.model_nic import World
from tests.programs import program_of

PRCTL, SECCOMP = 157, 317
FORBIDDEN = "; a container runtime or a service manager may forbid it"


def answered(numbers: list[tuple[int, tuple[Check, ...]]], error: int, ask: Callable[[], str]) -> str:
    """What `ask` tells in a process whose system calls of these numbers and arguments are answered with `error`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = "no answer"
        try:
            rights.no_new_privileges()
            rules = [Rule(number, checks, seccomp.ERRNO | error) for number, checks in numbers]
            seccomp.install(seccomp.program(rules, seccomp.ALLOW))
            told = ask()
        except IxyError as refused:
            told = f"{type(refused).__name__}: {refused}"
        except BaseException as odd:
            told = f"not one of ours: {odd!r}"
        finally:
            os.write(writer, told.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def seal_a_worker() -> str:
    """What a worker reports to be missing beyond what is missing here; it goes, stops, and ends as it should."""
    world = World(buffers=64)
    core = min(os.sched_getaffinity(0))
    job = Job(program_of(lambda _: 0, "idle"), world.pool, tuple(world.pairs), core=core, idle=Idle.SLEEP)
    one = Worker(*worker.start(job), core)
    one.connection.settimeout(20)
    try:
        try:
            one.receive()
        except SealError as error:
            return str(error).partition(": ")[2]
        one.send(Kind.GO)
        one.send(Kind.STOP)
        while not one.done:
            one.receive()
        assert one.wait(10) == 0
    finally:
        one.kill()
    return "; ".join(["sealed", *one.seal.missing])


def seal_control() -> str:
    return "; ".join(["sealed", *control_seal.seal([]).missing])


def option(number: int) -> list[tuple[int, tuple[Check, ...]]]:
    return [(PRCTL, (Check(0, 0xFFFF_FFFF, number),))]


def call(*numbers: int) -> list[tuple[int, tuple[Check, ...]]]:
    return [(number, ()) for number in numbers]


NEEDED = "{}" + FORBIDDEN
REFUSED = "SystemRefused: " + NEEDED
# what is refused -> the calls, and what is told then: {} is the call's own error. Sealed: nothing is missing then.
OF_A_WORKER = {
    "close_range": (call(436), "sealed"),
    "seccomp": (call(SECCOMP), "sealed"),
    "prctl(PR_SET_SECCOMP)": (option(PR_SET_SECCOMP), "sealed"),
    "prctl(PR_SET_NO_NEW_PRIVS)": (option(PR_SET_NO_NEW_PRIVS), "sealed"),  # a process with a filter has it
    "both ways to a filter": ([*call(SECCOMP), *option(PR_SET_SECCOMP)], "sealed; seccomp: seccomp: {}"),
    "prctl(PR_SET_PDEATHSIG)": (option(PR_SET_PDEATHSIG), NEEDED),
    "prctl(PR_SET_DUMPABLE)": (option(PR_SET_DUMPABLE), NEEDED),
    "capset": (call(126), NEEDED if os.geteuid() == 0 else "sealed"),  # sealed: there is nothing to give up
    "--cores: sched_setaffinity": (call(203), NEEDED),
    "epoll_create1 (not needed with --idle yield)": (call(291), REFUSED),
    "epoll_ctl (not needed with --idle yield)": (call(233), REFUSED),
    "prlimit64": (call(160, 302), "sealed; limits: prlimit64: {}"),
    "landlock_create_ruleset": (call(444), "sealed; landlock: landlock_create_ruleset: {}"),
    "landlock_restrict_self": (call(446), "sealed; landlock: landlock_restrict_self: {}"),
    "mseal": (call(462), "sealed; mseal: mseal: {}"),
    "socketpair": (call(53), REFUSED),
    "fork": (call(56, 57, 58, 435), REFUSED),
}
OF_CONTROL = {
    "seccomp": (call(SECCOMP), "sealed"),
    "prctl(PR_SET_SECCOMP)": (option(PR_SET_SECCOMP), "sealed"),
    "both ways to a filter": ([*call(SECCOMP), *option(PR_SET_SECCOMP)], "sealed; seccomp: seccomp: {}"),
    "capset": (call(126), "SealError: {}" + FORBIDDEN if os.geteuid() == 0 else "sealed"),
    "landlock_create_ruleset": (call(444), "sealed; landlock: landlock_create_ruleset: {}"),
    "landlock_add_rule": (call(445), "sealed; landlock: landlock_add_rule: {}"),
    "landlock_restrict_self": (call(446), "sealed; landlock: landlock_restrict_self: {}"),
}


@functools.cache
def at_home(ask: Callable[[], str]) -> str:
    """What is told when nothing is refused. Compiled code is loaded, for all processes that are forked later."""
    for pair in World(buffers=64).pairs:
        counters(pair)
    return answered([], 0, ask)


def same_but_for(told: str, wanted: str, here: str) -> bool:
    """What is missing on this machine whatever is refused is left out of the comparison."""
    always = set(here.split("; ")[1:])
    return [part for part in told.split("; ") if part not in always] == wanted.split("; ")


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
@pytest.mark.parametrize("name", OF_A_WORKER)
def test_a_call_that_a_worker_is_refused(name: str, error: int) -> None:
    calls, wanted = OF_A_WORKER[name]
    here, told = at_home(seal_a_worker), answered(calls, error, seal_a_worker)
    why = f"{name}: {os.strerror(error)}" if wanted in (NEEDED, REFUSED) else os.strerror(error)
    assert same_but_for(told, wanted.format(why), here), (told, here)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
@pytest.mark.parametrize("name", OF_CONTROL)
def test_a_call_that_control_is_refused(name: str, error: int) -> None:
    calls, wanted = OF_CONTROL[name]
    here, told = at_home(seal_control), answered(calls, error, seal_control)
    why = f"{name}: {os.strerror(error)}" if wanted.startswith("SealError") else os.strerror(error)
    assert same_but_for(told, wanted.format(why), here), (told, here)
