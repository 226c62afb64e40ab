"""The forwarder's live table, its summary, and the arithmetic that every packet must survive."""

from typing import TYPE_CHECKING, Any, TextIO

from ixy_vfio.runtime.messages import PortCounters, Statistics

if TYPE_CHECKING:
    from ixy_vfio.runtime.control import Control, Snapshot

_WIRE_OVERHEAD = 24  # bytes on the wire beside the packet: CRC 4, preamble 8, gap 12

_HEAD = f"{'direction':29} {'Mpps':>8} {'Mbit/s':>9} {'packets':>14} {'dropped':>10} {'errors':>8} {'missed':>8}"


def totals(statistics: tuple[Statistics, ...]) -> list[PortCounters]:
    """The counters of both ports, summed over the workers."""
    return [
        PortCounters(*(sum(getattr(one.ports[port], name) for one in statistics) for name in PortCounters.__slots__))
        for port in range(2)
    ]


def direction(source: PortCounters, target: PortCounters) -> dict[str, Any]:
    """What became of the packets that came in at `source`."""
    return {
        "received": source.received + source.rx_errors + source.oversize,
        "forwarded": target.sent,
        "dropped": {
            "refused": source.refused,
            "no_room": target.no_room,
            "rx_errors": source.rx_errors,
            "oversize": source.oversize,
        },
    }


def balanced(one: dict[str, Any]) -> bool:
    """Whether packets in = packets out + drops by cause."""
    total: int = one["forwarded"] + sum(one["dropped"].values())
    return bool(one["received"] == total)


def summary(control: "Control", ring: int, seconds: float, started: float) -> dict[str, Any]:
    """The object that --json prints; its keys are listed in `apps/forward.py`."""
    snapshot, plan = control.snapshot, control.plan
    if snapshot is None:
        raise RuntimeError("a summary is made after the run")
    counted = totals(snapshot.workers)
    first = [one.first_packet for one in snapshot.workers if one.first_packet]
    directions = [
        {"from": plan.addresses[i], "to": plan.addresses[1 - i], **direction(counted[i], counted[1 - i])}
        for i in range(2)
    ]
    return {
        "kernel": plan.kernel,
        "batch": plan.batch,
        "ring": ring,
        "queues": plan.config.queues,
        "mtu": plan.config.mtu,
        "seconds": seconds,
        "first_packet_seconds": min(first) / 1e9 - started if first else None,
        "balanced": all(balanced(one) for one in directions),
        "directions": directions,
        "ports": [
            {
                "address": plan.addresses[i],
                "mac": control.macs[i].hex(":"),
                "link": str(snapshot.links[i]) if snapshot.links else "unknown",
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
        "notes": control.notes,
    }


def text(of: dict[str, Any]) -> str:
    """The summary for people."""
    lines = [f"{of['seconds']:.1f} s, kernel {of['kernel']}, batch {of['batch']}, ring {of['ring']}"]
    for one in of["directions"]:
        drops = " + ".join(f"{count} {cause.replace('_', ' ')}" for cause, count in one["dropped"].items())
        sign = "=" if balanced(one) else "IS NOT"
        lines.append(
            f"{one['from']} -> {one['to']}: {one['received']} received {sign} {one['forwarded']} forwarded + {drops}"
        )
    lines += [f"note: {note}" for note in of["notes"]]
    return "\n".join(lines)


class Table:
    """The live table: redrawn in place on a terminal, appended elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0
        self._last: tuple[float, list[PortCounters]] | None = None

    def show(self, control: "Control", snapshot: "Snapshot") -> None:
        """Print what happened since the last call."""
        counted = totals(snapshot.workers)
        now, addresses = snapshot.time, control.plan.addresses
        before, old = self._last or (now - 1.0, [PortCounters(), PortCounters()])
        self._last = (now, counted)
        lines = [_HEAD]
        for i in range(2):
            source, target = counted[i], counted[1 - i]
            packets = target.sent - old[1 - i].sent
            size = target.sent_bytes - old[1 - i].sent_bytes + packets * _WIRE_OVERHEAD
            seconds = max(now - before, 1e-6)
            lines.append(
                f"{addresses[i]} -> {addresses[1 - i]:13}"
                f" {packets / seconds / 1e6:8.3f} {size * 8 / seconds / 1e6:9.1f}"
                f" {target.sent:14} {source.refused + target.no_room:10}"
                f" {source.rx_errors + source.oversize:8} {snapshot.counters[i].rx_missed:8}"
            )
        down = [address for address, link in zip(addresses, snapshot.links, strict=True) if not link.up]
        lines += [f"{address}: the link is down" for address in down]
        self._draw(lines)

    def _draw(self, lines: list[str]) -> None:
        terminal = self._stream.isatty()
        if terminal and self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")  # up, and clear to the end of the screen
        self._drawn = len(lines)
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()
