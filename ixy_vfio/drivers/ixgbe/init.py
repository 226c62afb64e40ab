"""Initialisation by the 82599 datasheet (revision 3.4): one function a section, in the order of the book.

`reset` and `configure` run them in the order that section 4.6.3 wants. The link (4.6.4) is in link.py, statistics
(4.6.5) in counters.py, interrupts (4.6.6) in irq.py. X540 and X550 go the same way but for the link and the size of
their packet buffer; that was never run on one.
"""

import time
from dataclasses import dataclass

from ixy_vfio.core.errors import DeadlineError, DeviceError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.datapath.format import Ring
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import counters, eeprom, irq
from ixy_vfio.drivers.ixgbe.link import Retry
from ixy_vfio.drivers.ixgbe.models import Model
from ixy_vfio.drivers.ixgbe.regs import general as g
from ixy_vfio.drivers.ixgbe.regs import mac as m
from ixy_vfio.drivers.ixgbe.regs import packet as p
from ixy_vfio.drivers.port import DESCRIPTOR

MAC_OVERHEAD = 18  # bytes of Ethernet header and CRC
STANDARD_MTU = 1500
ADVANCED_ONE_BUFFER = 1  # SRRCTL.DESCTYPE
HEADER_BUFFER = 4  # SRRCTL.BSIZEHEADER after reset; without header split it has no effect
MAX_REQUEST = 0xFFF  # DTXMXSZRQ without DCB (4.6.11.3.4): all that its 12 bits hold
LONGEST_PACKET = 10  # KiB, for TXPBTHRESH (DPDK's figure)
PREFETCH, HOST, WRITE_BACK = 32, 1, 4  # TXDCTL thresholds: DPDK's, Linux's (0 may hang), a cache line as in ixy
QUEUE_WAIT = 0.1  # seconds; Linux gives a queue 10 ms
# The key repeats 6D5A, so that both directions of a connection hash alike: Woo and Park, "Scalable TCP session
# monitoring with symmetric receive-side scaling", 2012.
RSS_KEY_WORD = 0x5A6D5A6D
RSS = p.MRQC(mrqe=1, ipv4=1, tcp_ipv4=1, udp_ipv4=1, ipv6=1, tcp_ipv6=1, udp_ipv6=1)


@dataclass(frozen=True, slots=True)
class Setup:
    """What initialisation works from. `mac` is None for the address from the EEPROM; rings are (rx, tx) a queue."""

    model: Model
    config: PortConfig
    promiscuous: bool
    mac: bytes | None
    rings: tuple[tuple[Ring, Ring], ...]
    link: Retry


def reset(bar: Mmio) -> list[str]:
    """4.6.3, first half: from any state to that after power-on. Returns what was odd."""
    irq.disable_all(bar)
    global_reset(bar)
    irq.disable_all(bar)
    eeprom.wait_auto_read(bar)
    notes = wait_manageability(bar)
    wait_dma(bar)
    return notes


def stop(bar: Mmio, queues: int) -> list[str]:
    """No more interrupts, no more DMA. Returns what did not become idle in time."""
    irq.disable_all(bar)
    notes = disable_receive(bar, queues)
    notes += disable_transmit(bar, queues)
    driver_loaded(bar, False)
    g.STATUS.read(bar)  # answered only when all writes before it have arrived
    return notes


def configure(bar: Mmio, setup: Setup) -> None:
    """4.6.3, second half: up to enabled queues; receive stays off."""
    driver_loaded(bar)
    setup.link.start()
    counters.initialise(bar)
    initialise_receive(bar, setup)
    initialise_transmit(bar, setup)


