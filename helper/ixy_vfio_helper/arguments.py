"""The command line of `ixy-vfio-helper`. The program that serves reads it, and so does the one that binds."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ixy_vfio_helper import policy
from ixy_vfio_helper.ending import DEBUG
from ixy_vfio_helper.kernel import ROOT

RUN = Path("/run/ixy_vfio")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; `command` is one of serve, bind, unbind, status, recover."""
    parser = argparse.ArgumentParser(prog="ixy-vfio-helper", description="Binds NICs, owns their IOMMU mappings.")
    parser.add_argument("--run", type=Path, default=RUN, help=f"locks and journal (default: {RUN})")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument(DEBUG, action="store_true", help="show where an error that is a bug comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="lease bound devices to the users that the policy names")
    serve.add_argument("--socket", type=Path, help="where to listen (default: helper.sock in the run directory)")
    serve.add_argument("--policy", type=Path, default=policy.PATH, help=f"default: {policy.PATH}")
    serve.add_argument("--way", choices=["auto", "cdev", "group"], default="auto", help="into VFIO (default: auto)")
    for name, text in (("bind", "give a NIC to vfio-pci"), ("unbind", "give a NIC back to the driver that had it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("address", help="like 0000:03:00.0; the domain 0000: may be left out")
        if name == "bind":
            command.add_argument("--down", action="store_true", help="also if its interface is up")
            command.add_argument("--other", action="store_true", help="also a NIC that no driver here knows")
            command.add_argument("--by", default="", help=argparse.SUPPRESS)  # who binds it, for the entry
    commands.add_parser("status", help="show the NICs that can be, or are, bound")
    commands.add_parser("recover", help="put back what an interrupted bind or unbind left behind")
    return parser.parse_args(argv)
