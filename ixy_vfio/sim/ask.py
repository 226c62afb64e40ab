"""The client of the simulator's control socket (the requests stand in control.py)."""

import json
import socket
from pathlib import Path
from typing import Any

from ixy_vfio.core.errors import DeviceError

DEADLINE = 10.0


def ask(path: Path, **request: Any) -> Any:
    """Send one request and return the answer. DeviceError when the simulator says what is wrong with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    if "error" in answer:
        raise DeviceError(f"simulator: {answer['error']}")
    return answer
