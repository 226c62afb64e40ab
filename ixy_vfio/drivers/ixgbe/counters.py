"""Statistics: clear-on-read registers of 32 bits, gathered into totals of 64. Datasheet section 4.6.5."""

from collections import Counter
from collections.abc import Mapping

from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.core.registers import Register
from ixy_vfio.drivers.contract import Counters, Drops, QueueCounters
from ixy_vfio.drivers.ixgbe.regs.general import STATUS
from ixy_vfio.drivers.ixgbe.regs.mac import RQSMR, TQSM
from ixy_vfio.drivers.statistics import counter, wide
from ixy_vfio.hw import Register as Row
from ixy_vfio.hw import ixgbe as hw

QUEUE_COUNTERS = 16

# Counters of the port, in the order of section 8.2.3.23. Of arrays (one a packet buffer) the first is in use.
_PORT: tuple[Row, ...] = (
    *(hw.CRCERRS, hw.ILLERRC, hw.ERRBC, hw.MSPDC, hw.RXMPC, hw.MLFC, hw.MRFC, hw.RLEC),
    *(hw.LXONTXC, hw.LXOFFTXC, hw.LXONRXCNT, hw.LXOFFRXCNT),
    *(hw.PRC64, hw.PRC127, hw.PRC255, hw.PRC511, hw.PRC1023, hw.PRC1522),
    *(hw.GPRC, hw.BPRC, hw.MPRC, hw.GPTC, hw.RUC, hw.RFC, hw.ROC, hw.RJC, hw.MNGPRC, hw.MNGPDC, hw.MNGPTC),
    *(hw.TPR, hw.TPT, hw.PTC64, hw.PTC127, hw.PTC255, hw.PTC511, hw.PTC1023, hw.PTC1522, hw.MPTC, hw.BPTC, hw.XEC),
)
# 64-bit counters of the port: the low half is read first.
_PORT_WIDE = {"GORC": (hw.GORCL, hw.GORCH), "GOTC": (hw.GOTCL, hw.GOTCH), "TOR": (hw.TORL, hw.TORH)}
# The same of one queue. (QPTC stands where the 82599 has it; the 82598's place is an alias.)
_QUEUE = {"QPRC": hw.QPRC, "QPRDC": hw.QPRDC, "QPTC": hw.QPTC_82599}
_QUEUE_WIDE = {"QBRC": (hw.QBRC_L, hw.QBRC_H), "QBTC": (hw.QBTC_L, hw.QBTC_H)}

PORT: dict[str, type[Register]] = {row.name: counter(row) for row in _PORT}
PORT_WIDE = {name: (counter(low), counter(high)) for name, (low, high) in _PORT_WIDE.items()}
QUEUE: dict[str, type[Register]] = {name: counter(row) for name, row in _QUEUE.items()}
QUEUE_WIDE = {name: (counter(low), counter(high)) for name, (low, high) in _QUEUE_WIDE.items()}


def read_all(bar: Mmio, queues: int) -> dict[str, int]:
    """What was counted since the last read, by name; of queue i as `QPRC[i]`. **Clears the registers.**

    DeviceGone when the device went away while they were read: all ones are a value that a counter may have.
    """
    values = {name: int(register.read(bar)) for name, register in PORT.items()}
    values |= {name: wide(bar, halves) for name, halves in PORT_WIDE.items()}
    for name, register in QUEUE.items():
        values |= {f"{name}[{queue}]": int(register.read(bar, queue)) for queue in range(queues)}
    for name, halves in QUEUE_WIDE.items():
        values |= {f"{name}[{queue}]": wide(bar, halves, queue) for queue in range(queues)}
    STATUS.read(bar)
    return values


@section("4.6.5")
def initialise(bar: Mmio) -> None:
    """Give queue i counter i (after a reset all queues count in counter 0), and clear everything by reading it."""
    for n in range(QUEUE_COUNTERS // 4):
        RQSMR(map0=4 * n, map1=4 * n + 1, map2=4 * n + 2, map3=4 * n + 3).write(bar, n)
    for n in range(QUEUE_COUNTERS // 4):
        TQSM(map0=4 * n, map1=4 * n + 1, map2=4 * n + 2, map3=4 * n + 3).write(bar, n)
    read_all(bar, QUEUE_COUNTERS)


class Totals:
    """The sums of all reads since it was made."""

    def __init__(self, queues: int) -> None:
        self._queues = queues
        self._sums: Counter[str] = Counter()

    @section("4.6.5")
    def update(self, bar: Mmio) -> Counters:
        """Read (and so clear) the device's counters, and add them."""
        self._sums.update(read_all(bar, self._queues))
        get = self._sums
        queues = tuple(
            QueueCounters(
                get[f"QPRC[{i}]"], get[f"QBRC[{i}]"], get[f"QPRDC[{i}]"], get[f"QPTC[{i}]"], get[f"QBTC[{i}]"]
            )
            for i in range(self._queues)
        )
        drops = _drops(get, sum(queue.rx_dropped for queue in queues))
        return Counters(
            # GPRC counts missed packets as well (82599 erratum, as Linux and DPDK have it): the queues know better.
            rx_packets=sum(queue.rx_packets for queue in queues),
            rx_bytes=get["GORC"],
            rx_missed=get["RXMPC"],
            rx_errors=drops.wrong,
            tx_packets=get["GPTC"],
            tx_bytes=get["GOTC"],
            queues=queues,
            registers=dict(get),
            rx_waiting=max(get["GPRC"] - get["RXMPC"] - sum(one.rx_dropped + one.rx_packets for one in queues), 0),
            drops=drops,
        )


def _drops(get: Mapping[str, int], no_descriptor: int) -> Drops:
    """Each frame under one cause, as far as the datasheet (8.2.3.23) says how its counters overlap.

    CRCERRS counts every frame of 64 bytes and more with a wrong CRC, so those of RJC (too long as well) are among
    them. It does not say whether a frame that MSPDC counts (short, discarded by the MAC) is one of RUC's (shorter than
    64 bytes, good CRC) or RFC's (wrong CRC): the greater number counts none twice. A frame with an illegal symbol
    (ILLERRC) or an error symbol (ERRBC) may have a wrong CRC, too, and is counted under both.
    """
    return Drops(
        missed=get["RXMPC"],
        no_descriptor=no_descriptor,
        too_long=get["ROC"] + get["RJC"],
        too_short=max(get["RUC"] + get["RFC"], get["MSPDC"]),
        crc_errors=max(get["CRCERRS"] - get["RJC"], 0),
        illegal=get["ILLERRC"] + get["ERRBC"],
        bad_length=get["RLEC"],
    )
