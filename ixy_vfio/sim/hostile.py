"""The hostile mode of a simulated port: a device that lies in every way it can, from a seed, and so again and again.

    ixy-vfio sim --hostile SEED[,KIND...]        all ports; without a kind: all kinds
    {"cmd": "hostile", "port": 0, "spec": "7,length,torn"}     one port, while it runs; an empty spec ends it

Kinds of the data path (`hostile_moves.Move`): length, endless, early, order, twice, torn, format, status, heads, rings,
packets. Kinds of registers (`hostile_registers`): ones, garbage, reset, stuck, eeprom, link, storm, counters.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.errors import UsageError
from ixy_vfio.sim.hostile_moves import STATE, Move, step
from ixy_vfio.sim.hostile_registers import KINDS, Lies

if TYPE_CHECKING:
    from ixy_vfio.sim.dataplane import DataPlane
    from ixy_vfio.sim.nic import Nic

MOVES = {move.name.lower(): move for move in Move if move is not Move.HONEST}
HONEST_SHARE = 3  # one move in three is honest
MOVES_A_STEP = 16
_GOLDEN = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True)
class Spec:
    """What a port shall do, and the seed of it."""

    seed: int
    moves: tuple[Move, ...]
    lies: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """`SEED[,KIND...]`. UsageError for anything else."""
        seed, *kinds = text.split(",")
        unknown = [kind for kind in kinds if kind not in MOVES and kind not in KINDS]
        if not seed.isascii() or not seed.isdigit() or len(seed) > 18 or unknown:
            known = ", ".join([*MOVES, *KINDS])
            raise UsageError(f"hostile {text}: give SEED[,KIND...], a number and some of {known}")
        kinds = kinds or [*MOVES, *KINDS]
        moves = tuple(move for name, move in MOVES.items() if name in kinds)
        return cls(int(seed), moves, tuple(kind for kind in KINDS if kind in kinds))


def new_state(spec: Spec, port: int, tape: NDArray[np.uint64] | None = None) -> NDArray[Any]:
    """The state of the compiled moves; `tape` (to be kept alive) decides instead of the seed."""
    state: NDArray[Any] = np.zeros(1, STATE)
    weighted = [*spec.moves, *[Move.HONEST] * max(1, len(spec.moves) // (HONEST_SHARE - 1))]
    state["kinds"][0, : len(weighted)] = weighted
    state["kind_count"] = len(weighted)
    state["random"] = np.uint64((spec.seed * 32 + port + 1) * _GOLDEN & 0xFFFF_FFFF_FFFF_FFFF)
    if tape is not None:
        state["tape"], state["tape_words"] = tape.ctypes.data, tape.size
    return state


class Hostile:
    """One port's hostility; `attach` lets it loose."""

    def __init__(self, spec: Spec, plane: "DataPlane", nic: "Nic") -> None:
        self.spec = spec
        self._plane = plane
        self._nic = nic
        self._port = plane.ports[nic.number]
        self.state = new_state(spec, nic.number)
        self.lies = Lies(spec.seed, spec.lies, nic)
        step(self.state.ctypes.data, self._port.address, 0)  # compiles, before anybody waits for an answer

    def attach(self) -> None:
        """From now on the port is hostile."""
        self._nic.hostile = self.lies
        if self.spec.moves:
            self._plane.hostile[self._nic.number] = self.step

    def detach(self) -> None:
        """From now on the port is as honest as before."""
        self._nic.hostile = None
        self._plane.hostile.pop(self._nic.number, None)
        self.lies.end()

    def step(self) -> None:
        """Some moves, beside what the honest data plane does."""
        step(self.state.ctypes.data, self._port.address, MOVES_A_STEP)

    def status(self) -> dict[str, Any]:
        """What it has done, by kind."""
        state = self.state[0]
        done = {move.name.lower(): int(state["done"][move]) for move in Move}
        written = {"descriptors": int(state["descriptors"]), "honest": int(state["honest"])}
        return written | {"moves": done, "lies": dict(self.lies.told)}
