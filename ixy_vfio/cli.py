"""`ixy-vfio`: the command line. Each command is a module with `add_arguments(parser)` and `run(arguments)`."""

from ixy_vfio.core import signals

if __name__ == "__main__":
    signals.leave()  # before the other imports, which take their time

import argparse
import importlib
import sys
from collections.abc import Sequence

from ixy_vfio.core import environment, streams
from ixy_vfio.core.guard import DEBUG, end, guarded
from ixy_vfio.core.options import Parser
from ixy_vfio.core.owner import refuse_a_users_packages

# command -> (module, one line of help). A module is imported only when its command is used.
COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("ixy_vfio.apps.inventory", "list the devices that the helper offers to you"),
    "info": ("ixy_vfio.apps.info", "show link, MAC address, counters and decoded registers of a device"),
    "forward": ("ixy_vfio.apps.forward", "forward packets between two ports"),
    "reflect": ("ixy_vfio.apps.reflect", "send packets back where they came from, with addresses exchanged"),
    "demo": ("ixy_vfio.apps.demo", "forward real traffic between two simulated ports, as this user, and show it"),
    "bench": ("ixy_vfio.apps.bench", "measure the data path against the same work in C, and draw it"),
    "audit": ("ixy_vfio.apps.audit", "look whether the IOMMU isolation of this machine, a device or a session holds"),
    "in-use": ("ixy_vfio.apps.inuse", "tell who uses the network interface of a NIC, before it is taken away"),
    "sim": ("ixy_vfio.sim.command", "run simulated 82599 ports, and a helper that leases them"),
}
_STATUS = "Exit status: 0 done, 1 failed, 2 wrong use or refused; 128 and its number when a signal ended it early."


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="ixy-vfio", description="A user-space driver for Intel ixgbe and igb NICs.", epilog=_STATUS
    )
    _add_debug(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == command:
            _add_debug(sub)
            importlib.import_module(module).add_arguments(sub)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        DEBUG, action="store_true", default=argparse.SUPPRESS, help="show where an error comes from (a traceback)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 1 failed, 2 wrong use or refused; by a signal, see `signals`).

    Without `argv` this is the process's own command line, and its signals and standard streams are set up, too.
    """
    if argv is None:
        signals.leave()
        streams.prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)

    def run() -> int:
        if argv is None:
            environment.start_clean()
        parsed = _parser(command).parse_args(arguments)
        refuse_a_users_packages()
        status: int = importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
        return status

    return guarded(f"ixy-vfio {command}" if command in COMMANDS else "ixy-vfio", ["ixy-vfio", *arguments], run)


if __name__ == "__main__":
    end(main())
