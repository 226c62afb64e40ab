"""A client of QEMU's machine protocol (QMP): one JSON object a line, commands and events on one socket."""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.vm.harness.errors import GuestDied, VmError


class Qmp:
    """A negotiated QMP connection."""

    def __init__(self, path: Path, deadline: float) -> None:
        """Connect to a QMP socket that may not be there yet, by `deadline` (of time.monotonic)."""
        self._socket = connect(path, deadline)
        self._pending = b""
        self._events: list[dict[str, Any]] = []
        self._read(deadline)  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 30.0) -> Any:
        """Run a command; returns its `return` value. Raises VmError with QEMU's reason."""
        return self._ask({"execute": command, "arguments": dict(arguments or {})}, timeout)

    def event(self, name: str, timeout: float, **data: Any) -> dict[str, Any]:
        """Wait for an event with this data; returns it. Others are kept."""
        deadline = time.monotonic() + timeout
        while True:
            for index, event in enumerate(self._events):
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    return self._events.pop(index)
            message = self._read(deadline)
            if "event" in message:
                self._events.append(message)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _ask(self, message: dict[str, Any], timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            reply = self._read(deadline)
            if "event" in reply:
                self._events.append(reply)
            elif "error" in reply:
                raise VmError(f"QEMU refused {message['execute']}: {reply['error']['desc']}")
            else:
                return reply["return"]

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise VmError("QEMU did not answer in time") from None
            except ConnectionError:
                data = b""
            if not data:
                raise GuestDied("QEMU has ended")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def connect(path: Path, deadline: float) -> socket.socket:
    """A connection to a Unix socket that may not be there yet. Raises VmError at `deadline`."""
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise VmError(f"QEMU does not listen on {path}: {error}") from None
            time.sleep(0.02)
