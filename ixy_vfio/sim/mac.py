"""The receiving MAC: which frames from the wire get into the packet buffer. 7.1.1, 8.2.3.7, 8.2.3.22."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import compiled, inlined
from ixy_vfio.core.unsafe import copy_bytes, load64, store64
from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.checksums import be16
from ixy_vfio.sim.classify import PIF, classify, learn_key
from ixy_vfio.sim.frames import GO_ON_AT_0, HEADER, at_frame, fifo_bytes, frame_length, space_of
from ixy_vfio.sim.records import add, registers_of, size_class, violate_once
from ixy_vfio.sim.state import COUNTER_INDEX, Int, Violation

_RXCTRL, _HLREG0, _MAXFRS = ixgbe.RXCTRL.offset() // 4, ixgbe.HLREG0.offset() // 4, ixgbe.MAXFRS.offset() // 4
_FCTRL, _VLNCTRL, _MCSTCTRL = ixgbe.FCTRL.offset() // 4, ixgbe.VLNCTRL.offset() // 4, ixgbe.MCSTCTRL.offset() // 4
_MTA, _VFTA, _RAL, _RAH = (row.offset() // 4 for row in (ixgbe.MTA, ixgbe.VFTA, ixgbe.RAL, ixgbe.RAH))
_RDRXCTL, _RXPBSIZE = ixgbe.RDRXCTL.offset() // 4, ixgbe.RXPBSIZE.offset() // 4
_RXEN = np.uint32(1)
CRC_STRIP = np.uint32(2)  # HLREG0.RXCRCSTRP and RDRXCTL.CRCSTRIP
_JUMBOEN = np.uint32(4)  # HLREG0
_MPE, _UPE, _BAM = np.uint32(1 << 8), np.uint32(1 << 9), np.uint32(1 << 10)  # FCTRL
_MFE = np.uint32(4)  # MCSTCTRL: the multicast table is in use
_CFI, _CFIEN, _VFE = np.uint32(1 << 28), np.uint32(1 << 29), np.uint32(1 << 30)  # VLNCTRL
_AV = np.uint32(1 << 31)  # RAH: address valid
_ADDRESSES = 128
_ADDRESS = np.uint64(0xFFFF_FFFF_FFFF)
_TPR, _TOR, _GPRC, _GORC = (COUNTER_INDEX[name] for name in ("TPR", "TOR", "GPRC", "GORC"))
_PRC64, _BPRC, _MPRC, _RXMPC = (COUNTER_INDEX[name] for name in ("PRC64", "BPRC", "MPRC", "RXMPC0"))
_RUC, _ROC, _RFC, _RJC = (COUNTER_INDEX[name] for name in ("RUC", "ROC", "RFC", "RJC"))
REJECTED, EXACT, INEXACT = 0, 1, 2


@inlined
def last_address(registers: Any) -> Int:
    """One past the last valid receive address (RAH.AV)."""
    count = np.intp(0)
    for i in range(_ADDRESSES):
        if registers[_RAH + 2 * i] & _AV:
            count = np.intp(i + 1)
    return count


@inlined
def is_own(registers: Any, addresses: Int, address: Int) -> Any:
    """Whether a destination address is one of RAL/RAH."""
    for i in range(addresses):
        high = registers[_RAH + 2 * i]
        own = np.uint64(registers[_RAL + 2 * i]) | np.uint64(high & np.uint32(0xFFFF)) << np.uint64(32)
        if own == address and high & _AV:
            return True
    return False


@inlined
def in_table(registers: Any, address: Int) -> Any:
    """Whether the multicast table (MTA) has the 12 bits of the address that MCSTCTRL.MO selects."""
    control = registers[_MCSTCTRL]
    if not control & _MFE:
        return False
    shift = np.uint64(36) - np.uint64(control & np.uint32(3))  # MO 0: bits 47:36, 1: 46:35, 2: 45:34, 3: 43:32
    if control & np.uint32(3) == 3:
        shift = np.uint64(32)
    index = np.intp(address >> shift & np.uint64(0xFFF))
    return registers[_MTA + (index >> 5)] >> np.uint32(index & 31) & np.uint32(1) != 0


@inlined
def passes_address(registers: Any, addresses: Int, address: Int) -> Any:
    """The destination address filter (7.1.1.1): REJECTED, EXACT or INEXACT."""
    control = registers[_FCTRL]
    if is_own(registers, addresses, address):
        return EXACT
    if not address & np.uint64(1):
        return INEXACT if control & _UPE else REJECTED
    if address == _ADDRESS:
        return EXACT if control & _BAM else REJECTED
    return INEXACT if control & _MPE or in_table(registers, address) else REJECTED


@inlined
def passes_vlan(registers: Any, data: Any, at: Int) -> Any:
    """The VLAN filter (7.1.1.2), for the tagged frame at data[at:]."""
    control, tag = registers[_VLNCTRL], be16(data, at + 14)
    if not control & _VFE:
        return True
    if control & _CFIEN and (tag >> np.uint32(12) & np.uint32(1)) != np.uint32(control & _CFI != 0):
        return False
    vlan = np.intp(tag & np.uint32(0xFFF))
    return registers[_VFTA + (vlan >> 5)] >> np.uint32(vlan & 31) & np.uint32(1) != 0


@inlined
def has_length(port: Any, registers: Any, length: Int, tagged: bool) -> Any:
    """The length rules for a frame of `length` bytes without CRC: 64 to 1518, or to MAXFRS with JUMBOEN."""
    longest = np.intp(1518)
    if registers[_HLREG0] & _JUMBOEN:
        longest = np.intp(registers[_MAXFRS] >> np.uint32(16))
    if length + 4 < 64:
        add(port, _RUC, 1)
        return False
    if length + 4 > longest + (4 if tagged else 0):
        add(port, _ROC, 1)
        return False
    return True


@inlined
def check_frame(port: Any, registers: Any, data: Any, position: Int, length: Int, addresses: Int) -> Int:
    """REJECTED, EXACT or INEXACT; counts what does not depend on the packet buffer."""
    at = position + HEADER
    tagged = length >= 18 and be16(data, at + 12) == registers[_VLNCTRL] & np.uint32(0xFFFF)
    if not has_length(port, registers, length, tagged):
        return REJECTED
    address = load64(data, at) & _ADDRESS
    verdict = passes_address(registers, addresses, address)
    if verdict == REJECTED or (tagged and not passes_vlan(registers, data, at)):
        return REJECTED
    add(port, _PRC64 + size_class(length + 4), 1)
    if address & np.uint64(1):
        add(port, _BPRC if address == _ADDRESS else _MPRC, 1)
    return verdict


@inlined
def keep(fifo: Any, data: Any, position: Int, write: Int, length: Int) -> Any:
    """Move a frame down to `write`, where the frames before it end; returns its new position."""
    if write == position:
        return position
    if write + space_of(length) > np.intp(fifo.capacity):
        if write < np.intp(fifo.capacity):
            store64(data, write, GO_ON_AT_0)
        write = np.intp(0)
    if write != position:
        copy_bytes(data, write, data, position, space_of(length))
    return write


@compiled
def receive_from_wire(port: Any, fifo: Any) -> Int:
    """Put the pending frames of a packet buffer through the MAC; returns how many there were.

    Frames that are not wanted, or do not fit, are squeezed out.
    """
    registers, data, frames = registers_of(port), fifo_bytes(fifo), np.intp(fifo.pending)
    read = write = np.intp(fifo.checked)
    fifo.pending = np.uint64(0)
    if not (port.link_up and registers[_RXCTRL] & _RXEN):
        fifo.tail = fifo.checked
        return frames
    if (registers[_HLREG0] ^ registers[_RDRXCTL]) & CRC_STRIP:
        violate_once(port, Violation.CRC_STRIP, 0, 0)
    learn_key(port, registers)
    addresses = last_address(registers)
    buffer = np.uint64(registers[_RXPBSIZE] & np.uint32(0xFFC00))
    octets, good, good_octets = np.intp(0), np.intp(0), np.intp(0)
    for _ in range(frames):
        position = at_frame(fifo, data, read)
        length = frame_length(data, position)
        read = position + space_of(length)
        octets += length + 4
        verdict = check_frame(port, registers, data, position, length, addresses)
        if verdict == REJECTED:
            continue
        good += 1
        good_octets += length + 4
        if fifo.bytes + np.uint64(length + 4) > buffer:
            add(port, _RXMPC, 1)
            continue
        status, info, queue = classify(port, registers, data, position, length)
        if verdict == INEXACT:
            status |= PIF
        position = keep(fifo, data, position, write, length)
        store64(
            data, position, np.uint64(length) | np.uint64(queue) << np.uint64(16) | np.uint64(status) << np.uint64(32)
        )
        store64(data, position + 8, info)
        write = position + space_of(length)
        fifo.frames += np.uint64(1)
        fifo.bytes += np.uint64(length + 4)
    fifo.tail = fifo.checked = np.uint64(write)
    add(port, _TPR, frames)
    add(port, _TOR, octets)
    add(port, _GPRC, good)
    add(port, _GORC, good_octets)
    return frames
