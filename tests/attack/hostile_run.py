"""Runs the driver's loop against hostile devices, and prints one JSON object a run; to be started by tests, or by hand:

    python -m tests.attack.hostile_run SPEC[:key=value...]...

    7                         seed 7, every kind
    7,length,torn:ring=256    two kinds, rings of 256; keys: ring, batch, widest, spare, moves, descriptors
    7:api=batch               what scripts use, receive, work and send of a batch, in the place of the loop
    7:format=igb              descriptors of igb, not of ixgbe
    7:race=1                  the devices work beside the driver, in another thread (not the same each time)
    7:weak=length             the driver without its check of lengths: a control of the harness (see WEAK)

A run ends after so many `descriptors` that were written against the book, or so many `moves`. Then everything is
checked, and the driver is started anew, on the same memory, with an honest device.
"""

import faulthandler
import hashlib
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ixy_vfio.datapath import batch
from ixy_vfio.datapath.format import Format
from ixy_vfio.datapath.forwarding import loop_for
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.datapath.pool import DATA
from ixy_vfio.drivers.igb.format import FORMAT as IGB
from ixy_vfio.drivers.ixgbe.format import FORMAT as IXGBE
from ixy_vfio.sim.hostile import Spec
from ixy_vfio.sim.hostile_moves import step
from tests.attack.hostile_world import Loop, World, seal

FORMATS = {"ixgbe": IXGBE, "igb": IGB}
HONEST = Spec(0, (), ())
ROUNDS = 4  # of each turn
HONEST_TURNS = 300
HANG = 300.0  # seconds; whoever starts this has a deadline of its own


def sealed_loop(format: Format = IXGBE) -> Loop:
    """The driver's loop with the kernel that seals packets, from the cache."""
    source = inspect.getsource(seal).encode()
    return loop_for(Formats(format, format), seal, f"hostile_{hashlib.sha256(source).hexdigest()[:16]}")


class BatchApi:
    """What a script does: receive a batch, run a kernel over it, send it on; both ways."""

    def __init__(self, format: Format) -> None:
        self.world: World | None = None
        self.refused = 0
        self._calls, self._work = batch.calls(format), batch.work_for(seal)

    def __call__(self, state: Any) -> int:
        assert self.world is not None
        world, total = self.world, 0
        record = np.array([(world.pool.address, world.words.address, world.batch, 0)], batch.BATCH)
        address = int(record.ctypes.data)
        for source, target in (self.world.pairs, self.world.pairs[::-1]) * ROUNDS:
            count = self._calls.receive(source.address, address)
            self.refused += count - self._work.call(address)
            self._calls.send(target.address, address)
            total += count
        return total


# A format that believes a device which says that it wrote a little more than a buffer has.
BELIEVES = IXGBE._replace(buffer=np.uint64(DATA + 64))


def _weak_loop(kernel: Callable[[Any, Any], bool]) -> Loop:
    """The loop with this format; for this process, not for a cache."""
    return loop_for(Formats(BELIEVES, BELIEVES), kernel, "", cache=False)


def drops(packet: Any, length: Any) -> bool:
    """A kernel that writes to the last byte that it is shown, and sends nothing."""
    packet[packet.size - 1] = 0
    return False


def hangs(state: Any) -> int:
    """In the place of the loop: never ends."""
    while True:
        time.sleep(0.1)


WEAK: dict[str, Callable[[], Loop]] = {
    "length": lambda: _weak_loop(seal),  # more than a buffer is sent
    "kernel": lambda: _weak_loop(drops),  # the kernel is shown more than a buffer
    "index": sealed_loop,  # the driver as it is, but its notes of which buffer is where are wrong: see `run`
    "leak": sealed_loop,  # the driver as it is, but a buffer is in no place any more: see `run`
    "hangs": lambda: hangs,
}


def run(text: str) -> dict[str, Any]:
    """One run; what came of it. Raises whatever the driver raises, and AssertionError when it broke a rule."""
    spec, _, rest = text.partition(":")
    options = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    weak, race = options.pop("weak", ""), bool(options.pop("race", ""))
    moves, wanted = int(options.pop("moves", 0)), int(options.pop("descriptors", 0))
    if not moves and not wanted:
        wanted = 200_000
    format = FORMATS[options.pop("format", "ixgbe")]
    scripted = BatchApi(format) if options.pop("api", "") == "batch" else None
    loop = scripted or (WEAK[weak]() if weak else sealed_loop(format))
    world = World(loop, format, **{name: int(value) for name, value in options.items()})
    if scripted:
        scripted.world = world
    world.start(Spec.parse(spec))
    if weak == "index":
        for pair in world.pairs:
            pair.rx_slots[:] = world.buffers
    if weak == "leak":
        world.pool.state["free"] -= 1
    begin = time.monotonic()
    done = _beside(world, moves or 10_000_000) if race else _in_turn(world, moves, wanted)
    world.check()
    told = {
        "run": text,
        "seconds": round(time.monotonic() - begin, 2),
        "moves": done,
        "descriptors": sum(int(device["descriptors"][0]) for device in world.devices),
        "hostile": world.hostile_descriptors,
        "frames": sum(int(frames) for frames in world.witnesses["frames"]),
        "counted": world.counted(),
        "dropped": _dropped(world),
        "digest": world.digest,
    }
    return told | {"honest": _restart(world)}


def _dropped(world: World) -> int:
    """Packets that were received and not sent: the kernel said so, or there was no room."""
    refused = world.loop.refused if isinstance(world.loop, BatchApi) else 0
    return refused + sum(one["rx.refused"] + one["tx.no_room"] for one in world.counted())


def _in_turn(world: World, moves: int, wanted: int) -> int:
    done = turns = 0
    while done < moves or world.hostile_descriptors < wanted:
        done += world.turn()
        turns += 1
        if turns % 500 == 0:
            world.check()
    return done


def _beside(world: World, moves: int) -> int:
    """The devices in a thread of their own: DMA while the driver works."""
    done = [0, 0]
    stop = threading.Event()

    def attack(number: int) -> None:
        while not stop.is_set() and done[number] < moves:
            done[number] += int(step(world.devices[number].ctypes.data, world.ports[number].address, 256))

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            world.loop(world.state)
            world.bring_bells()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return sum(done)


def _restart(world: World) -> dict[str, int]:
    """An honest device, on the same memory: nothing is dropped but what the kernel refuses."""
    if isinstance(world.loop, BatchApi):
        world.loop.refused = 0
    world.start(HONEST)
    for _ in range(HONEST_TURNS):
        world.turn()
    world.check()
    counted = world.counted()
    told = {name: sum(one[f"rx.{name}"] for one in counted) for name in ("packets", "errors", "oversize")}
    return told | {"dropped": _dropped(world), "frames": sum(int(frames) for frames in world.witnesses["frames"])}


def main() -> int:
    """Run each; the status is 1 when one of them failed, which ends it."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(HANG, exit=True)
    for text in sys.argv[1:]:
        print(json.dumps({"begins": text}), flush=True)
        try:
            print(json.dumps(run(text)), flush=True)
        except Exception as error:
            print(json.dumps({"run": text, "failed": f"{type(error).__name__}: {error}"}), flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
