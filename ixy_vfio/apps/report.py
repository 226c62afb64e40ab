"""The numbers of a run: the arithmetic that every packet must survive, its summary, and its rates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixy_vfio.apps import drops
from ixy_vfio.datapath.queue import PortCounters
from ixy_vfio.drivers.contract import Counters
from ixy_vfio.runtime.page import Counted

if TYPE_CHECKING:
    from ixy_vfio.runtime.control import Control
    from ixy_vfio.runtime.plan import Snapshot

WIRE_OVERHEAD = 24  # bytes on the wire beside the packet: CRC 4, preamble 8, gap 12


def totals(workers: tuple[Counted, ...]) -> list[PortCounters]:
    """The counters of each port, summed over the workers."""
    return [
        PortCounters(*(sum(getattr(one, name) for one in port) for name in PortCounters.__slots__))
        for port in zip(*(one.ports for one in workers), strict=True)
    ]


def direction(source: PortCounters, target: PortCounters, nic: Counters) -> dict[str, Any]:
    """What became of the packets that came by the wire to `source`, whose device counted `nic`.

    Received are all of them: those that a worker took, those that the device dropped by itself, and those that it
    kept, or put into a ring, in vain.
    """
    taken = source.received + source.rx_errors + source.oversize
    by_nic = drops.of_nic(nic)
    unread = max(nic.rx_packets - taken, 0) + nic.rx_waiting
    return {
        "received": taken + sum(by_nic.values()) + unread,
        "forwarded": target.sent - target.returned,
        "returned": source.returned,
        "dropped": {
            "refused": source.refused,
            "no_room": target.no_room,
            "rx_errors": source.rx_errors,
            "oversize": source.oversize,
            **by_nic,
            "unread": unread,
        },
    }


def directions(control: "Control", snapshot: "Snapshot") -> list[dict[str, Any]]:
    """Of each way: from, to, and what became of the packets."""
    counted, addresses = totals(snapshot.workers), control.plan.addresses
    return [
        {
            "from": addresses[way.source],
            "to": addresses[way.target],
            **direction(counted[way.source], counted[way.target], snapshot.counters[way.source]),
        }
        for way in control.plan.program.ways
    ]


def balanced(one: Mapping[str, Any]) -> bool:
    """Whether packets in = packets out + drops by cause."""
    total: int = one["forwarded"] + one["returned"] + sum(one["dropped"].values())
    return bool(one["received"] == total)


def summary(control: "Control", seconds: float, started: float, error: str | None = None) -> dict[str, Any]:
    """The object that --json prints; its keys are listed in `apps/running.py`."""
    snapshot, plan = control.snapshot, control.plan
    if snapshot is None:
        raise RuntimeError("a summary is made after the run")
    counted = totals(snapshot.workers)
    first = [one.first_packet for one in snapshot.workers if one.first_packet]
    ways = directions(control, snapshot)
    told = [line for one in ways for line in drops.advice(one["from"], one["dropped"], plan.config.mtu)]
    return {
        "kernel": plan.program.name,
        "batch": plan.program.batch,
        "ring": plan.config.rx_ring,
        "queues": plan.config.queues,
        "mtu": plan.config.mtu,
        "seconds": seconds,
        "first_packet_seconds": min(first) / 1e9 - started if first else None,
        "balanced": all(balanced(one) for one in ways),
        "directions": ways,
        "ports": [
            {
                "address": plan.addresses[i],
                "mac": control.macs[i].hex(":"),
                "link": str(snapshot.links[i]),
                "rx_packets": counted[i].received,
                "rx_bytes": counted[i].received_bytes,
                "tx_packets": counted[i].sent,
                "tx_bytes": counted[i].sent_bytes,
                "no_buffer": counted[i].no_buffer,
                "rx_missed": snapshot.counters[i].rx_missed,
                "nic": dict(snapshot.counters[i].registers),
            }
            for i in range(len(plan.addresses))
        ],
        "control": {"sealed": control.seal.applied},
        "workers": [{"pid": one.pid, "core": one.core, "sealed": one.seal.applied} for one in control.workers],
        "advice": told,
        "notes": control.notes,
        "error": error,
    }


def text(of: Mapping[str, Any]) -> str:
    """The summary for people."""
    lines = [f"{of['seconds']:.1f} s, kernel {of['kernel']}, batch {of['batch']}, ring {of['ring']}"]
    for one in of["directions"]:
        parts = [f"{one['forwarded']} forwarded"]
        parts += [f"{one['returned']} returned"] if one["returned"] else []
        parts += [f"{count} {drops.CAUSES[cause][0]}" for cause, count in one["dropped"].items() if count]
        sign = "=" if balanced(one) else "IS NOT"
        lines.append(f"{one['from']} -> {one['to']}: {one['received']} received {sign} {' + '.join(parts)}")
    lines += [f"note: {note}" for note in (*of["advice"], *of["notes"])]
    if of["error"]:
        lines.append("these are the last numbers that are known")
    return "\n".join(lines)


class Meter:
    """Rates over the time that has really passed since the last look, or since packets may first have come."""

    def __init__(self, control: "Control") -> None:
        self._control = control
        self._began = self._time = control.began
        self._sent = [(0, 0)] * len(control.plan.addresses)

    def interval(self, snapshot: "Snapshot") -> dict[str, Any]:
        """The object that --json-lines prints; its keys are listed in `apps/running.py`."""
        plan = self._control.plan
        passed = max(snapshot.time - self._time, 1e-6)
        sent = [(port.sent, port.sent_bytes) for port in totals(snapshot.workers)]
        ways = directions(self._control, snapshot)
        for way, one in zip(plan.program.ways, ways, strict=True):
            now, before = sent[way.target], self._sent[way.target]
            packets, size = (new - old for new, old in zip(now, before, strict=True))
            one["packets_per_second"] = packets / passed
            one["bits_per_second"] = (size + packets * WIRE_OVERHEAD) * 8 / passed
            # In the rings now, to be taken soon.
            one["received"] -= one["dropped"].pop("unread")
        self._time, self._sent = snapshot.time, sent
        return {
            "kind": "interval",
            "seconds": snapshot.time - self._began,
            "interval": passed,
            "directions": ways,
            "links": {address: str(link) for address, link in zip(plan.addresses, snapshot.links, strict=True)},
        }
