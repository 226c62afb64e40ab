"""`ixy-vfio demo`: the main job in one go, without hardware and without root.

    host 0 (Linux) = veth = port 0 [simulated 82599] <-> ixy-vfio forward <-> port 1 [simulated 82599] = veth = host 1

Starts the simulator and its helper, runs the forwarder as the user who called it, lets two hosts of the real
network stack ping each other and send data through it, looks at the worker's rights, and ends everything.
Where the kernel does not allow user namespaces, the simulator's own generator takes the hosts' place.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ixy_vfio.apps import report
from ixy_vfio.core import signals
from ixy_vfio.core.errors import IxyError
from ixy_vfio.core.options import number
from ixy_vfio.core.temporary import workplace
from ixy_vfio.sim.ask import ask
from ixy_vfio.sim.command import die_with
from ixy_vfio.sim.lab import ADDRESSES, Lab, LabError

PORTS = ("8259:00:00.0", "8259:00:01.0")
START_DEADLINE = 60.0  # a cold compilation of simulator and driver is part of it
END_DEADLINE = 60.0  # on a busy machine; unloading the compiler alone can take a second of processor time
GENERATED = 1_000_000


class DemoError(IxyError):
    """Something in the demonstration did not work as it should; the message says what."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ixy-vfio demo`."""
    parser.add_argument(
        "--megabytes",
        type=number(1, 1_000_000),
        default=100,
        help="size of each TCP transfer in MiB (default %(default)s)",
    )
    parser.add_argument("--generator", action="store_true", help="use the built-in generator, not the network stack")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; 0 when everything was as it should be."""
    with signals.unwinding(), contextlib.ExitStack() as stack:
        directory = stack.enter_context(workplace("ixy_vfio-demo-"))
        lab = None
        if not arguments.generator:
            try:
                lab = stack.enter_context(Lab())
                _say("two hosts of the real network stack, each in a network namespace of its own")
            except LabError as error:
                _say(f"{error}; using the built-in generator instead")
        cables = (
            [f"{port}:fd:{fd}" for port, fd in enumerate(lab.wires)]
            if lab
            else [f"{port}:gen:count={GENERATED},sizes=60-1514,pace=fit,expect={1 - port}" for port in range(2)]
        )
        simulator = stack.enter_context(_simulator(directory, cables, lab.wires if lab else []))
        forwarder = stack.enter_context(_forwarder(directory))
        if lab:
            _ping_and_transfer(lab, arguments.megabytes << 20)
        else:
            _wait_for_generators(directory)
        _show_worker(forwarder)
        _end_forwarder(forwarder)
        _check_simulator(directory)
        simulator.send_signal(signal.SIGTERM)
        simulator.wait(END_DEADLINE)
    _say("done: nothing of it is left running")
    return 0


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)


@contextlib.contextmanager
def _child(argv: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A child process of this command; ended by SIGTERM, then SIGKILL, when the block is left.

    In a session of its own: Ctrl-C ends this command, which ends its children in their order.
    """
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(die_with, os.getpid()),
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ixy_vfio(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "ixy_vfio.cli", *words]


@contextlib.contextmanager
def _simulator(directory: Path, cables: list[str], fds: list[int]) -> Iterator["subprocess.Popen[str]"]:
    words = [word for cable in cables for word in ("--cable", cable)]
    argv = _ixy_vfio("sim", "--dir", str(directory), "--ports", "2", "--die-with-parent", *words)
    _say("starting two simulated 82599 ports (the first time, their model is compiled: about half a minute)")
    with _child(argv, pass_fds=fds) as process:
        if process.stdout is None or not process.stdout.readline().startswith("ready"):
            raise DemoError("the simulator did not start")
        yield process


@contextlib.contextmanager
def _forwarder(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    argv = _ixy_vfio("forward", *PORTS, "--helper", str(directory / "helper.sock"), "--json", "--announce")
    _say(f"starting the forwarder as uid {os.getuid()}")
    begin = time.monotonic()
    with _child(argv) as process:
        if process.stdout is None or not process.stdout.readline().startswith("forwarding"):
            raise DemoError("the forwarder did not start")
        _say(f"the forwarder is ready after {time.monotonic() - begin:.1f} s")
        yield process


def _traffic(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "ixy_vfio.sim.traffic", *words]


def _ping_and_transfer(lab: Lab, size: int) -> None:
    for here, there in ((0, 1), (1, 0)):
        result = json.loads(lab.run(here, _traffic("ping", ADDRESSES[there], "20")).stdout)
        if result["received"] != result["sent"]:
            raise DemoError(f"host {here} pings host {there}: {result['received']} of {result['sent']} answered")
        _say(
            "host {} pings host {}: {sent} of {sent} answered, median {median_ms:.2f} ms".format(here, there, **result)
        )
        receiver = lab.start(there, _traffic("receive", ADDRESSES[there]))
        assert receiver.stdout is not None
        receiver.stdout.readline()
        sender = lab.run(here, _traffic("send", ADDRESSES[there], str(size)), timeout=120)
        receiver.communicate(timeout=10)
        if sender.returncode:
            raise DemoError(f"the TCP transfer from host {here} failed: {sender.stderr.strip()}")
        sent = json.loads(sender.stdout)
        rate = sent["bytes"] * 8 / sent["seconds"] / 1e6
        _say(
            f"host {here} sends {sent['bytes'] >> 20} MiB to host {there} by TCP: {rate:.0f} Mbit/s, "
            f"sha256 {sent['sha256'][:16]}... the same at both ends"
        )


def _ask_simulator(directory: Path, command: str) -> Any:
    return ask(directory / "control.sock", cmd=command)


def _wait_for_generators(directory: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while True:
        ends = _ask_simulator(directory, "cables")["cables"]
        if all(end["done"] and not end["outstanding"] for end in ends) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for port, end in enumerate(ends):
        _say("port {}: {sent} sent, {received} received, {lost} lost, {corrupted} corrupted".format(port, **end))
        if end["lost"] or end["corrupted"] or end["outstanding"]:
            raise DemoError("packets of the generator were lost or changed")


def _show_worker(forwarder: "subprocess.Popen[str]") -> None:
    children = Path(f"/proc/{forwarder.pid}/task/{forwarder.pid}/children").read_text().split()
    for pid in children:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
            if ":\t" in line
        )
        _say(
            f"worker {pid}: uid {status['Uid'].split()[0]}, capabilities {status['CapEff']}, "
            f"no_new_privs {status['NoNewPrivs']}"
        )


def _end_forwarder(forwarder: "subprocess.Popen[str]") -> None:
    forwarder.send_signal(signal.SIGINT)
    output, _ = forwarder.communicate(timeout=20)
    if forwarder.returncode:
        raise DemoError(f"the forwarder ended with status {forwarder.returncode}")
    for line in report.text(json.loads(output)).splitlines():
        _say(f"forwarder: {line}")


def _check_simulator(directory: Path) -> None:
    violations = _ask_simulator(directory, "violations")["violations"]
    _say(f"the simulated NICs saw {len(violations)} violations of the datasheet")
    if violations:
        raise DemoError(f"the first one: {violations[0]}")
