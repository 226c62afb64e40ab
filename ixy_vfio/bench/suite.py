"""What a run measures, experiment by experiment. `quick` measures what has a goal; else everything."""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.bench import interrupts, machine, measure, metadata, python_api, reference, system
from ixy_vfio.bench.pages import HUGE
from ixy_vfio.bench.published import PUBLISHED
from ixy_vfio.bench.results import Results
from ixy_vfio.bench.sides import Product, Reference, Side
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import forwarding_loop
from ixy_vfio.datapath.loop import Formats
from ixy_vfio.drivers.ixgbe.format import FORMAT

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_BATCHES = (1, 4, 8, 16, 32, 64, 256)
WIRE_SIZES = (60, 61, 64, 65, 127, 590, 1514)
USUAL = "60 bytes, rings of 512"
FORWARD = "forward"
METADATA = "forward, all metadata"
SEALED = "sealed"
# Of memory, for each comparison: where it happens to lie moves a ratio by a tenth at batch 1. A set takes some 10 ms,
# and a ratio also changes from one tenth of a second to the next, by some hundredths: many sets take longer than that.
SETS, QUICK_SETS = 20, 5
ROUNDS = 10  # of a set, or 5 when quick
COLD_SLICES, COLD_PAUSE = 12, 0.2  # of the cold rounds, spread over seconds, for the host moves its cores
Say = Callable[[str], None]
Loop = Callable[[NDArray[Any]], int]
Make = Callable[[], contextlib.AbstractContextManager[list[Side]]]


