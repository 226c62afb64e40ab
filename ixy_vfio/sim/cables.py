"""Cables: what a simulated port is plugged into, and the specifications that name them."""

from ixy_vfio.sim.dataplane import Cable


def parse_cable(spec: str) -> Cable:
    """The cable that `spec` describes. Raises UsageError, saying what is wrong with it."""
    raise NotImplementedError
