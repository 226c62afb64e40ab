"""The control socket: one JSON object a line in, one a line out.

    {"cmd": "violations"}                          -> {"count": 2, "violations": ["port 0: ...", ...]}
    {"cmd": "violations", "clear": true}           the same, and forgets them
    {"cmd": "trace", "port": 0, "on": true}        -> {}; starts (or with false, stops) recording, from empty
    {"cmd": "trace", "port": 0}                    -> {"trace": [["read", 8, 524288], ...]}
    {"cmd": "history", "port": 0}                  -> {"history": [["map", 12], ["bus master on", 1], ["reset", 1]]};
                                                   what the device could reach, in order, and forgets it ("unmap", too)
    {"cmd": "counters", "port": 0}                 -> {"counters": {"GPRC": 12, ...}, "misses": 0, "link": true, ...}
    {"cmd": "link", "port": 0, "up": false}        -> {}; cuts the fibre of the port, or splices it
    {"cmd": "vanish", "port": 0}                   -> {}; surprise removal: all ones from now on
    {"cmd": "hostile", "port": 0, "spec": "7,torn"} -> {}; the port is hostile (see hostile.py); "": no longer
    {"cmd": "hostile", "port": 0}                  -> {"descriptors": ..., "moves": {...}, "lies": {...}}
    {"cmd": "cable", "spec": "0:port:1"}           -> {}
    {"cmd": "cables"}                              -> {"cables": [{"spec": "0:port:1", "ports": [0, 1], ...}]}
    {"cmd": "notes"}                               -> {"notes": ["cable ...", ...]}; what was told on standard error
    {"cmd": "stop"}                                -> {}; ends the simulator

What is wrong with a request is said in {"error": "..."}.
"""

import json
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ixy_vfio.core.errors import IxyError, UsageError
from ixy_vfio.sim.dataplane import DataPlane, Port
from ixy_vfio.sim.hostile import Hostile
from ixy_vfio.sim.nic import Nic

MAX_LINE = 65536


class Simulator(Protocol):
    """The part of `server.Server` that is spoken to by this socket."""

    nics: list[Nic]
    ports: list[Port]
    plane: DataPlane
    hostile: dict[int, Hostile]
    notes: deque[str]
    stopping: bool

    def watch(self, fd: int, handler: Callable[[], int]) -> None:
        """Call `handler` when `fd` turns readable."""

    def forget(self, fd: int) -> None:
        """Watch it no longer."""

    def connect(self, spec: str) -> None:
        """Put a cable in. Raises UsageError."""

    def make_hostile(self, number: int, spec: str) -> None:
        """Let a port do what `spec` says; an empty one makes it honest again. Raises UsageError."""


class Control:
    """Serves the control socket of one simulator."""

    def __init__(self, server: Simulator) -> None:
        self._server = server
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}

    def accept(self, connection: socket.socket) -> None:
        """A new client."""
        connection.setblocking(True)  # replies; requests are read when they are there
        connection.settimeout(1.0)
        fd = connection.fileno()
        self._clients[fd] = (connection, bytearray())
        self._server.watch(fd, partial(self._serve, fd))

    def _serve(self, fd: int) -> int:
        connection, pending = self._clients[fd]
        try:
            data = connection.recv(MAX_LINE, socket.MSG_DONTWAIT)
            pending += data
            while b"\n" in pending:
                line, _, rest = bytes(pending).partition(b"\n")
                pending[:] = rest
                connection.sendall(json.dumps(self.answer(line)).encode() + b"\n")
            if data and len(pending) <= MAX_LINE:
                return 1
        except BlockingIOError:
            return 0
        except OSError:
            pass
        self._server.forget(fd)
        del self._clients[fd]
        connection.close()
        return 1

    def close(self) -> None:
        """Close all clients."""
        for fd, (connection, _) in list(self._clients.items()):
            self._server.forget(fd)
            connection.close()
        self._clients.clear()

    def answer(self, line: bytes) -> dict[str, Any]:
        """The reply to one request."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise UsageError("a request is a JSON object")
            command = getattr(self, f"_do_{request.get('cmd')}", None)
            if command is None:
                raise UsageError(f"unknown command {request.get('cmd')!r}")
            answer: dict[str, Any] = command(request)
            return answer
        except IxyError as error:
            return {"error": str(error)}
        except (ValueError, RecursionError):
            return {"error": "not a JSON object"}

    def _nic(self, request: dict[str, Any]) -> Nic:
        number = request.get("port")
        if type(number) is not int or not 0 <= number < len(self._server.nics):
            raise UsageError(f"there is no port {number!r}")
        return self._server.nics[number]

    def _do_violations(self, request: dict[str, Any]) -> dict[str, Any]:
        nics = self._server.nics
        for nic in nics:
            nic.drain()
        answer = {
            "count": sum(nic.violation_count for nic in nics),
            "violations": [text for nic in nics for text in nic.violations],
        }
        if request.get("clear") is True:
            for nic in nics:
                nic.violation_count = 0
                nic.violations.clear()
        return answer

    def _do_trace(self, request: dict[str, Any]) -> dict[str, Any]:
        bar = self._nic(request).bar
        if "on" in request:
            bar.trace = [] if request["on"] else None
            return {}
        return {"trace": bar.trace or []}

    def _do_history(self, request: dict[str, Any]) -> dict[str, Any]:
        nic = self._nic(request)
        history = list(nic.history)
        nic.history.clear()
        return {"history": history}

    def _do_counters(self, request: dict[str, Any]) -> dict[str, Any]:
        nic = self._nic(request)
        port = self._server.ports[nic.number]
        misses = [[miss.iova, miss.length, miss.write] for miss in port.dma.last_misses]
        return {
            "counters": port.statistics.nonzero(),
            "misses": port.dma.misses,
            "last_misses": misses,
            "link": nic.link.up,
            "interrupts": nic.msix.sent,
            "msi": nic.signals.msi.sent,
            "intx": nic.signals.intx.sent,
            "windows": len(port.dma),
            "bus_master": port.bus_master,
        }

    def _do_link(self, request: dict[str, Any]) -> dict[str, Any]:
        nic = self._nic(request)
        if not isinstance(request.get("up"), bool):
            raise UsageError('link: give "up": true or false')
        nic.link.allowed = request["up"]
        return {}

    def _do_vanish(self, request: dict[str, Any]) -> dict[str, Any]:
        self._nic(request).vanish()
        return {}

    def _do_hostile(self, request: dict[str, Any]) -> dict[str, Any]:
        number = self._nic(request).number
        if "spec" in request:
            self._server.make_hostile(number, str(request["spec"]))
            return {}
        hostile = self._server.hostile.get(number)
        return {} if hostile is None else hostile.status()

    def _do_cable(self, request: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(request.get("spec"), str):
            raise UsageError('cable: give "spec"')
        self._server.connect(request["spec"])
        return {}

    def _do_cables(self, _: dict[str, Any]) -> dict[str, Any]:
        cables = self._server.plane.cables
        return {
            "cables": [
                {"spec": cable.spec, "ports": list(cable.ports), "alive": cable.alive} | cable.status()
                for cable in cables
            ]
        }

    def _do_notes(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"notes": list(self._server.notes)}

    def _do_stop(self, _: dict[str, Any]) -> dict[str, Any]:
        self._server.stopping = True
        return {}
