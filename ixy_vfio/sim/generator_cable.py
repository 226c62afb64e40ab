"""`PORT:gen:KEY=VALUE,...`: the generator and sink as a cable. Its keys stand in specs.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.generator import FIT, MAX, PACED, SMALLEST, UNLIMITED, least
from ixy_vfio.sim.state import FLOW, MAX_PORTS, NO_FLOW, UNTOUCHED
from ixy_vfio.wires.cable import Cable

LARGEST = 15_500
WIRE_BYTE, WIRE_OVERHEAD = 0.8, 24  # ns a byte at 10 Gbit/s; CRC, preamble and gap in bytes


def _number(text: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is no number from {low} to {high}")
    return int(text)


def _sizes(flow: Any, text: str) -> None:
    low, dash, high = text.partition("-")
    flow["smallest"] = _number(low, SMALLEST, LARGEST)
    flow["largest"] = _number(high, int(flow["smallest"]), LARGEST) if dash else flow["smallest"]


def _pace(flow: Any, text: str) -> None:
    flow["pace"] = {"fit": FIT, "max": MAX}.get(text, PACED)
    if text == "wire":
        flow["cost_frame"], flow["cost_byte"] = WIRE_OVERHEAD * WIRE_BYTE, WIRE_BYTE
    elif text not in ("fit", "max"):
        rate = float(text) if text.replace(".", "", 1).isdigit() else 0.0
        if not 0.000_001 <= rate <= 1000:
            raise ValueError(f"{text!r} is none of fit, max, wire and a rate in Mpps")
        flow["cost_frame"] = 1000 / rate


def _destination(flow: Any, text: str) -> None:
    parts = text.split("-") if "-" in text else text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{text!r} is no MAC address")
    flow["destination"] = int.from_bytes(bytes.fromhex("".join(parts)), "little")


def _field(name: str, low: int, high: int) -> Callable[[Any, str], None]:
    def setter(flow: Any, text: str) -> None:
        flow[name] = _number(text, low, high)

    return setter


KEYS: dict[str, Callable[[Any, str], None]] = {
    "count": _field("count", 0, UNLIMITED - 1),
    "sizes": _sizes,
    "pace": _pace,
    "seed": _field("seed", 0, UNLIMITED),
    "streams": _field("streams", 1, 16384),
    "dst": _destination,
    "expect": _field("expect", 0, MAX_PORTS - 1),
    "touched": _field("touched", 0, LARGEST),
}


class GeneratorCable(Cable):
    """A generator that sends into a port, and a sink for what the port sends."""

    def __init__(self, spec: str, port: int, options: str) -> None:
        super().__init__(spec, port)
        self._flow: Any = np.zeros((), FLOW)
        self._flows: Any = None  # of all ports, when it is plugged in
        self._flow["count"], self._flow["streams"] = UNLIMITED, 1
        self._flow["smallest"] = self._flow["largest"] = SMALLEST
        self._flow["expect"], self._flow["touched"] = NO_FLOW, UNTOUCHED
        self._flow["latency_min"] = UNLIMITED
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            if key not in KEYS:
                raise UsageError(f"cable {spec}: {key!r} is none of {', '.join(KEYS)}")
            try:
                KEYS[key](self._flow, value)
            except ValueError as error:
                raise UsageError(f"cable {spec}: {key}: {error}") from None

    def attach(self, plane: Any) -> None:
        """Put the flow where the compiled step finds it."""
        number = self.ports[0]
        self._flow["active"], self._flow["number"] = 1, number
        self._flow["source"] = int.from_bytes(bytes([0x02, 0x82, 0x59, 0x90, 0, number]), "little")
        self._flows = plane.flows
        self._flows[number] = self._flow
        self._flow = self._flows[number]

    def status(self) -> dict[str, object]:
        """Counters of generator and sink.

        `lost` are gaps below the highest sequence number received, `outstanding` is all that was sent by the expected
        generator and has not come: they agree once nothing is under way.
        """
        flow = self._flow
        state: dict[str, object] = super().status()
        for name in ("sent", "sent_bytes", "received", "received_bytes", "unique", "duplicated", "reordered"):
            state[name] = int(flow[name])
        state["corrupted"], state["foreign"] = int(flow["corrupted"]), int(flow["foreign"])
        state["lost"] = int(flow["following"]) - int(flow["unique"])
        state["done"] = int(flow["sent"]) == int(flow["count"])
        if flow["expect"] != NO_FLOW and self._flows is not None:
            state["outstanding"] = int(self._flows[int(flow["expect"])]["sent"]) - int(flow["unique"])
        checked = int(flow["latencies"].sum())
        if checked:
            state["latency_ns"] = {
                "min": int(flow["latency_min"]),
                "mean": int(flow["latency_sum"]) / checked,
                "max": int(flow["latency_max"]),
                "histogram": {str(least(i)): int(n) for i, n in enumerate(flow["latencies"]) if n},
            }
        return state
