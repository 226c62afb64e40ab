"""`ixy-vfio-helper`: leases NICs to users. It runs under `python3 -I -S`, whatever started it.

This program cannot bind. bind, unbind, status and recover are another program (ixy_vfio_setup/commands.py), which takes
its place. `serve` starts that program once, to recover, and waits for its end.
"""

import os
import sys

if not __package__:  # started as a directory, `python3 -I -S .../ixy_vfio_helper`: only this package is added
    sys.path[0:1] = []
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from ixy_vfio_helper import locks, policy, server
from ixy_vfio_helper.arguments import parse
from ixy_vfio_helper.claims import Claims
from ixy_vfio_helper.ending import answered, guarded
from ixy_vfio_helper.kernel import ROOT, KernelBackend
from ixy_vfio_helper.logs import log_shown
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.sandbox import DEVICE, READ, RECORDS, Sandbox, lower

HERE = Path(os.path.abspath(__file__)).parent
BINDER = HERE.parent / "ixy_vfio_setup/commands.py"


def python(program: Path, *words: str) -> list[str]:
    """The command that starts a program of ours: nothing of the environment or of site-packages comes in."""
    return [sys.executable, "-I", "-S", *["-B"] * sys.flags.dont_write_bytecode, str(program), *words]


def _recover(arguments: argparse.Namespace) -> int:
    """Put back what an interrupted bind or unbind left behind, by another process; its exit status.

    The unit of systemd does so before, with more rights. But anybody may start the helper by hand.
    """
    argv = python(BINDER, "--run", str(arguments.run), "--root", str(arguments.root), "recover")
    _, status = os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)
    return os.waitstatus_to_exitcode(status)


def _serve(arguments: argparse.Namespace) -> int:
    log_shown("ixy-vfio-helper[%(process)d]: %(message)s")
    locks.make_directory(arguments.run, 0o755)
    claims = Claims(arguments.run / "leases")
    policy.load(arguments.policy)  # an error is better told now than to the first client
    listener, lock = server.activated(), -1  # no other program inherits it from now on
    if status := _recover(arguments):
        return status  # it has said why
    if listener is None:  # everybody may connect: the policy decides
        listener, lock = server.listen(arguments.socket or arguments.run / "helper.sock", 0o666)
    with contextlib.suppress(OSError):  # each lease says it, too
        lower()
    backend = KernelBackend(arguments.way, arguments.root)
    paths = {arguments.root / "sys": READ, claims.directory: RECORDS}
    paths |= {ROOT / "dev/vfio": DEVICE, ROOT / "dev/iommu": DEVICE, ROOT / "dev/kmsg": READ}
    server.Server(listener, lambda: policy.load(arguments.policy), backend, claims, Sandbox(paths), lock).run()
    return 0


def run(argv: Sequence[str]) -> int:
    """Serve, or become the program that does the other commands.

    Returns the exit status (0 done, 1 failed, 2 wrong use or refused).
    """
    arguments = parse(argv)
    if arguments.command != "serve":
        command = python(BINDER, *argv)
        os.execv(command[0], command)
    return answered("ixy-vfio-helper", lambda: _serve(arguments), Refusal, policy.PolicyError)


def main() -> int:
    """Start again without what the environment or site-packages could bring in, unless that is so already."""
    if not (sys.flags.isolated and sys.flags.no_site):
        command = python(HERE, *sys.argv[1:])
        os.execv(command[0], command)
    os.umask(0o022)
    return guarded("ixy-vfio-helper", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
