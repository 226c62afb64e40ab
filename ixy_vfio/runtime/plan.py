"""What a run is, before it begins, and what is known of it at a time."""

from dataclasses import dataclass, field

from ixy_vfio.datapath.program import Program
from ixy_vfio.drivers.contract import Counters, Link, PortConfig
from ixy_vfio.runtime.page import Counted
from ixy_vfio.runtime.worker import Idle


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall run: a program, and its ports."""

    addresses: tuple[str, ...]
    program: Program
    config: PortConfig = field(default_factory=PortConfig)
    helper: str | None = None
    limit: int | None = None  # packets, of all workers together
    cores: tuple[int, ...] = ()
    idle: Idle = Idle.SLEEP
    link_deadline: float = 10.0
    alone: bool = False  # nothing but this run happens in this process: it is sealed, too
    require_sealed: bool = False  # SealError when a layer of a sandbox is missing


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything counted so far, as far as it is known; `time` is CLOCK_MONOTONIC in seconds."""

    time: float
    workers: tuple[Counted, ...]
    counters: tuple[Counters, ...]
    links: tuple[Link, ...]
