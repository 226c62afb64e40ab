"""Initialisation of an 82576 and its kin: general control, receive, transmit, in the order of the datasheet.

The link is in link.py, statistics in counters.py, interrupts in irq.py. Sections are the 82576 datasheet's; where only
the group of registers is known, it is named (8.10: receive, 8.12: transmit). I350 and I210 go the same way but for what
`models` names. Where QEMU's igb does less than the book, the book is followed, and the place says what QEMU does.
"""

import time
from dataclasses import dataclass

from ixy_vfio.core.errors import DeadlineError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.datapath.format import Ring
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.igb import counters, irq, link
from ixy_vfio.drivers.igb import regs as r
from ixy_vfio.drivers.igb.models import Model
from ixy_vfio.drivers.queues import ADVANCED_ONE_BUFFER, HEADER_BUFFER, QUEUE_WAIT, STANDARD_MTU, come_to_rest

MAC_OVERHEAD = 14 + 4 + 4  # bytes of Ethernet header, CRC, and one VLAN tag, which RLPML counts
PREFETCH, RX_HOST, TX_HOST = 8, 8, 1  # thresholds of RXDCTL and TXDCTL: Linux's
WRITE_BACK = 1  # Linux's for the 82576 with MSI-X: more may keep a descriptor back
SETTLE = 10e-3  # seconds: Linux's, after receive and transmit were turned off
RSS = r.MRQC(mode=2, ipv4=1, tcp_ipv4=1, udp_ipv4=1, ipv6=1, tcp_ipv6=1, udp_ipv6=1)


@dataclass(frozen=True, slots=True)
class Setup:
    """What initialisation works from. `mac` is None for the address from the EEPROM; rings are (rx, tx) a queue."""

    model: Model
    config: PortConfig
    promiscuous: bool
    mac: bytes | None
    rings: tuple[tuple[Ring, Ring], ...]


def reset(bar: Mmio) -> list[str]:
    """From any state to that after power-on. Returns what was odd."""
    irq.disable_all(bar)
    software_reset(bar)
    irq.disable_all(bar)
    return wait_auto_read(bar)


def configure(bar: Mmio, setup: Setup) -> None:
    """After the reset, up to enabled queues; receive stays off."""
    driver_loaded(bar)
    link.start(bar, setup.model)
    counters.read_all(bar, len(setup.rings))
    initialise_receive(bar, setup)
    initialise_transmit(bar, setup)


def stop(bar: Mmio, queues: int) -> list[str]:
    """No more interrupts, no more DMA. Returns what did not become idle in time."""
    irq.disable_all(bar)
    notes = disable_receive(bar, queues)
    notes += disable_transmit(bar, queues)
    time.sleep(SETTLE)
    driver_loaded(bar, False)
    if not disable_master(bar):  # its read is answered only when all writes before it have arrived
        notes.append("PCIe requests are still under way (STATUS.GIO_MASTER_ENABLE is 1)")
    return notes


# --- General control -----------------------------------------------------------------------------------------------


@section("4.2.1.6.1")
def software_reset(bar: Mmio) -> None:
    """Software reset of this port. Should it not come to rest before, a second one undoes what late completions did."""
    at_rest = disable_master(bar)
    r.RCTL().write(bar)
    r.TCTL(psp=1).write(bar)
    r.STATUS.read(bar)
    time.sleep(SETTLE)
    for _ in range(1 if at_rest else 2):
        r.CTRL.read(bar).replace(rst=1).write(bar)
        time.sleep(1e-3)  # 4.2.1.6.1: no access within 1 ms
        r.CTRL.wait(bar, rst=0, within=0.1)


@section("8.2")
def disable_master(bar: Mmio) -> bool:
    """No new PCIe requests; wait for those under way. Whether they ended in time."""
    return come_to_rest(bar, r.CTRL, r.STATUS)


@section("8.4")
def wait_auto_read(bar: Mmio) -> list[str]:
    """Wait until the device has loaded its defaults. Some boards have no EEPROM, so it is noted; QEMU never says so."""
    try:
        r.EECD.wait(bar, auto_rd=1, within=0.1)
    except DeadlineError as error:
        return [f"the EEPROM was not read to its end; going on without ({error})"]
    return []


@section("8.2")
def driver_loaded(bar: Mmio, loaded: bool = True) -> None:
    """Tell firmware whether a driver is there. Packets have no outer VLAN tag that the device would have to know of."""
    r.CTRL_EXT.modify(bar, drv_load=int(loaded), ext_vlan=0)


# --- 8.10 Receive --------------------------------------------------------------------------------------------------


