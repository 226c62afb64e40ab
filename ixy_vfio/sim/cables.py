"""Makes cables from their specifications, which stand in specs.py."""

from collections.abc import Callable

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.generator_cable import GeneratorCable
from ixy_vfio.wires.cable import Cable
from ixy_vfio.wires.capture_cable import CaptureCable
from ixy_vfio.wires.packet_socket import open_fd, open_packet
from ixy_vfio.wires.tap import open_tap


def _port_number(spec: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"cable {spec}: {text!r} is no port number")
    return int(text)


def _port(spec: str, port: int, rest: str) -> Cable:
    """Two ports back to back: frames go straight from the one into the packet buffer of the other."""
    other = _port_number(spec, rest)
    if other == port:
        raise UsageError(f"cable {spec}: a port cannot be its own far end")
    return Cable(spec, port, other)


KINDS: dict[str, Callable[[str, int, str], Cable]] = {
    "port": _port,
    "tap": open_tap,
    "packet": open_packet,
    "fd": open_fd,
    "pcapng": CaptureCable,
    "gen": GeneratorCable,
}


def parse_cable(spec: str) -> Cable:
    """The cable that `spec` describes. Raises UsageError, saying what is wrong with it."""
    number, _, more = spec.partition(":")
    kind, colon, rest = more.partition(":")
    if kind not in KINDS or not colon:
        raise UsageError(f"cable {spec}: write PORT:KIND:DETAILS, KIND one of {', '.join(KINDS)}")
    return KINDS[kind](spec, _port_number(spec, number), rest)
