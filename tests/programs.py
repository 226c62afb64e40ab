"""Programs for tests: a loop that is given, and all else as a forwarder has it."""

from ixy_vfio.datapath.forwarding import BACK, THERE, program
from ixy_vfio.datapath.program import Loop, Program


def program_of(loop: Loop = lambda _: 0, name: str = "test") -> Program:
    """Between two ports, both ways."""
    return program(loop, (THERE, BACK), 32, name)