@section("8.10")
def initialise_receive(bar: Mmio, setup: Setup) -> None:
    """Filters, lengths, rings. RCTL.RXEN stays 0. VLAN tags stay in their packets, and none is filtered by its tag."""
    r.CTRL.modify(bar, vme=0)
    r.ADDRESSES.clear(bar, setup.model.addresses)
    if setup.mac is not None:
        write_mac(bar, setup.mac)
    r.RCTL.modify(bar, sbp=0, lbm=0, vfe=0, secrc=1, lpe=int(setup.config.mtu > STANDARD_MTU))
    write_promiscuous(bar, setup.promiscuous)
    if setup.config.mtu > STANDARD_MTU:  # up to it the device's own limit of 1518 bytes holds, 1522 with a tag
        r.RLPML(rlpml=setup.config.mtu + MAC_OVERHEAD).write(bar)
    spread_over_queues(bar, setup.config.queues)
    for queue, (ring, _) in enumerate(setup.rings):
        initialise_receive_queue(bar, queue, ring, setup)


write_mac, read_mac = section("8.10")(r.ADDRESSES.write), section("8.10")(r.ADDRESSES.read)


@section("8.10")
def write_promiscuous(bar: Mmio, on: bool) -> None:
    """Packets to the port and to all; to everybody only when asked."""
    r.RCTL.modify(bar, upe=int(on), mpe=int(on), bam=1)


@section("8.10")
def spread_over_queues(bar: Mmio, queues: int) -> None:
    """RSS: the queue follows from a hash of addresses and ports. With one queue there is none."""
    r.RXCSUM.modify(bar, ipofld=1, tuofld=1, pcsd=int(queues > 1))
    if queues == 1:
        r.MRQC().write(bar)
        return
    r.SPREAD.write(bar, queues)
    RSS.write(bar)


@section("8.10")
def initialise_receive_queue(bar: Mmio, queue: int, ring: Ring, setup: Setup) -> None:
    """One ring, empty, to be enabled with RCTL.RXEN. Queue 0 is enabled after a reset, and so is disabled first."""
    control = r.RXDCTL(pthresh=PREFETCH, hthresh=RX_HOST, wthresh=WRITE_BACK)
    control.write(bar, queue)
    r.RX.place(bar, queue, ring)
    r.SRRCTL(
        bsizepacket=setup.config.buffer_size // 1024,
        bsizeheader=HEADER_BUFFER,
        desctype=ADVANCED_ONE_BUFFER,
        drop_en=int(setup.config.queues > 1),  # one slow queue must not block the others
    ).write(bar, queue)
    if setup.model.later:
        r.DVMOLR.modify(bar, queue, strcrc=1)
    r.RX.require_empty(bar, queue)
    control.replace(enable=1).write(bar, queue)


@section("8.10")
def enable_receive(bar: Mmio, queues: int) -> None:
    """Let packets in. A queue says that it is enabled only from here on (8.10.10); QEMU's says so at once.

    Should its start have cleared the tail, it is written again: it never is 0, for descriptors are given by blocks.
    """
    tails = [r.RDT.read(bar, queue) for queue in range(queues)]
    r.RCTL.modify(bar, rxen=1)
    for queue, tail in enumerate(tails):
        r.RXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
        if tail.tail and not r.RDT.read(bar, queue).tail:
            tail.write(bar, queue)


@section("8.10")
def disable_receive(bar: Mmio, queues: int) -> list[str]:
    """No more queues, each until it says that it is idle, then no more packets. Returns what was not idle in time."""
    notes = r.RX.disable(bar, queues)
    r.RCTL.modify(bar, rxen=0)
    return notes


# --- 8.12 Transmit -------------------------------------------------------------------------------------------------


@section("8.12")
def initialise_transmit(bar: Mmio, setup: Setup) -> None:
    """Padding, rings; the queues are enabled and empty. Queue 0 is enabled after a reset, and so is disabled first."""
    r.TCTL.modify(bar, en=1, psp=1)
    control = r.TXDCTL(pthresh=PREFETCH, hthresh=TX_HOST, wthresh=WRITE_BACK)
    for queue, (_, ring) in enumerate(setup.rings):
        control.write(bar, queue)
        r.TX.place(bar, queue, ring)
        control.replace(enable=1).write(bar, queue)
        r.TXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
        r.TX.require_empty(bar, queue)


@section("8.12")
def disable_transmit(bar: Mmio, queues: int) -> list[str]:
    """Send what is in the rings, then disable them. Returns what did not become idle in time."""
    notes = r.TX.disable(bar, queues, drain=True)
    r.TCTL.modify(bar, en=0)
    return notes