@section("4.6.3.2")
def global_reset(bar: Mmio) -> None:
    """Software reset and link reset at once, after the device has come to rest on PCIe."""
    at_rest = disable_master(bar)
    for _ in range(1 if at_rest else 2):  # 5.2.5.3.2: a second reset removes what late completions did to the first
        g.CTRL.read(bar).replace(lrst=1, rst=1).write(bar)
        time.sleep(1e-3)  # 8.2.3.1.1: no access within about 1 ms
        g.CTRL.wait(bar, rst=0, lrst=0, within=0.1)
        time.sleep(10e-3)  # 4.6.3.2


@section("5.2.5.3.2")
def disable_master(bar: Mmio) -> bool:
    """No new PCIe requests; wait for those under way. Whether they ended in time."""
    g.CTRL.modify(bar, master_disable=1)
    try:
        g.STATUS.wait(bar, master_enable=0, within=0.1)
    except DeadlineError:
        return False
    return True


@section("4.6.3")
def wait_manageability(bar: Mmio) -> list[str]:
    """Wait until firmware has configured the port. A board without such firmware may never say so: noted."""
    second_port = g.STATUS.read(bar).lan_id == 1
    try:
        if second_port:
            g.EEMNGCTL.wait(bar, cfg_done1=1, within=0.1)
        else:
            g.EEMNGCTL.wait(bar, cfg_done0=1, within=0.1)
    except DeadlineError as error:
        return [f"manageability firmware did not finish; going on without ({error})"]
    return []


@section("4.6.3")
def wait_dma(bar: Mmio) -> None:
    """Wait until the receive DMA block is initialised."""
    p.RDRXCTL.wait(bar, dmaidone=1, within=1.0)


@section("4.6.3")
def driver_loaded(bar: Mmio, loaded: bool = True) -> None:
    """Tell firmware whether a driver is there."""
    g.CTRL_EXT.modify(bar, drv_load=int(loaded))


# --- 4.6.7 Receive -------------------------------------------------------------------------------------------------


@section("4.6.7")
def initialise_receive(bar: Mmio, setup: Setup) -> None:
    """Filters, packet buffer, rings; the queues are enabled and empty. RXCTRL.RXEN stays 0."""
    p.RXCTRL.modify(bar, rxen=0)
    clear_filters(bar)
    if setup.mac is not None:
        write_mac(bar, setup.mac)
    write_promiscuous(bar, setup.promiscuous)
    p.VLNCTRL.modify(bar, vfe=0)
    p.RFCTL.modify(bar, rsc_dis=1)
    for i in range(p.RXPBSIZE.row.count):
        p.RXPBSIZE(size=setup.model.rx_buffer if i == 0 else 0).write(bar, i)
    set_frame_size(bar, setup.config.mtu)
    p.RDRXCTL.modify(bar, crcstrip=1, rscfrstsize=0, rscackc=1, fcoe_wrfix=1)
    spread_over_queues(bar, setup.config.queues)
    for queue, (ring, _) in enumerate(setup.rings):
        initialise_receive_queue(bar, queue, ring, setup.config)
    g.CTRL_EXT.modify(bar, ns_dis=1)


@section("4.6.7")
def clear_filters(bar: Mmio) -> None:
    """No address but that of the port, no multicast. The tables are memory: undefined until written."""
    for i in range(1, p.RAH.row.count):
        p.RAH(av=0).write(bar, i)
    for i in range(p.MTA.row.count):
        p.MTA().write(bar, i)
    for i in range(p.UTA.row.count):
        p.UTA().write(bar, i)
    p.MCSTCTRL.modify(bar, mfe=0)


@section("4.6.7")
def write_mac(bar: Mmio, address: bytes) -> None:
    """Receive address 0. The high half, with the valid bit, is written last."""
    p.RAL(address=int.from_bytes(address[:4], "little")).write(bar)
    p.RAH(address=int.from_bytes(address[4:], "little"), av=1).write(bar)


@section("4.6.7")
def read_mac(bar: Mmio) -> bytes:
    """Receive address 0; after a reset the one from the EEPROM."""
    low, high = p.RAL.read(bar), p.RAH.read(bar)
    return low.address.to_bytes(4, "little") + high.address.to_bytes(2, "little")


