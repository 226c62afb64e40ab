"""Measuring: interleaved rounds, the driver's part alone, ratios within a round."""

# mypy: disable-error-code="type-arg"

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.bench.clock import frequency
from ixy_vfio.bench.entry import Entry, of_model
from ixy_vfio.bench.remote import Remote
from ixy_vfio.bench.sides import Side
from ixy_vfio.core.compiled import compiled
from ixy_vfio.core.errors import IxyError
from ixy_vfio.core.unsafe import cycles

U = np.uint64
BURST = 256  # packets that each port receives between two calls of the driver
PACKETS = 16384  # of one sample
Sample = NDArray[np.float64]


class WrongOutput(IxyError):
    """The sides did not send the same bytes, or the model found something wrong: nothing measured counts."""


@compiled
def run(model: Any, bench: Any, driver: Any, state: Any, times: int) -> Any:
    """Step the model and call the driver, so many times; cycles of the driver's part alone, and its packets."""
    spent = U(0)
    packets = U(0)
    for _ in range(times):
        model(U(bench))
        begin = cycles()
        packets += U(driver(U(state)))
        spent += cycles() - begin
    return spent, packets


_model: Entry | None = None


def model() -> Entry:
    """The model's step, compiled once."""
    global _model
    _model = _model or of_model()
    return _model


def sample(side: Side, packets: int = PACKETS, remote: Remote | None = None) -> float:
    """ns a packet of the driver's part, for about so many packets; the model inline, or on another core."""
    burst = int(side.bench["burst"][0])
    times = max(1, packets // (2 * burst))
    step, bench = (remote.entry, remote.attach(side)) if remote else (model(), int(side.bench.ctypes.data))
    spent, moved = run(step, bench, side.driver, side.state, times)
    if moved != 2 * burst * times:
        raise WrongOutput(f"{side.name}: forwarded {moved} of {2 * burst * times} packets")
    return float(spent / moved / frequency())


def interleaved(sides: Sequence[Side], rounds: int, packets: int = PACKETS, remote: Remote | None = None) -> Sample:
    """ns a packet, [round, side]. Each round measures every side once, each time in another order."""
    result = np.zeros((rounds, len(sides)))
    for side in sides:
        sample(side, packets, remote)  # warm
    for i in range(rounds):
        for k in range(len(sides)):
            j = (i + k) % len(sides)
            result[i, j] = sample(sides[j], packets, remote)
    return result


def verify(sides: Sequence[Side], sizes: Sequence[int], batch: int, packets: int = 2048) -> int:
    """WrongOutput unless every side sends the same bytes. Returns how many were compared.

    All must be new, or have forwarded equally much: packets are numbered.
    """
    for side in sides:
        side.sizes(list(sizes))
        side.configure(batch, min(BURST, side.ring // 2))
        side.record(2 * packets * (max(sizes) + 2))
        sample(side, packets)
        sample(side, 1)
    wires = [side.recorded() for side in sides]
    for side, wire in zip(sides, wires, strict=True):
        if wire != wires[0] or not wire[0]:
            raise WrongOutput(f"{side.name} and {sides[0].name} did not send the same bytes")
    check(sides)
    return sum(len(wire) for wire in wires[0])


def check(sides: Sequence[Side]) -> None:
    """WrongOutput when the model found an error, or the digests of all that was sent differ."""
    for side in sides:
        if side.errors:
            raise WrongOutput(f"{side.name}: the model NIC found {side.errors} errors")
        if side.digests != sides[0].digests:
            raise WrongOutput(f"{side.name} and {sides[0].name} did not send the same bytes: digests differ")
