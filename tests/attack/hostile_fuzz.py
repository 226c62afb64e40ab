"""A fuzzer for the driver's data path: mutates the words that decide the moves of two hostile devices.

    python -m tests.attack.hostile_fuzz [--seed 1] [--runs 5000 | --seconds 60] [--corpus DIR] [--keep]

An input is kept when it led the driver to something new. What is new is seen in the driver's own counters: which of
them moved in one turn, in which state a packet in pieces was, and how far each moved (in powers of two). With --keep
the corpus is replaced by as few inputs as reach all of it. An input that breaks a rule, or raises, is written to
DIR/failed-N.bin and ends the run; the one that runs is always in $IXY_VFIO_FUZZ_CURRENT, if that is set.

(Coverage tools for Python see no compiled code; what a counter does not tell stays unseen here.)
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.sim.hostile import Spec
from tests.attack.hostile_run import sealed_loop
from tests.attack.hostile_world import World

CORPUS = Path(__file__).parent / "corpus"
MOVES_A_TURN = 8
LONGEST = 256  # words of an input
PLACES = {"ring", "slots", "doorbell", "reports", "next", "run", "pause", "armed", "tail", "filled", "freed"}
PLACES |= {"chain_first", "chain_last", "home", "feeder", "batch", "widest"}
LEVELS = {"chain_count", "skipping", "used", "with_buffer"}  # of these the value counts, not the change
WIDEST = (1, 5)  # descriptors that the loop keeps free for a packet; the first word decides
INTERESTING = (0, 1, 16, 17, 2047, 2048, 2049, 4096, 10_240, 0xFFFF, 0xFFFF_FFFF)
Item = tuple[object, ...]


class Fuzzer:
    """The driver, two devices, and what was reached so far."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(sealed_loop(), ring=64, batch=32, widest=5, spare=0)
        self.spec = Spec.parse("1")
        self.reached: set[Item] = set()
        self.kept: list[bytes] = []
        self.runs = 0
        self._current = os.environ.get("IXY_VFIO_FUZZ_CURRENT")

    def run(self, data: bytes) -> set[Item]:
        """One input, from an empty ring to the last word; what it reached. Raises what the driver raises."""
        if self._current:
            Path(self._current).write_bytes(data)
        words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
        tapes = [words[number::2].copy() for number in range(2)]
        self.runs += 1
        if not all(tape.size for tape in tapes):
            return set()
        self.world.packets.array[:] = 0xC5
        self.world.widest = WIDEST[int(words[0]) % len(WIDEST)]
        self.world.start(self.spec, tapes)
        items: set[Item] = set()
        before = [self._vector(number) for number in range(2)]
        while self.world.turn(MOVES_A_TURN):
            for number in range(2):
                now = self._vector(number)
                items |= self._items(before[number], now)
                before[number] = now
        self.world.check()
        return items

    def _vector(self, number: int) -> NDArray[np.uint64]:
        pair = self.world.pairs[number]
        derived = np.array([pair.received, pair.sent, pair.armed, pair.used], np.uint64)
        return np.append(pair.state.view(np.uint64), derived)

    def _items(self, before: NDArray[np.uint64], now: NDArray[np.uint64]) -> set[Item]:
        """What one turn has shown of one queue pair."""
        names = [
            f"{part}.{name}" for part in ("rx", "tx") for name in self.world.pairs[0].state.dtype[part].names or ()
        ]
        names += ["rx.packets", "tx.packets", "rx.with_buffer", "tx.used"]
        changed: list[str] = []
        levels: list[int] = []
        items: set[Item] = set()
        for name, old, new in zip(names, before[1:], now[1:], strict=True):  # the first word is the pool's address
            short = name.partition(".")[2]
            if short in LEVELS:
                items.add((name, int(new).bit_length()))
                if short in ("chain_count", "skipping"):
                    levels.append(int(new))
            elif short not in PLACES and old != new:
                changed.append(name)
                items.add((name, (int(new) - int(old)).bit_length()))
        items.add((*changed, *levels))
        return items

    def consider(self, data: bytes) -> bool:
        """Run it; keep it when it reached something new."""
        new = self.run(data) - self.reached
        if new:
            self.reached |= new
            self.kept.append(data)
        return bool(new)

    def fresh(self) -> bytes:
        """Random words, of one kind of move for a while each."""
        chance = self.random
        words: list[int] = []
        while len(words) < chance.randrange(8, LONGEST):
            kind = chance.randrange(256)
            words += [chance.getrandbits(56) << 8 | kind for _ in range(chance.randrange(1, 12))]
        return np.array(words[:LONGEST], np.uint64).tobytes()

    def mutated(self) -> bytes:
        """A kept input, changed in one to four places."""
        chance = self.random
        words = [int(word) for word in np.frombuffer(chance.choice(self.kept), np.uint64)]
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(words))
            match chance.randrange(7):
                case 0:
                    words[at] ^= 1 << chance.randrange(64)
                case 1:
                    words[at] = words[at] & 0xFFFF_FFFF | chance.choice(INTERESTING) << 32
                case 2:
                    words[at] = words[at] & ~0xFF | chance.randrange(256)
                case 3:
                    words[at:at] = words[at : at + chance.randrange(1, 24)]
                case 4:
                    del words[at : at + chance.randrange(1, 12)]
                case 5:
                    other = [int(word) for word in np.frombuffer(chance.choice(self.kept), np.uint64)]
                    words = words[:at] + other[chance.randrange(len(other)) :]
                case _:
                    words[at] = chance.getrandbits(64)
            words = words[:LONGEST] or [chance.getrandbits(64)]
        return np.array(words, np.uint64).tobytes()

    def minimal(self) -> list[bytes]:
        """As few of the kept inputs as reach all that they reach together; greedily."""
        left = {data: self.run(data) for data in self.kept}
        missing = set().union(*left.values())
        chosen: list[bytes] = []
        while missing:
            best = max(left, key=lambda data: (len(left[data] & missing), -len(data)))
            missing -= left.pop(best)
            chosen.append(best)
        return chosen


def corpus(directory: Path = CORPUS) -> list[Path]:
    """The files of a corpus, in order."""
    return sorted(path for path in directory.glob("*.bin") if path.stem.isdigit())


def main() -> int:
    """The status is 1 when an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--blind", action="store_true", help="keep nothing: for comparison")
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)
    inputs = [path.read_bytes() for path in corpus(arguments.corpus)]
    end = time.monotonic() + arguments.seconds
    data = b""
    try:
        while inputs or fuzzer.runs < arguments.runs or time.monotonic() < end:
            fresh = arguments.blind or not fuzzer.kept or fuzzer.random.randrange(10) == 0
            data = inputs.pop(0) if inputs else fuzzer.fresh() if fresh else fuzzer.mutated()
            fuzzer.consider(data)
    except Exception as error:
        path = arguments.corpus / f"failed-{fuzzer.runs}.bin"
        path.write_bytes(data)
        print(json.dumps({"failed": f"{type(error).__name__}: {error}", "input": str(path), "runs": fuzzer.runs}))
        return 1
    told = {"runs": fuzzer.runs, "kept": len(fuzzer.kept), "reached": len(fuzzer.reached)}
    if arguments.keep:
        chosen = fuzzer.minimal()
        for path in corpus(arguments.corpus):
            path.unlink()
        for number, data in enumerate(chosen):
            (arguments.corpus / f"{number:03}.bin").write_bytes(data)
        told["corpus"] = len(chosen)
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
