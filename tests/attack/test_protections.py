"""Protections of a worker, each looked at by what it keeps away, and where it is off."""

import faulthandler
import os
import signal
from pathlib import Path

from ixy_vfio_locks import calls

from ixy_vfio.datapath.queue import counters
from ixy_vfio.runtime import sandbox, worker
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind
from ixy_vfio.runtime.worker import Idle, Job
from tests.attack import evil_worker
from tests.attack.test_refused_calls import answered
from tests.conftest import wait_until
from tests.model_nic import World
from tests.programs import program_of


def spin(_: object) -> int:
    while True:
        pass


def orphan(pdeathsig: bool) -> int:
    """The process id of a worker that never reads, and whose control is gone."""
    reader, writer = os.pipe()
    control = os.fork()
    if control == 0:
        if not pdeathsig:
            sandbox.seal = lambda *_: sandbox.Seal(["nothing"])
        world = World(buffers=64)
        job = Job(program_of(spin, "idle"), world.pool, tuple(world.pairs), idle=Idle.POLL)
        one = Worker(*worker.start(job))
        one.receive()
        one.send(Kind.GO)
        os.write(writer, str(one.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(control, 0)
    told = int(os.read(reader, 16))  # not to its end: the worker that is not sealed has the other one, too
    os.close(reader)
    os.close(writer)
    return told


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_worker_that_never_reads_does_not_outlive_control() -> None:
    """Without what it asks of the kernel it would: the closed socket tells it nothing."""
    free, sealed = orphan(False), orphan(True)
    try:
        wait_until("the worker's end", lambda: not lives(sealed))
        assert lives(free)
    finally:
        os.kill(free, signal.SIGKILL)


def owner_of_proc(seal: bool) -> str:
    """Whose files in /proc a worker's are: its user's, or root's when it is not dumpable. Never root's own worker."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        calls.prctl(calls.PR_SET_DUMPABLE, 1)  # as a program that a user has started
    if not seal:
        sandbox.seal = lambda *_: sandbox.Seal(["nothing"])
    world = World(buffers=64)
    job = Job(program_of(lambda _: 0, "idle"), world.pool, tuple(world.pairs), idle=Idle.POLL)
    one = Worker(*worker.start(job))
    try:
        one.receive()
        return "root" if Path(f"/proc/{one.pid}/stat").stat().st_uid == 0 else "its user"
    finally:
        one.kill()


def test_no_other_process_of_the_user_may_look_into_a_worker() -> None:
    for pair in World(buffers=64).pairs:
        counters(pair)  # loaded while the cache can be read
    assert answered([], 0, lambda: owner_of_proc(False)) == "its user"
    assert answered([], 0, lambda: owner_of_proc(True)) == "root"


def test_no_page_is_code_that_can_be_written() -> None:
    """There was one before the worker was sealed: the attacker's own, which stands for the compiler's."""
    handled = faulthandler.is_enabled()
    faulthandler.disable()  # its handler makes system calls: that would be what kills
    try:
        assert evil_worker.attack(evil_worker.write_code, sealed=False) == "written"
        assert evil_worker.attack(evil_worker.write_code) == "killed by SIGSEGV"
    finally:
        if handled:
            faulthandler.enable()
