"""A running guest: one boot serves many commands."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.vm.harness import kernel, machine, qemu
from tests.vm.harness.debian import cache_directory
from tests.vm.harness.errors import GuestDied, Missing, VmError
from tests.vm.harness.kernel import TREE
from tests.vm.harness.machine import Config
from tests.vm.harness.qmp import Qmp, connect
from tests.vm.harness.simulator import Simulator

BOOT_DEADLINE = 300.0  # measured: under 10 s on two idle cores without KVM
COMMAND_DEADLINE = 240.0  # a busy host emulates slowly
SHARE = "/run/vm/share"  # of the guest; `Guest.share` on the host
COMPILED_FOR = {"NUMBA_CPU_NAME": "generic"}  # the same code runs here and in a guest, whose processor is another


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left. A status below 0 is the signal that ended it."""

    stdout: str
    stderr: str
    status: int


class CommandFailed(VmError):
    """A command that was to succeed did not. Carries the result."""

    def __init__(self, argv: Sequence[str], result: Result) -> None:
        """Tell the command, its status and the end of what it said."""
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        super().__init__(f"{' '.join(argv)}: status {result.status}: {said}")
        self.result = result


class Process:
    """A command that runs in the guest."""

    def __init__(self, guest: "Guest", identity: int, argv: Sequence[str], pid: int) -> None:
        """Made by Guest.start."""
        self.argv, self.pid = list(argv), pid
        self.stdout_path, self.stderr_path = (guest.share / f"{identity}.{name}" for name in ("out", "err"))
        self._guest, self._identity = guest, identity

    def poll(self, timeout: float = 0.0) -> int | None:
        """The exit status if it has ended within `timeout` seconds, else None."""
        self._guest.pump(lambda: self._identity in self._guest.statuses, timeout)
        return self._guest.statuses.get(self._identity)

    def output(self) -> Result:
        """What it has written up to now; the status is 0 while it runs."""
        out, err = (path.read_bytes().decode(errors="replace") for path in (self.stdout_path, self.stderr_path))
        return Result(out, err, self._guest.statuses.get(self._identity, 0))

    def wait(self, timeout: float = COMMAND_DEADLINE, check: bool = True) -> Result:
        """Wait for its end; kills it and raises VmError after `timeout` seconds, CommandFailed on a bad status."""
        if self.poll(timeout) is None:
            self.kill()
            said = self.output()
            self.poll(5.0)
            tail = (said.stdout + said.stderr)[-2000:]
            raise VmError(f"{' '.join(self.argv)}: still running after {timeout:.0f} s, killed; it said: {tail}")
        result = self.output()
        if check and result.status != 0:
            raise CommandFailed(self.argv, result)
        return result

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and its process group. Nothing happens if it has ended."""
        self._guest.request(kill=self._identity, signal=int(number))


class Guest:
    """Boots in __init__, ends with `close` or its `with` block; nothing of it outlives this process.

    `qmp` talks to QEMU, `simulator` (or None) has the ports; `share` is a folder both sides see (SHARE there).
    """

    def __init__(self, config: Config, terminal: bool = False) -> None:
        """Boot. Raises Missing (what the machine lacks) and GuestDied."""
        self.config = config
        self.statuses: dict[int, int] = {}
        self.simulator: Simulator | None = None
        self.qmp: Qmp | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pending, self._last = b"", 0
        self._replies: dict[int, dict[str, Any]] = {}
        self.release = self.accel = ""
        self.folder = Path(tempfile.mkdtemp(prefix="ixy-vm-"))
        self.share = self.folder / "share"
        try:
            self._boot(terminal)
        except BaseException:
            self.close()
            raise

    def _boot(self, terminal: bool) -> None:
        for program in ("setpriv", "switch_root"):
            if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
                raise Missing(f"no {program} here: install util-linux")
        found, image = qemu.find(), kernel.find(self.config.kernel)
        auto = self.config.accel == "auto"
        self.accel = qemu.accelerator(found, image.image) if auto else self.config.accel
        self.share.mkdir()
        (self.share / "results").mkdir()
        cache = cache_directory() / "guest"
        cache.mkdir(exist_ok=True)
        cache.chmod(0o1777)
        if image.root:
            extra = ("virtio_iommu",) if self.config.iommu == "virtio" else ()
            (self.folder / "initramfs").write_bytes(kernel.initramfs(image, extra))
        if self.config.ports:
            folder = self.folder / "sim"
            folder.mkdir()
            self.simulator = Simulator(folder, self.config.ports, self.config.cables, self.config.sim_options)
        words = machine.command(
            self.config,
            qemu=found,
            kernel=image,
            accel=self.accel,
            folder=self.folder,
            cache=cache,
            simulator=self.simulator.folder if self.simulator else None,
            terminal=terminal,
        )
        stdin, stdout = (None, None) if terminal else (subprocess.DEVNULL, subprocess.DEVNULL)
        with open(self.folder / "qemu.err", "w") as errors:
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *words], stdin=stdin, stdout=stdout, stderr=errors
            )
        self._connect()

    def _connect(self) -> None:
        deadline = time.monotonic() + BOOT_DEADLINE
        assert self._qemu is not None
        while not (self.folder / "qmp.sock").exists():
            if self._qemu.poll() is not None:
                raise GuestDied(self._obituary("QEMU did not start"))
            if time.monotonic() > deadline:
                raise GuestDied(self._obituary("QEMU does not open its sockets"))
            time.sleep(0.01)
        self._control = connect(self.folder / "control.sock", deadline)
        try:
            self.qmp = Qmp(self.folder / "qmp.sock", deadline)
        except GuestDied as died:
            raise GuestDied(self._obituary(str(died))) from None
        if not self.pump(lambda: bool(self.release), BOOT_DEADLINE):
            raise GuestDied(self._obituary(f"no agent after {BOOT_DEADLINE:.0f} s"))

    def _obituary(self, what: str) -> str:
        texts = []
        for name in ("qemu.err", "console.log", "sim/sim.err"):
            path = self.folder / name
            texts.append(path.read_text(errors="replace").strip()[-1500:] if path.exists() else "")
        return f"{what}: " + "\n".join(text for text in texts if text)

    def pump(self, done: Any, timeout: float) -> bool:
        """Read messages of the agent until `done()`, which is returned, or until `timeout` seconds are over."""
        assert self._control is not None
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            self._control.settimeout(max(0.0005, left))
            try:
                data = self._control.recv(65536)
            except TimeoutError:
                return bool(done())
            except OSError as error:
                raise GuestDied(self._obituary(f"the control channel broke: {error}")) from None
            if not data:
                raise GuestDied(self._obituary("the guest has ended"))
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                self._message(line)
        return True

    def _message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            if self.release:
                raise VmError(f"garbage from the agent: {line[:200]!r}") from None
            return  # firmware, before the agent has the port
        if "ready" in message:
            self.release = message["ready"]
        elif "status" in message:
            self.statuses[message["id"]] = message["status"]
        else:
            self._replies[message["id"]] = message

    def request(self, timeout: float = 30.0, stdin: bytes = b"", **body: Any) -> dict[str, Any]:
        """One request to the agent; returns its reply. Raises VmError with the agent's reason."""
        assert self._control is not None
        self._last += 1
        identity = self._last
        if stdin:
            (self.share / f"{identity}.in").write_bytes(stdin)
        self._control.settimeout(timeout)
        self._control.sendall(json.dumps({"id": identity, **body}).encode() + b"\n")
        if not self.pump(lambda: identity in self._replies, timeout):
            raise GuestDied(self._obituary(f"the agent did not answer in {timeout:.0f} s"))
        reply = self._replies.pop(identity)
        if "error" in reply:
            raise VmError(f"the guest refused {next(iter(body))}: {reply['error']}")
        return reply

    def start(
        self,
        argv: Sequence[str],
        *,
        user: int | None = None,
        cwd: str = str(TREE),
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        terminal: bool = False,
    ) -> Process:
        """Start a command, as root or as `user`, with the project's tree as its folder; returns at once."""
        environment = {**environment_for(user), **(env or {})}
        reply = self.request(stdin=stdin, run=list(argv), user=user, cwd=cwd, env=environment, terminal=terminal)
        if terminal:
            for name in ("out", "err"):
                (self.share / f"{reply['id']}.{name}").touch()
        return Process(self, reply["id"], argv, reply["pid"])

    def run(
        self, argv: Sequence[str], *, timeout: float = COMMAND_DEADLINE, check: bool = True, **options: Any
    ) -> Result:
        """Run a command to its end; options as for `start`. Raises CommandFailed if `check`, VmError on timeout."""
        return self.start(argv, **options).wait(timeout, check)

    def python(self, script: str, *arguments: str, **options: Any) -> Result:
        """Run a Python program, given as text, with the project's own interpreter."""
        return self.run([sys.executable, "-", *arguments], stdin=script.encode(), **options)

    def put(self, data: bytes, path: str) -> None:
        """Write a file of the guest."""
        (self.share / "put").write_bytes(data)
        self.run(["cp", f"{SHARE}/put", path])

    def get(self, path: str) -> bytes:
        """Read a file of the guest; also one of sysfs or procfs."""
        process = self.start(["cat", path])
        process.wait()
        return process.stdout_path.read_bytes()

    def kernel_log(self) -> str:
        """The kernel log since boot, lines of `[seconds] text`, complete up to now."""
        self.request(log=True)
        return (self.share / "kmsg.log").read_text(errors="replace")

    def address(self, device: str) -> str:
        """The PCI address of a device by its name in the configuration (`nic0`, `port1`)."""
        root = self.config.root_port(device)
        names = self.run(["ls", f"/sys/bus/pci/devices/{root}"]).stdout.split()
        found = [name for name in names if name.count(":") == 2 and name.endswith(".0")]
        if len(found) != 1:
            raise VmError(f"the guest sees no device behind {root} ({device})")
        return found[0]

    def unplug(self, device: str, timeout: float = 60.0) -> None:
        """Ask the guest to let a NIC of QEMU go, as with the button beside the slot, and wait until it has.

        Not for simulated ports: QEMU 11.1 fails an assertion when a vfio-user-pci device is unplugged.
        """
        if device.startswith("port"):
            raise VmError(f"{device}: a simulated port cannot be unplugged; let it vanish (simulator.ask) instead")
        assert self.qmp is not None
        try:
            self.qmp.execute("device_del", {"id": device})
            self.qmp.event("DEVICE_DELETED", timeout, device=device)
        except GuestDied as died:
            raise GuestDied(self._obituary(str(died))) from None

    def plug(self, device: str) -> None:
        """Plug a device in again; the guest sees it some seconds later."""
        assert self.qmp is not None
        folder = self.simulator.folder if self.simulator else None
        self.qmp.execute("device_add", machine.device(self.config, device, folder))

    def close(self) -> None:
        """End it all: there is nothing in a guest to save. Idempotent."""
        if self.qmp is not None:
            self.qmp.close()
        if self._control is not None:
            self._control.close()
        if self._qemu is not None:
            self._qemu.kill()  # its exit status says nothing: QEMU aborts when a simulated port went before it
            self._qemu.wait()
        if self.simulator is not None:
            self.simulator.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def compile_for(user: int, module: str = "tests.vm.inside.warm") -> None:
    """Run a module on the host that compiles what processes of `user` load in guests: there it would take minutes."""
    kept, cache = cache_directory() / "for-guests", cache_directory() / "guest"
    kept.mkdir(exist_ok=True)
    environment = {**os.environ, **COMPILED_FOR, "XDG_CACHE_HOME": os.fspath(kept)}
    subprocess.run([sys.executable, "-m", module], cwd=TREE, env=environment, check=True, timeout=600)
    target = cache / str(user) / "ixy_vfio"
    shutil.copytree(kept / "ixy_vfio", target, dirs_exist_ok=True)
    if os.geteuid() == 0:  # code of another user is not loaded
        for path in [target.parent, target, *target.rglob("*")]:
            os.chown(path, user, user)


def environment_for(user: int | None) -> dict[str, str]:
    """What commands in the guest have as environment, before the caller's own."""
    folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    return {
        "PATH": ":".join(dict.fromkeys(folder for folder in folders if folder)),
        "HOME": "/root" if user in (None, 0) else "/",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Survives the guest, so that code is compiled once; a folder a user, for nobody trusts another's.
        "XDG_CACHE_HOME": f"/run/vm/cache/{user or 0}",
        **COMPILED_FOR,
    }