@section("4.6.7")
def write_promiscuous(bar: Mmio, on: bool) -> None:
    """Packets to the port and to all; to everybody only when asked. Bad packets never."""
    p.FCTRL.modify(bar, sbp=0, mpe=int(on), upe=int(on), bam=1)


@section("4.6.7")
def set_frame_size(bar: Mmio, mtu: int) -> None:
    """The longest packet to receive. Up to the standard MTU the device's own limit of 1518 bytes holds."""
    if mtu > STANDARD_MTU:
        m.MAXFRS.modify(bar, mfs=mtu + MAC_OVERHEAD)
    m.HLREG0.modify(bar, rxcrcstrp=1, jumboen=int(mtu > STANDARD_MTU))


@section("4.6.7")
def spread_over_queues(bar: Mmio, queues: int) -> None:
    """RSS (7.1.2.8): the queue follows from a hash of addresses and ports. With one queue there is none."""
    if queues == 1:
        p.MRQC().write(bar)
        return
    for i in range(p.RSSRK.row.count):
        p.RSSRK(key=RSS_KEY_WORD).write(bar, i)
    for i in range(p.RETA.row.count):
        entry0, entry1, entry2, entry3 = (n % queues for n in range(4 * i, 4 * i + 4))
        p.RETA(entry0=entry0, entry1=entry1, entry2=entry2, entry3=entry3).write(bar, i)
    p.RXCSUM.modify(bar, pcsd=1)
    RSS.write(bar)


@section("4.6.7")
def initialise_receive_queue(bar: Mmio, queue: int, ring: Ring, config: PortConfig) -> None:
    """One ring, enabled and empty. Without relaxed ordering: a descriptor must not overtake its packet."""
    p.RDBAL(base=ring.iova & 0xFFFF_FFFF).write(bar, queue)
    p.RDBAH(base=ring.iova >> 32).write(bar, queue)
    p.RDLEN(len=ring.descriptors * DESCRIPTOR).write(bar, queue)
    p.SRRCTL(
        bsizepacket=config.buffer_size // 1024,
        bsizeheader=HEADER_BUFFER,
        desctype=ADVANCED_ONE_BUFFER,
        drop_en=int(config.queues > 1),  # one slow queue must not block the others; a single one may use the buffer
    ).write(bar, queue)
    p.DCA_RXCTRL.modify(bar, queue, bit12=0, data_wro=0, head_wro=0)
    p.RXDCTL.modify(bar, queue, enable=1, vme=0)
    p.RXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
    if p.RDH.read(bar, queue).head or p.RDT.read(bar, queue).tail:
        raise DeviceError(f"receive queue {queue} is not empty after the reset: RDH or RDT is not 0")


@section("4.6.7")
def enable_receive(bar: Mmio, queues: int) -> None:
    """Let packets in, whatever the number of queues: halt the receive path, enable receive, let it go on."""
    _set_rxen(bar, 1)


def _set_rxen(bar: Mmio, on: int) -> None:
    p.SECRXCTRL.modify(bar, rx_dis=1)
    p.SECRXSTAT.wait(bar, secrx_rdy=1, within=QUEUE_WAIT)
    p.RXCTRL.modify(bar, rxen=on)
    p.SECRXCTRL.modify(bar, rx_dis=0)


@section("4.6.7.1.2")
def disable_receive(bar: Mmio, queues: int) -> list[str]:
    """No more packets, then no more queues. Returns what did not become idle in time."""
    notes = []
    try:
        _set_rxen(bar, 0)
    except DeadlineError as error:
        notes.append(f"the receive path did not become empty ({error})")
        p.RXCTRL.modify(bar, rxen=0)
    for queue in range(queues):
        p.RXDCTL.modify(bar, queue, enable=0)
    for queue in range(queues):
        try:
            p.RXDCTL.wait(bar, queue, enable=0, within=QUEUE_WAIT)
        except DeadlineError as error:
            notes.append(f"receive queue {queue} is still enabled ({error})")
    time.sleep(100e-6)  # 4.6.7.1.2: descriptors on chip are written back before their memory is used again
    return notes


