"""The state that the compiled data plane works on: record layouts, counters and violations by name.

One record a port, one a queue, one a frame FIFO. Addresses in records are of memory that the Python objects of
`dataplane.py` keep alive. `ports[i]`, `fifos[i]` and row i of the queue arrays belong together; FIFO i is the packet
buffer of port i, FIFO MAX_PORTS + i holds what port i sends into a cable that is no other port.
"""

from enum import IntEnum
from typing import Any, Self, TypeAlias

import numpy as np

from ixy_vfio.hw import ixgbe

# An integer in compiled code: np.intp for positions and counts, np.uint32 or np.uint64 for what registers and
# descriptors hold. To the type checker they are different types, to the compiler each is what it was computed as.
Int: TypeAlias = Any

MAX_PORTS = 32  # a PCI bus has 32 devices, and port N is device N
QUEUES = ixgbe.RX_QUEUES
NO_FLOW = 255  # a sink that checks nothing
UNTOUCHED = 1 << 32
SEEN = 65536  # sequence numbers of which a sink knows whether they have come
NO_CABLE = 255  # `outgoing` of a port whose frames go nowhere

# Counters by register name. Octet counters carry one name for their low and high register. Counters of queues are those
# of the 16 statistics registers that RQSMR and TQSM map queues to.
COUNTERS: tuple[str, ...] = (
    "CRCERRS", "ILLERRC", "ERRBC", "RLEC", "RUC", "RFC", "ROC", "RJC", "MSPDC", "MLFC", "MRFC", "XEC",
    "GPRC", "GORC", "BPRC", "MPRC", "TPR", "TOR", "PRC64", "PRC127", "PRC255", "PRC511", "PRC1023", "PRC1522",
    "GPTC", "GOTC", "BPTC", "MPTC", "TPT", "PTC64", "PTC127", "PTC255", "PTC511", "PTC1023", "PTC1522",
    "RXDGPC", "RXDGBC", "TXDGPC", "TXDGBC", "SSVPC",
    *(f"RXMPC{i}" for i in range(8)),
    *(f"RNBC{i}" for i in range(8)),
    *(f"{name}{i}" for name in ("QPRC", "QBRC", "QPRDC", "QPTC", "QBTC") for i in range(16)),
)  # fmt: skip
COUNTER_INDEX: dict[str, int] = {name: index for index, name in enumerate(COUNTERS)}
COUNTER_INDEX["MPC"] = COUNTER_INDEX["RXMPC0"]


class Violation(IntEnum):
    """What a driver can do wrong, as the data plane sees it; `text` is what the violation says."""

    text: str

    def __new__(cls, text: str) -> Self:
        """Members are numbered from 0 in the order they stand."""
        member = int.__new__(cls, len(cls.__members__))
        member._value_ = len(cls.__members__)
        member.text = text
        return member

    TX_DOORBELL_DISABLED = "TX doorbell while TXDCTL.ENABLE is 0"
    RX_DOORBELL_DISABLED = "RX doorbell while RXDCTL.ENABLE is 0"
    TX_BASE = "TX ring base is not aligned to 128 bytes"
    RX_BASE = "RX ring base is not aligned to 128 bytes"
    TDLEN = "TDLEN is 0, above 512 KiB or no multiple of 128"
    RDLEN = "RDLEN is 0, above 512 KiB or no multiple of 128"
    TDT_OUTSIDE = "TDT is outside the ring"
    RDT_OUTSIDE = "RDT is outside the ring"
    TDH_WRITTEN = "TDH was written while the queue was enabled"
    RDH_WRITTEN = "RDH was written while the queue was enabled"
    TX_RING_CHANGED = "TDBA or TDLEN was changed while the queue was enabled"
    RX_RING_CHANGED = "RDBA or RDLEN was changed while the queue was enabled"
    TX_RESERVED = "TX descriptor has reserved bits set"
    TX_TYPE = "TX descriptor has an unknown DTYP"
    TX_EMPTY_BUFFER = "TX descriptor has a buffer of 0 bytes"
    TX_RS_WITHOUT_EOP = "TX descriptor has RS without EOP"
    TX_MIXED = "TX descriptor differs in IFCS, VLE, TSE or DEXT from the first of its packet"
    TX_PAYLEN = "TX packet is not as long as its PAYLEN"
    TX_TOO_MANY = "TX packet has more than 40 descriptors"
    TX_TOO_SHORT = "TX packet is shorter than 17 bytes"
    TX_TOO_LONG = "TX packet is longer than 15.5 KiB"
    TX_WITHOUT_IFCS = "TX packet without IFCS (its CRC would be missing)"
    TX_NO_CONTEXT = "TX packet uses a context that was never set"
    TX_BAD_CONTEXT = "TX context does not fit the packet"
    TX_CONTEXT_INSIDE = "TX context descriptor inside a packet"
    RX_DESCRIPTOR_DONE = "RX descriptor still holds a write-back (DD is set)"
    RX_NO_BUFFER = "RX descriptor has no buffer (address 0)"
    DESCTYPE = "SRRCTL.DESCTYPE is not supported (legacy and advanced one buffer are)"
    BSIZEPACKET = "SRRCTL.BSIZEPACKET is 0 or above 16 KiB"
    CRC_STRIP = "HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP differ"


