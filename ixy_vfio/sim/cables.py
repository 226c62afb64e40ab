"""Cables: what a simulated port is plugged into, and the specifications that name them.

0:port:1              back to back
0:tap:NAME            a TAP interface
0:packet:IFNAME       a packet socket on an interface (a veth end, say)
0:fd:N                an inherited packet socket or TAP file descriptor
0:pcapng:IN,OUT       frames from a capture, and into one; either may be left out
0:gen:KEY=VALUE,...   a generator and a sink; see generator.py
"""

from collections.abc import Callable

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.dataplane import Cable, DataPlane


class PortCable:
    """Two ports back to back. Frames go straight from the one into the packet buffer of the other."""

    outside = False

    def __init__(self, spec: str, one: int, other: int) -> None:
        if one == other:
            raise UsageError(f"cable {spec}: a port cannot be its own far end")
        self.spec = spec
        self.ports: tuple[int, ...] = (one, other)
        self.alive = True

    def attach(self, plane: DataPlane) -> None:
        """Nothing to take hold of."""

    def bring(self, plane: DataPlane, budget: int) -> int:
        """Nothing comes from outside."""
        return 0

    def take(self, plane: DataPlane, budget: int) -> int:
        """Nothing goes outside."""
        return 0

    def filenos(self) -> list[int]:
        """No file descriptors."""
        return []

    def status(self) -> dict[str, object]:
        """Only what it is."""
        return {"spec": self.spec, "alive": self.alive}

    def close(self) -> None:
        """Nothing to give up."""


def _port_number(spec: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"cable {spec}: {text!r} is no port number")
    return int(text)


def _port(spec: str, port: int, rest: str) -> Cable:
    return PortCable(spec, port, _port_number(spec, rest))


KINDS: dict[str, Callable[[str, int, str], Cable]] = {"port": _port}


def parse_cable(spec: str) -> Cable:
    """The cable that `spec` describes. Raises UsageError, saying what is wrong with it."""
    number, _, more = spec.partition(":")
    kind, colon, rest = more.partition(":")
    if kind not in KINDS or not colon:
        raise UsageError(f"cable {spec}: write PORT:KIND:DETAILS, KIND one of {', '.join(KINDS)}")
    return KINDS[kind](spec, _port_number(spec, number), rest)