# --- 4.6.8 Transmit ------------------------------------------------------------------------------------------------


@section("4.6.8")
def initialise_transmit(bar: Mmio, setup: Setup) -> None:
    """CRC and padding, packet buffer, rings; the queues are enabled and empty."""
    m.HLREG0.modify(bar, txcrcen=1, txpaden=1)
    set_transmit_buffers(bar, setup.model)
    clear_rate_limits(bar)
    p.DMATXCTL.modify(bar, te=1)
    for queue, (_, ring) in enumerate(setup.rings):
        initialise_transmit_queue(bar, queue, ring)


@section("4.6.11.3.4")
def set_transmit_buffers(bar: Mmio, model: Model) -> None:
    """Without DCB and virtualisation: one packet buffer for all queues. The arbiter rests while this changes."""
    p.RTTDCS.modify(bar, arbdis=1)
    p.DTXMXSZRQ(max_bytes_num_req=MAX_REQUEST).write(bar)
    for i in range(p.TXPBSIZE.row.count):
        p.TXPBSIZE(size=model.tx_buffer if i == 0 else 0).write(bar, i)
    for i in range(p.TXPBTHRESH.row.count):
        p.TXPBTHRESH(thresh=model.tx_buffer - LONGEST_PACKET if i == 0 else 0).write(bar, i)
    p.MTQC(rt_ena=0, vt_ena=0, num_tc_or_q=0).write(bar)
    p.RTTDCS.modify(bar, arbdis=0)


@section("4.6.8")
def clear_rate_limits(bar: Mmio) -> None:
    """No queue has a rate limit. A table behind one window, so as in Linux and DPDK no reset is trusted with it."""
    for queue in range(p.TDT.row.count):
        p.RTTDQSEL(txdq_idx=queue).write(bar)
        p.RTTBCNRC(rs_ena=0).write(bar)


@section("4.6.8")
def initialise_transmit_queue(bar: Mmio, queue: int, ring: Ring) -> None:
    """One ring, enabled and empty. Write-back without relaxed ordering (4.6.8, as Linux and DPDK)."""
    p.TDBAL(base=ring.iova & 0xFFFF_FFFF).write(bar, queue)
    p.TDBAH(base=ring.iova >> 32).write(bar, queue)
    p.TDLEN(len=ring.descriptors * DESCRIPTOR).write(bar, queue)
    p.DCA_TXCTRL.modify(bar, queue, desc_wro=0)
    p.TXDCTL.modify(bar, queue, pthresh=PREFETCH, hthresh=HOST, wthresh=WRITE_BACK)
    p.TXDCTL.modify(bar, queue, enable=1)
    p.TXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
    if p.TDH.read(bar, queue).head or p.TDT.read(bar, queue).tail:
        raise DeviceError(f"transmit queue {queue} is not empty after the reset: TDH or TDT is not 0")


@section("4.6.8.1.2")
def disable_transmit(bar: Mmio, queues: int) -> list[str]:
    """Send what is in the rings, then disable them. Returns what did not become idle in time."""
    notes = []
    for queue in range(queues):
        try:
            p.TDH.wait(bar, queue, head=p.TDT.read(bar, queue).tail, within=QUEUE_WAIT)
        except DeadlineError as error:
            notes.append(f"transmit queue {queue} was not sent to its end ({error})")
        p.TXDCTL.modify(bar, queue, enable=0)
    for queue in range(queues):
        try:
            p.TXDCTL.wait(bar, queue, enable=0, within=QUEUE_WAIT)
        except DeadlineError as error:
            notes.append(f"transmit queue {queue} is still enabled ({error})")
    p.DMATXCTL.modify(bar, te=0)
    return notes
