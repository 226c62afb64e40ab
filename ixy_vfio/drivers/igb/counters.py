"""Statistics (82576 datasheet, 8.19). Of a queue the device counts only what it dropped: no packets, no bytes."""

from collections import Counter
from collections.abc import Mapping

from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.core.registers import Register
from ixy_vfio.drivers.contract import Counters, Drops, QueueCounters
from ixy_vfio.drivers.igb.models import Model
from ixy_vfio.drivers.igb.regs import RQDPC, STATUS
from ixy_vfio.drivers.statistics import counter, wide
from ixy_vfio.hw import igb as hw

_PORT = (
    *(hw.CRCERRS, hw.ALGNERRC, hw.RXERRC, hw.MPC, hw.RLEC, hw.XONRXC, hw.XONTXC, hw.XOFFRXC, hw.XOFFTXC),
    *(hw.PRC64, hw.PRC127, hw.PRC255, hw.PRC511, hw.PRC1023, hw.PRC1522),
    *(hw.GPRC, hw.BPRC, hw.MPRC, hw.GPTC, hw.RNBC, hw.RUC, hw.RFC, hw.ROC, hw.RJC, hw.TPR, hw.TPT),
    *(hw.PTC64, hw.PTC127, hw.PTC255, hw.PTC511, hw.PTC1023, hw.PTC1522, hw.MPTC, hw.BPTC),
)
_WIDE = {
    "GORC": (hw.GORCL, hw.GORCH),
    "GOTC": (hw.GOTCL, hw.GOTCH),
    "TOR": (hw.TORL, hw.TORH),
    "TOT": (hw.TOTL, hw.TOTH),
}
PORT: dict[str, type[Register]] = {row.name: counter(row) for row in _PORT}
WIDE = {name: (counter(low), counter(high)) for name, (low, high) in _WIDE.items()}


@section("8.19")
def read_all(bar: Mmio, queues: int) -> dict[str, int]:
    """What was counted since the last read, by name; of queue i as `RQDPC[i]`. **Clears the registers.**

    DeviceGone when the device went away while they were read: all ones are a value that a counter may have.
    """
    values = {name: int(register.read(bar)) for name, register in PORT.items()}
    values |= {name: wide(bar, halves) for name, halves in WIDE.items()}
    values |= {RQDPC.label(queue): int(RQDPC.read(bar, queue)) for queue in range(queues)}
    STATUS.read(bar)
    return values


class Totals:
    """The sums of all reads since it was made."""

    def __init__(self, model: Model, queues: int) -> None:
        self._model, self._queues = model, queues
        self._sums: Counter[str] = Counter()

    def update(self, bar: Mmio) -> Counters:
        """Read (and so clear) the device's counters, and add them."""
        self._sums.update(read_all(bar, self._queues))
        if not self._model.clears_rqdpc:
            for queue in range(self._queues):
                RQDPC().write(bar, queue)
        get = self._sums
        queues = tuple(QueueCounters(rx_dropped=get[RQDPC.label(queue)]) for queue in range(self._queues))
        drops = _drops(get, sum(queue.rx_dropped for queue in queues))
        return Counters(
            rx_packets=get["GPRC"],
            rx_bytes=get["GORC"],
            rx_missed=get["MPC"],
            rx_errors=drops.wrong,
            tx_packets=get["GPTC"],
            tx_bytes=get["GOTC"],
            queues=queues,
            registers=dict(get),
            drops=drops,
        )


def _drops(get: Mapping[str, int], no_descriptor: int) -> Drops:
    """Each frame under one cause, as far as the registers' texts say how they overlap.

    CRCERRS counts every frame of 64 bytes and more with a wrong CRC, so those of RJC (too long as well) are among
    them. QEMU pads a frame of less than 60 bytes and receives it, and counts it in RUC all the same; frames that are
    too long it does not count.
    """
    return Drops(
        missed=get["MPC"],
        no_descriptor=no_descriptor,
        too_long=get["ROC"] + get["RJC"],
        too_short=get["RUC"] + get["RFC"],
        crc_errors=max(get["CRCERRS"] - get["RJC"], 0),
        illegal=get["RXERRC"] + get["ALGNERRC"],
        bad_length=get["RLEC"],
    )
