"""The forwarder's numbers: the arithmetic that every packet must survive, its summary, and its rates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixy_vfio.apps import drops
from ixy_vfio.datapath.queue import PortCounters
from ixy_vfio.drivers.contract import Counters
from ixy_vfio.runtime.messages import Statistics

if TYPE_CHECKING:
    from ixy_vfio.runtime.control import Control, Snapshot

WIRE_OVERHEAD = 24  # bytes on the wire beside the packet: CRC 4, preamble 8, gap 12


def totals(statistics: tuple[Statistics, ...]) -> list[PortCounters]:
    """The counters of both ports, summed over the workers."""
    return [
        PortCounters(*(sum(getattr(one.ports[port], name) for one in statistics) for name in PortCounters.__slots__))
        for port in range(2)
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
        "forwarded": target.sent,
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
    """Of both directions: from, to, and what became of the packets."""
    counted, addresses = totals(snapshot.workers), control.plan.addresses
    return [
        {
            "from": addresses[i],
            "to": addresses[1 - i],
            **direction(counted[i], counted[1 - i], snapshot.counters[i]),
        }
        for i in range(2)
    ]


def balanced(one: Mapping[str, Any]) -> bool:
    """Whether packets in = packets out + drops by cause."""
    total: int = one["forwarded"] + sum(one["dropped"].values())
    return bool(one["received"] == total)


def summary(control: "Control", ring: int, seconds: float, started: float, error: str | None = None) -> dict[str, Any]:
    """The object that --json prints; its keys are listed in `apps/forward.py`."""
    snapshot, plan = control.snapshot, control.plan
    if snapshot is None:
        raise RuntimeError("a summary is made after the run")
    counted = totals(snapshot.workers)
    first = [one.first_packet for one in snapshot.workers if one.first_packet]
    ways = directions(control, snapshot)
    told = [line for one in ways[: 2 if plan.both else 1] for line in _advice(one, plan.config.mtu)]
    return {
        "kernel": plan.kernel,
        "batch": plan.batch,
        "ring": ring,
        "queues": plan.config.queues,
        "mtu": plan.config.mtu,
        "one_way": not plan.both,
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
            for i in range(2)
        ],
        "control": {"sealed": control.seal.applied},
        "workers": [{"pid": one.pid, "core": one.core, "sealed": one.seal.applied} for one in control.workers],
        "advice": told,
        "notes": control.notes,
        "error": error,
    }


def _advice(one: Mapping[str, Any], mtu: int) -> list[str]:
    return drops.advice(one["from"], one["dropped"], mtu)


def text(of: Mapping[str, Any]) -> str:
    """The summary for people."""
    lines = [f"{of['seconds']:.1f} s, kernel {of['kernel']}, batch {of['batch']}, ring {of['ring']}"]
    for one in of["directions"][: 1 if of["one_way"] else 2]:
        parts = [f"{one['forwarded']} forwarded"]
        parts += [f"{count} {drops.CAUSES[cause][0]}" for cause, count in one["dropped"].items() if count]
        sign = "=" if balanced(one) else "IS NOT"
        lines.append(f"{one['from']} -> {one['to']}: {one['received']} received {sign} {' + '.join(parts)}")
    lines += [f"note: {note}" for note in (*of["advice"], *of["notes"])]
    if of["error"]:
        lines.append("these are the last numbers that are known")
    return "\n".join(lines)


class Meter:
    """Rates over the time that has really passed since the last look, or since packets may first have come."""

    def __init__(self, began: float) -> None:
        self._began = self._time = began
        self._sent = [(0, 0), (0, 0)]

    def interval(self, control: "Control", snapshot: "Snapshot") -> dict[str, Any]:
        """The object that --json-lines prints; its keys are listed in `apps/forward.py`."""
        passed = max(snapshot.time - self._time, 1e-6)
        sent = [(port.sent, port.sent_bytes) for port in totals(snapshot.workers)]
        ways = directions(control, snapshot)
        for i, one in enumerate(ways):
            packets, size = (new - old for new, old in zip(sent[1 - i], self._sent[1 - i], strict=True))
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
            "links": {address: str(link) for address, link in zip(control.plan.addresses, snapshot.links, strict=True)},
        }
