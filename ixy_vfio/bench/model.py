"""The NIC of the benchmark: two ports in memory, stepped inline, the same for every side that is measured.

Written for this purpose alone: neutral between the sides, and cheap, so that what it leaves in the caches is little
more than a NIC would. It believes nothing: every address is checked against the DMA memory, every descriptor
against the datasheet (7.1.6, 7.2.3); what is wrong is counted and fails the run. It writes all bytes of a received
packet, and reads all bytes of a sent one into a digest of the wire.
"""

# mypy: disable-error-code="type-arg"

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import bytes_at, copy_bytes, load_acquire, record_at, store_release, words32_at, words64_at

U = np.uint64

NIC = np.dtype(
    [
        ("rdt", "<u8"),  # address of the receive tail register
        ("tdt", "<u8"),
        ("memory", "<u8"),  # the DMA window: where it lies here, where the device sees it, its bytes
        ("iova", "<u8"),
        ("size", "<u8"),
        ("rx_ring", "<u8"),  # addresses of the rings, and their descriptors (a power of two)
        ("tx_ring", "<u8"),
        ("rx_size", "<u8"),
        ("tx_size", "<u8"),
        ("rdh", "<u8"),
        ("tdh", "<u8"),
        ("template", "<u8"),  # address of the 2048 bytes that a packet begins with
        ("lengths", "<u8"),  # address of uint32[64]: packet lengths, in turn
        ("received", "<u8"),
        ("sent", "<u8"),
        ("sent_bytes", "<u8"),
        ("errors", "<u8"),
        ("digest", "<u8"),  # of every byte sent, in order
        ("wire", "<u8"),  # address of a recording of what was sent (0: none), its size, how much is used
        ("wire_size", "<u8"),
        ("wire_used", "<u8"),
    ]
)
BENCH = np.dtype([("nics", NIC, 2), ("burst", "<u8")])  # packets that one step brings to each port
TEMPLATE, LENGTHS = 2048, 64
SEQUENCE_WORD = 5  # the packet's number lies in bytes 40 to 47; byte 48 is the one that a forwarder touches
BUFFER = 2048  # what a receive buffer must have room for


@inlined
def deliver(nic: Any, count: Any) -> Any:
    """Receive `count` packets, or as many as there are descriptors; returns how many."""
    tail = U(load_acquire(words32_at(nic.rdt, 1), 0))
    mask = nic.rx_size - U(1)
    ring = words64_at(nic.rx_ring, U(2) * nic.rx_size)
    lengths = words32_at(nic.lengths, LENGTHS)
    template = words64_at(nic.template, TEMPLATE // 8)
    head = nic.rdh
    done = U(0)
    if tail > mask:
        nic.errors += U(1)
        tail = head
    while done < count and head != tail:
        at = ring[U(2) * head] - nic.iova
        length = U(lengths[nic.received & U(LENGTHS - 1)])
        if at > nic.size - U(BUFFER) or ring[U(2) * head + U(1)] & U(1) or length > U(BUFFER):
            nic.errors += U(1)
        else:
            words = (length + U(7)) // U(8)
            packet = words64_at(nic.memory + at, BUFFER // 8)
            for i in range(words):
                packet[i] = template[i]
            packet[SEQUENCE_WORD] = nic.received
        ring[U(2) * head] = U(0)
        # 7.1.6.2: DD and EOP, no error, the length
        store_release(ring, U(2) * head + U(1), U(3) | length << U(32))
        head = (head + U(1)) & mask
        nic.received += U(1)
        done += U(1)
    nic.rdh = head
    return done


@inlined
def _digest(nic: Any, packet: Any, length: Any) -> None:
    """Take a packet's bytes into the digest: a sum over its words, weighted by place, chained to those before."""
    whole = length // U(8)
    total = length
    for i in range(whole):
        total += packet[i] * U(2 * i + 1)
    rest = length & U(7)
    if rest != U(0):
        total += (packet[whole] & ((U(1) << (U(8) * rest)) - U(1))) * U(0x9E3779B97F4A7C15)
    nic.digest = (nic.digest ^ total) * U(0x100000001B3)


@inlined
def _record(nic: Any, at: Any, length: Any) -> None:
    if nic.wire_used + length + U(2) > nic.wire_size:
        return
    wire = bytes_at(nic.wire, nic.wire_size)
    wire[nic.wire_used] = np.uint8(length & U(255))
    wire[nic.wire_used + U(1)] = np.uint8(length >> U(8))
    copy_bytes(wire, nic.wire_used + U(2), bytes_at(nic.memory + at, length), 0, length)
    nic.wire_used += length + U(2)


@inlined
def transmit(nic: Any) -> Any:
    """Send all that the driver has given; returns how many descriptors that were."""
    tail = U(load_acquire(words32_at(nic.tdt, 1), 0))
    mask = nic.tx_size - U(1)
    ring = words64_at(nic.tx_ring, U(2) * nic.tx_size)
    head = nic.tdh
    done = U(0)
    if tail > mask:
        nic.errors += U(1)
        tail = head
    while head != tail:
        at = ring[U(2) * head] - nic.iova
        word = ring[U(2) * head + U(1)]
        length = word & U(0xFFFF)
        # 7.2.3.2.4, one buffer a packet: DTYP 3, DEXT, IFCS, EOP, PAYLEN is the length; nothing else but RS
        wrong = word & U(0xFFFF_FFFF_F7FF_0000) != U(0x2330_0000) | length << U(46)
        if wrong or length < U(17) or length > U(BUFFER) or at > nic.size - U(BUFFER):
            nic.errors += U(1)
        else:
            _digest(nic, words64_at(nic.memory + at, BUFFER // 8), length)
            if nic.wire != U(0):
                _record(nic, at, length)
            nic.sent += U(1)
            nic.sent_bytes += length
        if word & U(1 << 27):  # RS: report
            ring[U(2) * head] = U(0)
            store_release(ring, U(2) * head + U(1), U(1 << 32))
        head = (head + U(1)) & mask
        done += U(1)
    nic.tdh = head
    return done


@compiled
def step(address: Any) -> Any:
    """Both ports of the BENCH at `address` send what they were given, then receive a burst. Returns what came in."""
    bench = record_at(address, BENCH)
    moved = U(0)
    for i in range(2):
        nic = bench.nics[i]
        transmit(nic)
    for i in range(2):
        nic = bench.nics[i]
        moved += deliver(nic, bench.burst)
    return moved
