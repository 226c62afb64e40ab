"""`ixy-vfio reflect A`: what port A receives goes back where it came from, with its addresses exchanged.

The device under test of a measurement of latency: the other side sends frames, and times their return. MAC addresses,
IP addresses and the ports of TCP, UDP and SCTP are exchanged. Frames to a group address are dropped, and counted as
refused.

What --json and --json-lines print is told in `apps/running.py`.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ixy_vfio.apps import running
from ixy_vfio.apps.running import Application, Say

if TYPE_CHECKING:
    from ixy_vfio.datapath.format import Format
    from ixy_vfio.datapath.program import Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", help="PCI address of the port, like 0000:03:00.0")
    running.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reflect until Ctrl-C, the end of the duration, or the packet limit."""

    def program(formats: Sequence["Format"], notes: list[str], say: Say) -> "Program":
        from ixy_vfio.datapath import reflect

        say("compiling the loop, unless that is in the cache")
        return reflect.program(formats[0], arguments.batch, notes)

    remark = "the port receives packets to every address (promiscuous), and sends all of them back"
    application = Application("reflect", "reflecting", (arguments.a,), program, remarks=(remark,))
    return running.run(arguments, application)
