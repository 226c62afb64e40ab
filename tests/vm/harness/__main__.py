"""`scripts/vm`: run a command, a shell or tests in a QEMU guest with a virtual IOMMU."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.vm.harness import Config, Guest, Missing, VmError
from tests.vm.harness.guest import SHARE, Process
from tests.vm.harness.machine import IOMMUS, NICS

EXAMPLES = """examples:
  scripts/vm run --nic igb -- ls /sys/kernel/iommu_groups
  scripts/vm run --ports 2 --cable 0:port:1 -- ip link
  scripts/vm shell --kernel iommufd --nic edu
  scripts/vm pytest --ports 2 --cable 0:port:1 -- tests/attack -q
"""
TIMED_OUT = 124  # as timeout(1) does


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/vm", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("run", "run a command in a guest; its output and exit status become those of scripts/vm"),
        ("shell", "an interactive shell in a guest"),
        ("pytest", "run pytest in a guest, as root or --user"),
    ):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _add_machine(sub)
        sub.add_argument("--user", type=int, metavar="UID", help="run as this user, not as root")
        sub.add_argument("--kernel-log", type=Path, metavar="FILE", help="write the guest's kernel log here at the end")
        sub.add_argument("--results", type=Path, metavar="DIR", help="bring back what is in $RESULTS of the guest")
        sub.add_argument("--verbose", action="store_true", help="say how long the boot took")
        if name != "shell":
            sub.add_argument("--timeout", type=float, default=600.0, help="seconds for the command (default: 600)")
            sub.add_argument("command", nargs="+", metavar="WORD", help="after --")
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    default = Config()
    parser.add_argument(
        "--kernel", default="", help="stock, iommufd or an image (default: $IXY_VFIO_KERNEL, else stock)"
    )
    parser.add_argument("--memory", default=default.memory, help=f"default: {default.memory}")
    parser.add_argument("--smp", type=int, default=default.smp, help=f"processors (default: {default.smp})")
    parser.add_argument("--append", default="", help="more words for the kernel command line")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: kvm where it works")
    parser.add_argument("--iommu", choices=IOMMUS, default=default.iommu, help=f"default: {default.iommu}")
    parser.add_argument("--intremap", choices=("on", "off"), default="on", help="interrupt remapping (default: on)")
    parser.add_argument("--hugepages", type=int, default=0, metavar="N", help="of 2 MiB, in the guest")
    parser.add_argument("--nic", action="append", default=[], choices=sorted(NICS), help="a NIC of QEMU; repeatable")
    parser.add_argument("--wire", action="append", default=[], type=int, metavar="N", help="of each --nic, in order")
    parser.add_argument("--ports", type=int, default=0, metavar="N", help="simulated 82599 ports")
    parser.add_argument("--cable", action="append", default=[], metavar="SPEC", help="as of `ixy-vfio sim`; repeatable")


def _config(arguments: argparse.Namespace) -> Config:
    return Config(
        kernel=arguments.kernel,
        nics=tuple(arguments.nic),
        wires=tuple(arguments.wire),
        ports=arguments.ports,
        cables=tuple(arguments.cable),
        iommu=arguments.iommu,
        intremap=arguments.intremap == "on",
        hugepages=arguments.hugepages,
        memory=arguments.memory,
        smp=arguments.smp,
        append=arguments.append,
        accel=arguments.accel,
    )


def _follow(process: Process, timeout: float) -> int:
    """Copy the command's output to ours while it runs; returns the exit status for our caller."""
    deadline = time.monotonic() + timeout
    with open(process.stdout_path, "rb") as out, open(process.stderr_path, "rb") as err:

        def copy(source: IO[bytes], target: IO[bytes]) -> None:
            shutil.copyfileobj(source, target)
            target.flush()

        while True:
            status = process.poll(0.1)
            copy(out, sys.stdout.buffer)
            copy(err, sys.stderr.buffer)
            if status is not None:
                return status if status >= 0 else 128 - status  # as a shell says it
            if time.monotonic() > deadline:
                process.kill()
                print(f"scripts/vm: not done after {timeout:.0f} s, killed", file=sys.stderr)
                return TIMED_OUT


def _shell(guest: Guest, user: int | None) -> int:
    size = shutil.get_terminal_size()
    print("The guest's root is this machine's, with a throw-away layer to write on. exit ends it.\r")
    script = f'stty sane rows {size.lines} cols {size.columns}; exec "$SHELL" -i'
    environment = {"SHELL": "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh", "RESULTS": f"{SHARE}/results"}
    argv = ["setsid", "--ctty", "--wait", "sh", "-c", script]
    process = guest.start(argv, user=user, cwd=os.getcwd(), env=environment, terminal=True)
    while (status := process.poll(3600.0)) is None:
        pass
    return status


def _act(guest: Guest, arguments: argparse.Namespace) -> int:
    if arguments.action == "shell":
        return _shell(guest, arguments.user)
    command = list(arguments.command)
    if arguments.action == "pytest":
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *command]
    environment = {"RESULTS": f"{SHARE}/results"}
    return _follow(guest.start(command, user=arguments.user, cwd=os.getcwd(), env=environment), arguments.timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the command's status, 2 for wrong use or something missing, 1 when the guest failed."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, frame: sys.exit(128 + got))  # so that the guest is put down on the way out
    begin = time.monotonic()
    try:
        with Guest(_config(arguments), terminal=arguments.action == "shell") as guest:
            if arguments.verbose:
                print(f"Linux {guest.release} after {time.monotonic() - begin:.1f} s ({guest.accel})", file=sys.stderr)
            (guest.share / "results").chmod(0o1777)
            try:
                return _act(guest, arguments)
            finally:
                if arguments.kernel_log:
                    arguments.kernel_log.write_text(guest.kernel_log())
                if arguments.results:
                    shutil.copytree(guest.share / "results", arguments.results, dirs_exist_ok=True)
    except Missing as missing:
        print(f"scripts/vm: {missing}", file=sys.stderr)
        return 2
    except VmError as error:
        print(f"scripts/vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