class Suite:
    """One run. `say` is told what is going on; the results grow in `results`."""

    def __init__(self, quick: bool, say: Say) -> None:
        self.quick, self.say = quick, say
        self.results = Results(published=PUBLISHED)
        self.sets, self.rounds = (QUICK_SETS, ROUNDS // 2) if quick else (SETS, ROUNDS)
        self.builds, notes = reference.builds()
        self.results.notes += notes
        self.loop = forwarding_loop(Formats(FORMAT, FORMAT), kernels.load("touch"))
        self.base = reference.MAIN if any(b.name == reference.MAIN for b in self.builds) else FORWARD

    def product(self, name: str = FORWARD, **options: Any) -> Product:
        """A new forwarder with the `touch` kernel."""
        side = Product(self.loop, "touch", **options)
        side.name = name
        return side

    @contextlib.contextmanager
    def sides(self, every_build: bool = True, **options: Any) -> Iterator[list[Side]]:
        """The reference's builds (or the main one), then the forwarder; all new, so that they can be compared."""
        builds = self.builds if every_build else self.builds[:1]
        made: list[Side] = [Reference(build, **options) for build in builds]
        made.append(self.product(**options))
        try:
            yield made
        finally:
            for side in made:
                side.close()

    @contextlib.contextmanager
    def forwarders(self, loops: Mapping[str, tuple[Loop, str]]) -> Iterator[list[Side]]:
        """New forwarders by their names in the rows: each with its loop, and the name that this is compiled under."""
        with contextlib.ExitStack() as stack:
            made: list[Side] = []
            for name, (loop, entry) in loops.items():
                made.append(stack.enter_context(contextlib.closing(Product(loop, entry))))
                made[-1].name = name
            yield made

    def compare(
        self,
        experiment: str,
        setting: str,
        batch: int,
        make: Make,
        *,
        base: str = "",
        size: int = 60,
        burst: int = measure.BURST,
        alike: bool = True,
    ) -> None:
        """Rows of the sides that `make` makes, anew for each set; `alike` when all are to send the same bytes."""
        names: list[str] = []
        series = []
        for _ in range(self.sets):
            with make() as sides:
                names = [side.name for side in sides]
                for side in sides:
                    side.sizes([size])
                    side.configure(batch, burst)
                series.append(measure.interleaved(sides, self.rounds))
                if alike:
                    measure.check(sides)
        self.results.add(experiment, setting, batch, names, np.concatenate(series), base or self.base)

    def run(self) -> Results:
        """Everything, in order."""
        self.results.settings = {
            "quick": self.quick,
            "sets": self.sets,
            "rounds of a set": self.rounds,
            "packets": measure.PACKETS,
        }
        self.results.machine = machine.describe()
        always = (
            self.wire,
            self.batches,
            self.metadata,
            self.cold,
            self.python,
            self.latency,
            self.queues,
            self.sealing,
        )
        for experiment in always:
            experiment()
        self.instructions()
        if not self.quick:
            for experiment in (self.sizes, self.rings, self.pages, self.kernels, self.safety):
                experiment()
        self.system()
        return self.results

    def wire(self) -> None:
        """The same bytes, on both ports, at several batches and a mix of packet sizes."""
        self.say("comparing what the sides send, byte for byte")
        compared = 0
        for batch in (1, 32, 256):
            with self.sides() as sides:
                compared += measure.verify(sides, WIRE_SIZES, batch)
        self.results.settings["wire_bytes_compared"] = compared

    def batches(self) -> None:
        """The main experiment: packets of 60 bytes, rings of 512, every batch size."""
        for batch in QUICK_BATCHES if self.quick else BATCHES:
            self.say(f"batch {batch}")
            self.compare("batch", USUAL, batch, self.sides)

    def sizes(self) -> None:
        """Packet sizes."""
        for size in (60, 64, 128, 256, 512, 1024, 1514):
            self.say(f"packets of {size} bytes")
            self.compare("packet size", f"{size} bytes", 32, self.sides, size=size)

    def rings(self) -> None:
        """Ring sizes."""
        for ring in (64, 128, 256, 512, 1024, 2048, 4096):
            self.say(f"rings of {ring}")
            make = functools.partial(self.sides, ring=ring)
            # the forwarder renews descriptors a block of 32 at a time: a ring of 64 has 32 at least
            self.compare("ring size", f"rings of {ring}", 32, make, burst=min(measure.BURST, ring // 2))

    def pages(self) -> None:
        """Page sizes, of both sides."""
        for page_size in (4096, HUGE):
            make = functools.partial(self.sides, page_size=page_size)
            with make() as sides:
                kinds = {side.memory.kind for side in sides}
            if page_size == HUGE and "4 KiB" in kinds:
                self.results.notes.append("2 MiB pages: none are to be had here; left out")
                return
            for batch in (32, 256):
                self.say(f"pages of {page_size >> 10} KiB, batch {batch}")
                self.compare("page size", ", ".join(sorted(kinds)), batch, make)

    def kernels(self) -> None:
        """The kernels that are shipped, beside the one that all comparisons use."""
        self.say("kernels")
        loops = {name: (forwarding_loop(Formats(FORMAT, FORMAT), kernels.load(name)), name) for name in kernels.SHIPPED}
        make = functools.partial(self.forwarders, loops)
        for batch in (32, 256):
            self.compare("kernel", USUAL, batch, make, base="touch", alike=False)

    def safety(self) -> None:
        """What the checks cost: the same loop without them."""
        from ixy_vfio.bench import variants

        loops = {"as shipped": (self.loop, "touch")}
        for number, name in enumerate(variants.VARIANTS, 1):
            self.say(f"safety: {name}")
            loops[name] = (variants.loop_of(name, kernels.touch, "touch"), f"variant_{number}")

        make = functools.partial(self.forwarders, loops)
        for batch in (1, 32, 256):
            self.compare("safety", USUAL, batch, make, base="as shipped")

    def sealing(self) -> None:
        """What it costs to be sealed."""
        from ixy_vfio.bench import sealing

        self.say("sealed worker")
        with contextlib.closing(self.product()) as side:
            side.configure(32, measure.BURST)
            samples = sealing.compare(side, 9 if self.quick else 25)
            self.results.add("sealing", USUAL, 32, ["not sealed", SEALED], samples, "not sealed")

    def metadata(self) -> None:
        """A kernel that is given all that the device says of a packet, beside the same sides as the main experiment.

        The same, for with fewer of them each finds more of its memory still in the caches.
        """
        self.say("metadata")
        loop = forwarding_loop(
            Formats(FORMAT, FORMAT), kernels.load(f"{metadata.__file__}:{metadata.every_field.__name__}")
        )

        @contextlib.contextmanager
        def make() -> Iterator[list[Side]]:
            with self.sides() as sides, self.forwarders({METADATA: (loop, "metadata")}) as more:
                yield sides + more

        for batch in (1, 32, 256):
            self.compare("metadata", USUAL, batch, make)

    def cold(self) -> None:
        """The model on another core."""
        if len(os.sched_getaffinity(0)) < 2:
            self.results.notes.append("cold lines: two cores are needed; left out")
            return
        from ixy_vfio.bench.remote import Remote

        with self.sides() as sides, Remote() as remote:
            names = [side.name for side in sides]
            base, forward = names.index(self.base), names.index(FORWARD)
            for batch in (32,) if self.quick else (1, 8, 32, 256):
                self.say(f"cold lines, batch {batch}")
                for side in sides:
                    side.configure(batch, measure.BURST)
                slices = []
                for _ in range(COLD_SLICES):
                    hand_off = remote.hand_off()
                    slices.append(measure.interleaved(sides, 5, 8192, remote))
                    c, ours = np.median(slices[-1][:, [base, forward]], axis=0)
                    self.results.hand_offs.append([batch, hand_off, float(c), float(ours)])
                    time.sleep(COLD_PAUSE)
                self.results.add("cold", "model on another core", batch, names, np.concatenate(slices), self.base)
                measure.check(sides)

    def python(self) -> None:
        """The Python API, beside the reference in the same rounds."""
        for batch in (32, 256):
            self.say(f"from Python, batch {batch}")
            with self.sides(every_build=False) as sides:
                product = sides[-1]
                assert isinstance(product, Product)
                for side in sides:
                    side.configure(batch, measure.BURST)
                ways = {name: make(product, batch) for name, make in python_api.WAYS.items()}
                names = [side.name for side in sides]
                packets = [2048 if "per packet" in name else 8192 for name in ways]
                samples = np.zeros((15, len(sides) + len(ways)))
                for i in range(-1, len(samples)):  # the first round warms and compiles
                    for k, side in enumerate(sides):
                        samples[i, k] = measure.sample(side, 8192)
                    for k, (way, many) in enumerate(zip(ways.values(), packets, strict=True)):
                        samples[i, len(sides) + k] = python_api.sample(product, way, batch, many)
                self.results.add("python", "from Python", batch, [*names, *ways], samples, self.base)

    def latency(self) -> None:
        """Latency at three loads, of the forwarder and of the reference."""
        from ixy_vfio.bench import latency

        packets = 1_000_000 if self.quick else 10_000_000
        runs = []
        with self.sides(every_build=False) as sides:
            for side in sides:
                capacity = latency.capacity(side)
                for load in (0.1, 0.5, 0.9):
                    self.say(f"latency of {side.name} at {load:.0%} load")
                    runs.append(latency.at_load(side, load, capacity, packets))
        seconds = 0.2 if self.quick else 1.0
        self.results.latency = {"runs": runs, "idle": latency.idle_pauses(seconds), "batch": latency.BATCH}

    def queues(self) -> None:
        """Two queues on two cores, and what two cores are worth here."""
        from ixy_vfio.bench.queues import scaling

        self.say("two queues on two cores")
        pairs: list[list[Side]] = [[self.product(), self.product()]]
        pairs += [[Reference(build), Reference(build)] for build in self.builds[:1]]
        self.results.queues = scaling(pairs, 9 if self.quick else 25)
        if not self.results.queues:
            self.results.notes.append("two queues: two cores are needed; left out")
        for side in itertools.chain(*pairs):
            side.close()

    def instructions(self) -> None:
        """Instructions a packet."""
        import subprocess

        from ixy_vfio.bench import instructions

        names = instructions.SIDES if self.builds and not self.quick else instructions.SIDES[:1]
        for name in names:
            self.say(f"instructions of {name}")
            try:
                self.results.instructions[name] = instructions.count(name)
            except (OSError, subprocess.SubprocessError) as error:
                said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
                self.results.notes.append(f"instructions of {name}: not measured ({said[-1] if said else error})")

    def system(self) -> None:
        """Whole processes."""
        self.say("start, memory, idle CPU of whole processes")
        self.results.system, notes = system.measure(cold=True)
        self.results.notes += notes
        if not self.quick:
            self.say("latency at 1 % load, polling and sleeping")
            try:
                self.results.system |= interrupts.measure()
            except (system.NotMeasured, OSError) as error:
                self.results.notes.append(f"latency of sleeping workers: not measured ({error})")
