"""`ixy-vfio forward A B`: what port A receives is sent by port B, and the other way round.

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

_PROMISCUOUS = "both ports receive packets to every address (promiscuous): a forwarder is for other hosts' packets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The command keeps of its environment only what is known to be harmless. A kernel's FILE.py is given the "
        "variables that it names itself; $IXY_VFIO_KEEP may list more, for what it imports."
    )
    add = parser.add_argument
    add("a", metavar="A", help="PCI address of a port, like 0000:03:00.0")
    add("b", metavar="B", help="PCI address of the other port")
    add(
        "--kernel",
        metavar="NAME",
        default="none",
        help="none, touch, swap, drop, sample, udp, intact, or FILE.py:FUNCTION (none)",
    )
    add("--one-way", action="store_true", help="from A to B only")
    running.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Forward until Ctrl-C, the end of the duration, or the packet limit."""
    from ixy_vfio.datapath import kernels

    def program(formats: Sequence["Format"], notes: list[str], say: Say) -> "Program":
        kernel = kernels.load(arguments.kernel)
        from ixy_vfio.datapath import compile
        from ixy_vfio.datapath.forwarding import BACK, THERE
        from ixy_vfio.datapath.loop import Formats

        say(f"compiling kernel {kernel.name} into the loop, unless that is in the cache")
        ways = (THERE,) if arguments.one_way else (THERE, BACK)
        return compile.moving(Formats(*formats), kernel, ways, arguments.batch, notes)

    def check() -> None:
        kernel = kernels.load(arguments.kernel)
        from ixy_vfio.datapath import compile

        compile.check(kernel)

    shipped = arguments.kernel in kernels.SHIPPED
    application = Application(
        name="forward",
        doing="forwarding",
        addresses=(arguments.a, arguments.b),
        program=program,
        check=None if shipped else check,
        remarks=(_PROMISCUOUS,),
    )
    return running.run(arguments, application)
