"""Initialisation by the 82599 datasheet (revision 3.4): one function a section, in the order of the book.

`reset` and `configure` run them in the order that section 4.6.3 wants. The link (4.6.4) is in link.py, statistics
(4.6.5) in counters.py, interrupts (4.6.6) in irq.py. X540 and X550 go the same way but for the link and the size of
their packet buffer; that was never run on one.
"""

import time
from dataclasses import dataclass

from ixy_vfio.core.errors import DeadlineError
from ixy_vfio.core.mmio import Mmio, section
from ixy_vfio.datapath.format import Ring
from ixy_vfio.drivers.contract import PortConfig
from ixy_vfio.drivers.ixgbe import counters, eeprom, irq
from ixy_vfio.drivers.ixgbe.link import Retry
from ixy_vfio.drivers.ixgbe.models import Model
from ixy_vfio.drivers.ixgbe.regs import general as g
from ixy_vfio.drivers.ixgbe.regs import mac as m
from ixy_vfio.drivers.ixgbe.regs import packet as p
from ixy_vfio.drivers.queues import ADVANCED_ONE_BUFFER, HEADER_BUFFER, QUEUE_WAIT, STANDARD_MTU, come_to_rest

MAC_OVERHEAD = 18  # bytes of Ethernet header and CRC
MAX_REQUEST = 0xFFF  # DTXMXSZRQ without DCB (4.6.11.3.4): all that its 12 bits hold
LONGEST_PACKET = 10  # KiB, for TXPBTHRESH (DPDK's figure)
PREFETCH, HOST, WRITE_BACK = 32, 1, 4  # TXDCTL thresholds: DPDK's, Linux's (0 may hang), a cache line as in ixy
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
    return come_to_rest(bar, g.CTRL, g.STATUS)


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
    p.ADDRESSES.clear(bar, p.RAH.row.count)
    p.MCSTCTRL.modify(bar, mfe=0)


@section("4.6.7")
def write_mac(bar: Mmio, address: bytes) -> None:
    """Receive address 0. The high half, with the valid bit, is written last."""
    p.ADDRESSES.write(bar, address)


@section("4.6.7")
def read_mac(bar: Mmio) -> bytes:
    """Receive address 0; after a reset the one from the EEPROM."""
    return p.ADDRESSES.read(bar)


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
    p.SPREAD.write(bar, queues)
    p.RXCSUM.modify(bar, pcsd=1)
    RSS.write(bar)


@section("4.6.7")
def initialise_receive_queue(bar: Mmio, queue: int, ring: Ring, config: PortConfig) -> None:
    """One ring, enabled and empty. Without relaxed ordering: a descriptor must not overtake its packet."""
    p.RX.place(bar, queue, ring)
    p.SRRCTL(
        bsizepacket=config.buffer_size // 1024,
        bsizeheader=HEADER_BUFFER,
        desctype=ADVANCED_ONE_BUFFER,
        drop_en=int(config.queues > 1),  # one slow queue must not block the others; a single one may use the buffer
    ).write(bar, queue)
    p.DCA_RXCTRL.modify(bar, queue, bit12=0, data_wro=0, head_wro=0)
    p.RXDCTL.modify(bar, queue, enable=1, vme=0)
    p.RXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
    p.RX.require_empty(bar, queue)


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
    notes += p.RX.disable(bar, queues)
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
    p.TX.place(bar, queue, ring)
    p.DCA_TXCTRL.modify(bar, queue, desc_wro=0)
    p.TXDCTL.modify(bar, queue, pthresh=PREFETCH, hthresh=HOST, wthresh=WRITE_BACK)
    p.TXDCTL.modify(bar, queue, enable=1)
    p.TXDCTL.wait(bar, queue, enable=1, within=QUEUE_WAIT)
    p.TX.require_empty(bar, queue)


@section("4.6.8.1.2")
def disable_transmit(bar: Mmio, queues: int) -> list[str]:
    """Send what is in the rings, then disable them. Returns what did not become idle in time."""
    notes = p.TX.disable(bar, queues, drain=True)
    p.DMATXCTL.modify(bar, te=0)
    return notes
