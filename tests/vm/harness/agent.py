"""Process 1 of the guest: runs commands for the host. Standard library only; never imported by the harness.

The channel is the second serial port: one JSON object a line each way. Bulk goes through files of a shared folder.

    {"id": 1, "run": [argv], "env": {}, "cwd": "/", "user": 1000, "terminal": false}
        -> {"id": 1, "pid": 77}, and at its end {"id": 1, "status": 0}; or {"id": 1, "error": "..."}
       (stdout, stderr, stdin are the files 1.out, 1.err, 1.in of the share; a status below 0 is a signal)
    {"id": 2, "kill": 1, "signal": 9}   -> {"id": 2}    (the command's whole session)
    {"id": 3, "log": true}              -> {"id": 3}    (kmsg.log of the share is complete up to now)
"""

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import tty
from typing import Any

SHARE = "/run/vm/share"
CONTROL = "/dev/ttyS1"
TERMINAL = "/dev/ttyS0"


class Agent:
    """The select loop over the control port, the kernel log and the ends of children."""

    def __init__(self) -> None:
        self.control = os.open(CONTROL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self.control)
        self.kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.log = os.open(f"{SHARE}/kmsg.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.children: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}  # pid -> id of the request, process
        self.wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def send(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.control, data) :]

    def serve(self) -> None:
        self.send(ready=os.uname().release)
        pending = b""
        while True:
            ready, _, _ = select.select([self.control, self.kmsg, self.wake], [], [])
            if self.kmsg in ready:
                self.drain_log()
            if self.wake in ready:
                os.read(self.wake, 4096)
                self.reap()
            if self.control in ready:
                *lines, pending = (pending + os.read(self.control, 65536)).split(b"\n")
                for line in lines:
                    self.handle(json.loads(line))

    def handle(self, request: dict[str, Any]) -> None:
        identity = request["id"]
        try:
            if "run" in request:
                self.start(identity, request)
                return
            if "kill" in request:
                for pid, (owner, _) in self.children.items():
                    if owner == request["kill"]:
                        os.killpg(pid, request["signal"])
            elif "log" in request:
                self.drain_log()
            self.send(id=identity)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.send(id=identity, error=f"{type(error).__name__}: {error}")

    def start(self, identity: int, request: dict[str, Any]) -> None:
        identifiers: dict[str, Any] = {}
        environment = dict(request["env"])
        if request["user"] is not None:
            user = int(request["user"])
            with contextlib.suppress(KeyError):
                environment["HOME"] = pwd.getpwuid(user).pw_dir
            identifiers = {"user": user, "group": user, "extra_groups": []}
        if request["terminal"]:
            terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            streams = [terminal, os.dup(terminal), os.dup(terminal)]
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            source = f"{SHARE}/{identity}.in"
            streams = [os.open(source if os.path.exists(source) else os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
            streams += [os.open(f"{SHARE}/{identity}.{name}", flags, 0o644) for name in ("out", "err")]
        try:
            process = subprocess.Popen(
                request["run"],
                env=environment,
                cwd=request["cwd"],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                start_new_session=True,
                **identifiers,
            )
        finally:
            for fd in streams:
                os.close(fd)
        self.children[process.pid] = (identity, process)
        self.send(id=identity, pid=process.pid)

    def reap(self) -> None:
        """Wait for every child that has ended, orphans too: process 1 inherits them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.children:
                identity, process = self.children.pop(pid)
                process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it
                self.send(id=identity, status=process.returncode)

    def drain_log(self) -> None:
        """Append what is new in the kernel log to the file, as `[seconds] text` lines."""
        while True:
            try:
                record = os.read(self.kmsg, 8192).decode(errors="replace")
            except BlockingIOError:
                return
            except BrokenPipeError:  # the kernel has overwritten records before we read them
                os.write(self.log, b"[lost records]\n")
                continue
            head, _, text = record.partition(";")
            line, seconds = text.partition("\n")[0], int(head.split(",")[2]) / 1e6
            os.write(self.log, f"[{seconds:12.6f}] {line}\n".encode())


def loopback_up() -> None:
    """Set lo up (SIOCSIFFLAGS, linux/sockios.h)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))  # IFF_UP


def main() -> None:
    os.dup2(1, 2)  # init threw switch_root's complaint away
    os.umask(0o022)
    loopback_up()
    Agent().serve()


if __name__ == "__main__":
    if os.getpid() != 1:
        sys.exit("agent.py is process 1 of a test guest")
    main()
