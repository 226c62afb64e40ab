"""The machine. Everything that setup changes, it changes by one of these methods; tests stand in for them."""

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_DEADLINE = 120.0  # seconds; unbind alone may wait 30 for its lock, and 15 for a driver and for udev
START_DEADLINE = 30.0  # one that ends sooner is seen at once
END_DEADLINE = 30.0  # a helper ends its leases first


class SetupError(Exception):
    """A step did not work; says why. What was done before it is undone. Exit status 1."""


class System:
    """`root` is / everywhere but in tests, where all files lie under it; `owner` owns what is installed."""

    def __init__(self, root: Path = Path("/"), owner: int = 0) -> None:
        self.root = root
        self.owner = owner

    def at(self, name: str) -> Path:
        """A path of the machine, by its absolute name."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """What stands in a file; None when it is not there."""
        try:
            return self.at(name).read_text()
        except FileNotFoundError:
            return None

    def number(self, name: str) -> int:
        """A file that holds a number; 0 when it is not there."""
        return int(self.text(name) or "0")

    @property
    def boot(self) -> str:
        """Changes with each start of the machine."""
        return (self.text("/proc/sys/kernel/random/boot_id") or "").strip()

    def make_directory(self, name: str) -> None:
        """Make a directory that everybody may read and `owner` may write."""
        path = self.at(name)
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        os.chown(path, self.owner, -1)

    def remove_directory(self, name: str) -> bool:
        """Remove a directory that has nothing but bytecode; returns False when somebody put more into it."""
        path = self.at(name)
        if not path.is_dir():
            return True
        if {entry.name for entry in path.iterdir()} - {"__pycache__"}:
            return False
        shutil.rmtree(path)
        return True

    def write_file(self, name: str, text: str, mode: int) -> None:
        """Write a file so that at any time it is there as before, or complete."""
        path = self.at(name)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
                file.write(text)
                os.fchown(file.fileno(), self.owner, -1)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove_file(self, name: str) -> None:
        """Remove a file, if it is there."""
        self.at(name).unlink(missing_ok=True)

    def remove_tree(self, name: str) -> None:
        """Remove a directory with all that is in it, if it is there."""
        if self.at(name).is_dir():
            shutil.rmtree(self.at(name))

    def unit_active(self, unit: str) -> bool:
        """Whether systemd has it running. To connect to its socket would start the service."""
        try:
            self.run(["systemctl", "is-active", unit])
        except SetupError:
            return False
        return True

    def listener(self, name: str) -> int:
        """The process that listens at a SOCK_SEQPACKET socket; 0 when nobody does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            wait = struct.pack("@ll", 5, 0)  # seconds: anybody can fill the queue of a helper that does not accept
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
            try:
                client.connect(str(self.at(name)))
            except OSError:
                return 0
            pid: int = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            return pid

    def end(self, pid: int) -> None:
        """End a process that is not our child, and wait for it. Raises SetupError."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not select.select([process], [], [], END_DEADLINE)[0]:
                raise SetupError(f"process {pid} does not end within {END_DEADLINE:.0f} s")
        finally:
            os.close(process)

    def set_attribute(self, name: str, text: str) -> None:
        """Write a file of sysfs."""
        self.at(name).write_text(text + "\n")

    def run(self, argv: Sequence[str]) -> str:
        """Run a command to its end; returns what it printed. Raises SetupError with what it complained of."""
        try:
            result = subprocess.run(
                argv, capture_output=True, text=True, timeout=COMMAND_DEADLINE, check=False, stdin=subprocess.DEVNULL,
                cwd="/", env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        except FileNotFoundError:
            raise SetupError(f"{argv[0]}: there is no such command") from None
        except subprocess.TimeoutExpired:
            raise SetupError(f"{' '.join(argv)}: no end within {COMMAND_DEADLINE:.0f} s") from None
        if result.returncode:
            said = (result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}").splitlines()
            raise SetupError(f"{' '.join(argv)}: {said[-1]}")
        return result.stdout

    def start(self, argv: Sequence[str], log: str, ready: str) -> None:
        """Start a command that stays when we end, and wait until it listens at `ready`."""
        with open(os.open(self.at(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644), "wb") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
                env={"PATH": PATH},
            )  # fmt: skip
        deadline = time.monotonic() + START_DEADLINE
        while not self.listener(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                late = process.returncode is None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_DEADLINE)
                why = f"was not ready within {START_DEADLINE:.0f} s" if late else f"status {process.returncode}"
                raise SetupError(f"{' '.join(argv)}: did not start ({why}); see {log}")
            time.sleep(0.05)
        process.returncode = 0  # it is init's from now on
