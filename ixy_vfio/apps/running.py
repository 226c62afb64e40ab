"""What the commands that move packets share: their options, the run, the table, the summary.

A command names an `Application`: its ports and its program. All the rest is the same for each of them.

With --json one object is printed at the end:

    kernel, batch, ring, queues, mtu   what was asked for
    seconds                            from the first poll to the stop
    first_packet_seconds               from the start of the program to the first forwarded packet (null: none came)
    balanced                           whether every packet is accounted for:
                                       received = forwarded + returned + dropped
    directions                         for each way that packets go: from, to, received (all that the wire brought),
                                       forwarded, returned (to the port they came from), dropped {by cause}
    ports                              address, mac, link, rx_packets, rx_bytes, tx_packets, tx_bytes (without CRC),
                                       no_buffer, rx_missed, nic {the device's own counters by the datasheet's names}
    control                            sealed [the layers of its sandbox, as named in runtime/control_seal.py]
    workers                            pid, core, sealed [the layers of its sandbox, as named in runtime/sandbox.py]
    advice                             what was dropped, and what to do about it, a line a cause
    notes                              what was odd, but could be lived with
    error                              null, or why the run ended: these are the last numbers that are known then

Causes of drops. A worker's: refused (by the kernel), no_room (in a transmit ring), rx_errors, oversize
(too many buffers). The device's own: missed (packet buffer full), no_descriptor (no free buffer in a ring), too_long,
too_short, crc_errors, illegal, bad_length. And unread: come as the run ended.

With --json-lines one object is printed in a line each interval, and the one above, with "kind": "summary", as the last:

    kind                               "interval"
    seconds, interval                  since packets may come; since the last line, as really passed
    directions                         as above, totals so far (without unread), and of this interval packets_per_second
                                       and bits_per_second: what `to` sends (on the wire, with CRC, preamble and gap)
    links                              {address: "down", or like "up, 10 Gbit/s"}
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ixy_vfio.core import threads
from ixy_vfio.core.errors import IxyError, UsageError
from ixy_vfio.core.options import number, pci_address, seconds
from ixy_vfio.transport.lease import Lease

if TYPE_CHECKING:
    from ixy_vfio.apps.table import Table
    from ixy_vfio.datapath.format import Format
    from ixy_vfio.datapath.program import Program
    from ixy_vfio.drivers.contract import Driver
    from ixy_vfio.runtime.control import Control
    from ixy_vfio.runtime.plan import Plan

MOST_DESCRIPTORS = 4096  # of a ring
UNSEEN = 10.0  # seconds between looks at counters that nobody is shown; one of 36 bits counts bytes, for 55 s at least
Say = Callable[[str], None]  # what is being waited for, a line each time


@dataclass(frozen=True, slots=True)
class Application:
    """What a command runs."""

    name: str  # the command
    doing: str  # a word for it while it runs
    addresses: tuple[str, ...]  # of its ports
    program: Callable[[Sequence["Format"], list[str], Say], "Program"]
    """program(formats, notes, say): the compiled program for ports of these formats. What there is to say of it, a line
    each, is added to `notes`."""
    check: Callable[[], None] | None = None
    """UsageError for a user's own part of the program. None: all of it is shipped."""
    remarks: tuple[str, ...] = ()  # said when packets may come, each a line of the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that all of these commands have."""
    add = parser.add_argument
    add("--helper", metavar="PATH", help="the helper's socket ($IXY_VFIO_HELPER, else /run/ixy_vfio/helper.sock)")
    most = MOST_DESCRIPTORS
    add("--batch", type=number(1, most), default=32, metavar="N", help="packets per poll (32)")
    text = f"descriptors per ring, a power of two, 64 to {most} (512)"
    add("--ring", type=number(64, most), default=512, metavar="N", help=text)
    text = "queue pairs per port, 16 at most, with a worker process each (1)"
    add("--queues", type=number(1, 16), default=1, metavar="N", help=text)
    add("--cores", metavar="LIST", help="cores to pin the workers to, like 1,2 or 2-5")
    text = "largest packet, without its Ethernet header, 68 to 9200 (1500)"
    add("--mtu", type=number(68, 9200), default=1500, metavar="N", help=text)
    add("--duration", type=seconds(0.001), metavar="SECONDS", help="stop after this time")
    text = "stop after exactly this many received packets, of all queues together"
    add("--packets", type=number(1, 10**18), metavar="N", help=text)
    add(
        "--idle",
        choices=("poll", "yield", "sleep"),
        default="sleep",
        help="without packets (sleep: until an interrupt)",
    )
    add("--require-sealed", action="store_true", help="refuse to run when a layer of a sandbox is missing")
    add("--not-promiscuous", action="store_true", help="receive only what is addressed to the ports themselves")
    add("--link-deadline", type=seconds(0), default=10.0, metavar="SECONDS", help="wait so long for the links (10)")
    add("--interval", type=seconds(0.01), default=1.0, metavar="SECONDS", help="between two tables of numbers (1)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object at the end, and no table")
    text = "print a JSON object an interval, a line each; the last one is the summary"
    output.add_argument("--json-lines", action="store_true", help=text)
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    add("--announce", action="store_true", help="print a line when packets may come")