SCRATCH = (256 << 10) + (64 << 10)  # the largest segmentation, and what one descriptor may be too much
MISSES_KEPT = 16
VIOLATIONS_KEPT = 64

PORT = np.dtype([
    ("registers", np.uint64),  # address of BAR0
    ("bus_master", np.uint8),
    ("link_up", np.uint8),
    ("outgoing", np.uint8),  # FIFO that sent frames go to, or NO_CABLE
    ("windows", np.uint64),  # address of the DMA windows, WINDOW_WORDS words each (dma.py)
    ("window_count", np.uint64),  # rows of that
    ("scratch", np.uint64),  # address of SCRATCH bytes: a packet that is to be segmented
    ("misses", np.uint64),
    ("missed", np.uint64, (3 * MISSES_KEPT,)),  # ring of iova, length, write
    ("first_transmit_queue", np.uint8),  # which queue has its turn first at the next step
    ("reported", np.uint64),  # bit per Violation that is recorded once until reset
    ("violations", np.uint64),
    ("violated", np.uint64, (3 * VIOLATIONS_KEPT,)),  # ring of kind, queue, value
    ("receive_causes", np.uint8, (QUEUES,)),
    ("transmit_causes", np.uint8, (QUEUES,)),
    ("receive_tails", np.uint32, (QUEUES,)),  # tails and enable bits as seen at the last step: together in few
    ("receive_enabled", np.uint8, (QUEUES,)),  # cache lines, since each step looks at all queues
    ("transmit_tails", np.uint32, (QUEUES,)),
    ("transmit_enabled", np.uint8, (QUEUES,)),
    ("hash_ready", np.uint8),  # RSSRK has been tabulated, as it was when it said:
    ("hash_key", np.uint32, (10,)),
    ("hash_table", np.uint32, (36 * 256,)),  # Toeplitz hash by position and value of an input byte
    ("statistics", np.uint64, (len(COUNTERS),)),
])  # fmt: skip

QUEUE = np.dtype([
    ("running", np.uint8),  # enabled with a sound ring; off after a descriptor could not be read or written
    ("head", np.uint32),
    ("tail", np.uint32),
    ("count", np.uint32),  # descriptors in the ring
    ("base", np.uint64),
    ("length", np.uint32),  # as the length register says, in bytes
    ("ring_row", np.int64),  # DMA windows that served last, forgotten at each step
    ("data_row", np.int64),
    ("context", np.uint64, (4,)),  # the two TX contexts
    ("context_valid", np.uint8, (2,)),
])  # fmt: skip

FIFO = np.dtype([
    ("data", np.uint64),  # address of `capacity` bytes
    ("capacity", np.uint64),
    ("head", np.uint64),  # byte position of the oldest frame
    ("tail", np.uint64),  # one past the youngest
    ("checked", np.uint64),  # frames before this position have passed the MAC's filters
    ("frames", np.uint64),  # between head and checked
    ("pending", np.uint64),  # frames between checked and tail
    ("bytes", np.uint64),  # of frames between head and checked, CRC included: what fills the packet buffer
])  # fmt: skip

FLOW = np.dtype([
    ("active", np.uint8),
    ("number", np.uint8),  # of the port
    ("pace", np.uint8),
    ("expect", np.uint8),  # the port whose generator this sink checks, or NO_FLOW
    ("streams", np.uint16),
    ("smallest", np.uint16),
    ("largest", np.uint16),
    ("touched", np.uint64),  # byte that is not compared, or UNTOUCHED
    ("destination", np.uint64),  # addresses as they lie in the frame, read little-endian; 0: not known yet
    ("source", np.uint64),
    ("seed", np.uint64),
    ("count", np.uint64),
    ("cost_frame", np.float64),  # ns of the wire's time that a frame takes, and each of its bytes
    ("cost_byte", np.float64),
    ("credit", np.float64),  # ns that may still be used up
    ("last", np.uint64),  # when credit was given last
    ("sent", np.uint64),
    ("sent_bytes", np.uint64),
    ("received", np.uint64),
    ("received_bytes", np.uint64),
    ("following", np.uint64),  # one more than the highest sequence number received
    ("unique", np.uint64),
    ("duplicated", np.uint64),
    ("reordered", np.uint64),
    ("corrupted", np.uint64),
    ("foreign", np.uint64),  # frames that no generator sent
    ("latency_sum", np.uint64),
    ("latency_min", np.uint64),
    ("latency_max", np.uint64),
    ("latencies", np.uint64, (976,)),  # 16 buckets below 16 ns, then 16 for each power of two
    ("seen", np.uint64, (SEEN // 64,)),
])  # fmt: skip
