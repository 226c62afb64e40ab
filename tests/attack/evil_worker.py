"""Attack code in the place of the application, inside a real worker: it runs after the worker was sealed.

`attack(function)` starts a worker whose compiled loop is replaced by `function`, which is as free as code that has
taken the worker over can be: it is Python with ctypes. What it managed to do it tells by an error message, the one
thing a worker can say; or it is killed. `sealed=False` is the positive control: the same code, with nothing sealed.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit

from ixy_vfio.runtime import messages, sandbox, worker
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind
from ixy_vfio.runtime.sandbox import Seal
from ixy_vfio.runtime.worker import Idle, Job
from tests.attack.evil_calls import CONTROL, call, libc, map_private
from tests.model_nic import World
from tests.programs import program_of

X32 = 0x4000_0000

SECRET = ctypes.create_string_buffer(b"before", 8)  # control changes it after the fork


class Told(Exception):
    """What the attack has to say."""


def attack(function: Callable[[Job], str], *, sealed: bool = True) -> str:
    """What came of it: what the attack told, `killed by SIGxxx`, or `exit N`."""
    return attacks([function], sealed=sealed)[0]


def attacks(functions: Sequence[Callable[[Job], str]], *, sealed: bool = True, world: World | None = None) -> list[str]:
    """The same for several at a time, each in a worker of its own."""
    world = world or World(buffers=64)
    processes = [start(evil_job(function, world), sealed) for function in functions]
    SECRET.value = b"after"
    try:
        return [outcome(process) for process in processes]
    finally:
        SECRET.value = b"before"
        for process in processes:
            process.kill()


def evil_job(function: Callable[[Job], str], world: World) -> Job:
    """A job whose loop is the attack."""

    def loop(_: Any) -> int:
        try:
            raise Told(function(job))
        except OSError as error:
            raise Told(errno.errorcode.get(error.errno or 0, "?")) from None

    job = Job(program_of(loop, "evil"), world.pool, tuple(world.pairs), idle=Idle.SLEEP)
    return job


def start(job: Job, sealed: bool = True) -> Worker:
    """A worker for `job`."""
    real = sandbox.seal
    if not sealed:
        sandbox.seal = lambda *_: Seal()
    try:
        process = Worker(*worker.start(job))
    finally:
        sandbox.seal = real
    process.connection.settimeout(30)
    return process


def outcome(process: Worker) -> str:
    """Let it go, and wait for what it tells or how it ends."""
    assert messages.receive(process.connection) is not None  # READY
    messages.send(process.connection, Kind.GO)
    try:
        message = messages.receive(process.connection)
    except ConnectionResetError:
        message = None
    if message is not None:
        assert message[0] is Kind.ERROR, message
        return message[1].decode().removeprefix("kernel evil: ").removeprefix("Told: ")
    status = process.wait(10)
    assert status is not None
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def sweep(number: int, argument: int) -> Callable[[Job], str]:
    """One system call, all of its arguments the same."""

    def one(_: Job) -> str:
        return f"returned {'0' if call(number, *[argument] * 6) == 0 else 'a value'}"

    return one


def _variable(name: str) -> Any:
    """Of a function further up: so the worker's socket is found without a system call."""
    frame: Any = sys._getframe()
    while name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals[name]


def own_connection() -> socket.socket:
    """The worker's socket."""
    connection: socket.socket = _variable("connection")
    return connection


def own_waker() -> int:
    """The descriptor that the worker sleeps on."""
    return int(_variable("waker").fileno())


# What each attack tells when nothing stops it stands in test_evil_worker.py.


def open_file(_: Job) -> str:
    os.close(os.open("/etc/passwd", os.O_RDONLY))
    return "opened"


def open_device(_: Job) -> str:
    os.close(os.open("/dev/null", os.O_RDWR))
    return "opened"


def open_vfio(_: Job) -> str:
    os.close(os.open("/dev/vfio/vfio", os.O_RDWR))
    return "opened"


def open_map_files(_: Job) -> str:
    return f"{len(os.listdir('/proc/self/map_files')) > 10}"


def change_directory(_: Job) -> str:
    os.chdir("/")
    return "changed"


def read_control(_: Job) -> str:
    """process_vm_readv of what control has changed since the fork."""
    found = ctypes.create_string_buffer(8)
    local = (ctypes.c_ulong * 2)(ctypes.addressof(found), 5)
    remote = (ctypes.c_ulong * 2)(ctypes.addressof(SECRET), 5)
    while found.value != b"after":
        call(310, CONTROL, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    return "read"


def device_control(_: Job) -> str:
    """Any ioctl, to the one descriptor that there is."""
    fcntl.ioctl(own_connection().fileno(), 0x541B, bytearray(4))  # FIONREAD
    return "answered"


def duplicate(_: Job) -> str:
    """A second descriptor of the socket."""
    os.close(os.dup(own_connection().fileno()))
    return "made"


def pass_descriptor(_: Job) -> str:
    """The same by sending it along with a message that control takes for a good one."""
    connection, text = own_connection(), b"Told: passed"
    message = (struct.pack("<II", Kind.ERROR, len(text)) + text).ljust(messages.SIZE, b"\0")
    socket.send_fds(connection, [message], [connection.fileno()])
    return "nothing more"


def map_shared(_: Job) -> str:
    mmap.mmap(-1, 4096).close()
    return "mapped"


def map_over(job: Job) -> str:
    """A page of the doorbells, replaced by one of its own."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    page = ctypes.c_void_p(_doorbells(job))
    libc.mmap(page, ctypes.c_size_t(4096), mmap.PROT_READ, flags, -1, ctypes.c_long(0))
    return "mapped"


def make_packets_executable(job: Job) -> str:
    call(10, job.pool.memory.address, 4096, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return "executable"


def _doorbells(job: Job) -> int:
    return job.pairs[0].queue.rx_page.address // 4096 * 4096


def grow_doorbells(job: Job) -> str:
    may_move = 1
    call(25, _doorbells(job), 4096, 65536, may_move)
    return "grown"


def move_doorbells(job: Job) -> str:
    may_move, fixed = 1, 2
    target = map_private(4096)
    return "moved" if call(25, _doorbells(job), 4096, 4096, may_move | fixed, target) == target else "odd"


def unmap_doorbells(job: Job) -> str:
    """Another thing could be put in its place, where the driver's code still writes."""
    call(11, _doorbells(job), 4096)
    return "unmapped"


def much_memory(_: Job) -> str:
    map_private(256 << 20)
    return "mapped"


def x32_call(_: Job) -> str:
    """getpid by the table of another ABI, whose numbers the filter must not mistake."""
    return "answered" if call(X32 | 39) == os.getpid() else "odd"


# mov eax, 20 (getpid of i386); int 0x80; ret
_GATE = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
_GATE.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
_gate = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(_GATE)))


def i386_call(_: Job) -> str:
    """The same by the gate of 32-bit programs; its code lay there before."""
    return "answered" if _gate() > 0 else "odd"


def write_code(_: Job) -> str:
    """Change code that lay there before, by the address that it has."""
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(_GATE)), 0xC3, 1)
    return "written"


def raise_limits(_: Job) -> str:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return "set"


@njit
def _never_called(a: Any) -> Any:
    return a + 1


def compile_cold(_: Job) -> str:
    return f"compiled {_never_called(np.int16(41))}"