def run(arguments: argparse.Namespace, application: Application) -> int:
    """Run it until Ctrl-C, the end of the duration, or the packet limit."""
    started = _process_start()
    check(arguments, application.addresses)
    from ixy_vfio.apps.table import Table

    table = None if arguments.json or arguments.json_lines or arguments.quiet else Table(sys.stdout)
    try:
        return _run(arguments, application, table, started)
    finally:
        if table:
            table.close()


def _run(arguments: argparse.Namespace, application: Application, table: "Table | None", started: float) -> int:
    notes: list[str] = []
    say: Say = table.say if table else lambda text: None
    plan = _plan(arguments, application, say, notes)
    # Imported so late as it takes a while, and somebody is told so first.
    from ixy_vfio.apps import report
    from ixy_vfio.core import cache
    from ixy_vfio.runtime.control import Control

    control = Control(plan, say)
    control.notes += [*notes, *cache.notes()]
    failure = None
    end = 0.0
    try:
        with control:
            try:
                _watch(arguments, application, control, table)
            finally:
                end = time.monotonic()
    except IxyError as error:
        if control.snapshot is None:
            raise
        failure = error
    ran = end - control.began if control.began else 0.0
    summary = report.summary(control, ran, started, str(failure) if failure else None)
    if arguments.json_lines:
        print(json.dumps({"kind": "summary", **summary}), flush=True)
    elif arguments.json:
        print(json.dumps(summary), flush=True)
    elif table:
        table.close()
        print(report.text(summary), flush=True)
    if failure:
        raise failure
    if not summary["balanced"]:
        print(f"ixy-vfio {application.name}: the packets do not add up", file=sys.stderr)
        return 1
    return 0


def _plan(arguments: argparse.Namespace, application: Application, say: Say, notes: list[str]) -> "Plan":
    """With the compiled program in it."""
    say("asking the helper")
    try:
        formats = [driver.descriptor_format() for driver in _drivers(arguments, application)]
    except IxyError:
        if application.check:
            say("loading the compiler")
            application.check()  # what is wrong with it is told first: that can be mended without a helper
            threads.require_one("control")
        raise
    say("loading the compiler")
    program = application.program(formats, notes, say)
    threads.require_one("control")  # a user's file may have started some
    from ixy_vfio.drivers.contract import PortConfig
    from ixy_vfio.runtime.plan import Plan
    from ixy_vfio.runtime.worker import Idle

    return Plan(
        addresses=application.addresses,
        program=program,
        config=PortConfig(
            queues=arguments.queues,
            rx_ring=arguments.ring,
            tx_ring=arguments.ring,
            mtu=arguments.mtu,
            promiscuous=not arguments.not_promiscuous,
        ),
        helper=arguments.helper,
        limit=arguments.packets,
        cores=_cores(arguments.cores),
        idle=Idle(arguments.idle),
        link_deadline=arguments.link_deadline,
        alone=True,
        require_sealed=arguments.require_sealed,
    )


def _drivers(arguments: argparse.Namespace, application: Application) -> "list[Driver]":
    """Those of the ports. The helper is asked before the compiler takes its seconds; raises what it refuses."""
    from ixy_vfio.drivers import contract

    with Lease(arguments.helper) as lease:
        listed = {one.address: one for one in lease.devices()}
        found = []
        for address in map(pci_address, application.addresses):
            if address in listed:
                one = listed[address]
                found.append(contract.driver_for(address, one.vendor, one.device))
            else:
                found.append(contract.driver_of(lease.attach(address)))  # which says why it is not listed
    return found


def _watch(arguments: argparse.Namespace, application: Application, control: "Control", table: "Table | None") -> None:
    """Show what happens, until the end."""
    from ixy_vfio.apps import report

    config = control.plan.config
    if arguments.announce:
        line = f"{application.doing} {' <-> '.join(application.addresses)}"
        table.note(line) if table else print(line, flush=True)
    if table:
        for remark in application.remarks if config.promiscuous else ():
            table.note(remark)
        table.say(f"{application.doing}; numbers come every {arguments.interval:g} s")
    meter = report.Meter(control)
    for snapshot in control.watch(arguments.interval if table or arguments.json_lines else UNSEEN, arguments.duration):
        interval = meter.interval(snapshot)
        if table:
            table.show(interval, config.mtu)
        elif arguments.json_lines:
            print(json.dumps(interval), flush=True)


def check(arguments: argparse.Namespace, addresses: Sequence[str]) -> None:
    """UsageError for everything that can be seen without a helper."""
    names = [pci_address(address) for address in addresses]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"{addresses[place]}: the same port twice")
    ring = arguments.ring
    if ring & (ring - 1):
        raise UsageError(f"--ring {ring}: a power of two from 64 to {MOST_DESCRIPTORS}")
    if arguments.batch > ring:
        raise UsageError(f"--batch {arguments.batch}: a batch is 1 to {ring} packets, the length of the ring")
    _cores(arguments.cores)


def _cores(text: str | None) -> tuple[int, ...]:
    """The cores of a list like 1,3-5."""
    if text is None:
        return ()
    cores: list[int] = []
    allowed = os.sched_getaffinity(0)
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise UsageError(f"--cores {text}: a list of cores like 1,2 or 2-5")
        for core in range(first, last + 1):
            if core not in allowed:
                may = ",".join(map(str, sorted(allowed)))
                raise UsageError(f"--cores {text}: there is no core {core} for this process; it may use {may}")
            cores.append(core)
    return tuple(cores)


def _process_start() -> float:
    """When this process was started, on CLOCK_MONOTONIC (to 10 ms)."""
    ticks = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
