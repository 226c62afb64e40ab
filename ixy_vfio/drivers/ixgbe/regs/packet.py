"""Receive, transmit and what lies between: 8.2.3.7 to 8.2.3.12."""

from ixy_vfio.core.registers import RO, RW, Register, bit, bits
from ixy_vfio.drivers import queues as q
from ixy_vfio.hw import ixgbe as hw

# --- 8.2.3.7 Receive -----------------------------------------------------------------------------------------------


MTA, UTA = q.table(hw.MTA), q.table(hw.UTA)
RAL, RAH = q.address_low(hw.RAL), q.address_high(hw.RAH)
RETA, RSSRK = q.rss_table(hw.RETA), q.rss_key(hw.RSSRK)
ADDRESSES, SPREAD = q.Filter(RAL, RAH, MTA, UTA), q.Spread(RSSRK, RETA)


class RXCSUM(Register, row=hw.RXCSUM, access=RW):
    """Receive checksum control."""

    pcsd: int = bit(13, "the descriptor has the RSS hash in place of the fragment checksum")


class RFCTL(Register, row=hw.RFCTL, access=RW):
    """Receive filter control."""

    rsc_dis: int = bit(5, "receive side coalescing disabled")


class FCTRL(Register, row=hw.FCTRL, access=RW):
    """Filter control."""

    sbp: int = bit(1, "store bad packets")
    mpe: int = bit(8, "multicast promiscuous")
    upe: int = bit(9, "unicast promiscuous")
    bam: int = bit(10, "accept broadcast")


class VLNCTRL(Register, row=hw.VLNCTRL, access=RW):
    """VLAN control."""

    vet: int = bits(0, 16, "VLAN EtherType")
    vfe: int = bit(30, "VLAN filter enable")


class MCSTCTRL(Register, row=hw.MCSTCTRL, access=RW):
    """Multicast control."""

    mo: int = bits(0, 2, "which bits of the address index MTA")
    mfe: int = bit(2, "multicast filter enable")


class MRQC(Register, row=hw.MRQC, access=RW):
    """Multiple receive queues."""

    mrqe: int = bits(0, 4, "0: one queue, 1: RSS over 16")
    tcp_ipv4: int = bit(16, "hash TCP over IPv4")
    ipv4: int = bit(17, "hash IPv4")
    ipv6: int = bit(20, "hash IPv6")
    tcp_ipv6: int = bit(21, "hash TCP over IPv6")
    udp_ipv4: int = bit(22, "hash UDP over IPv4")
    udp_ipv6: int = bit(23, "hash UDP over IPv6")


# --- 8.2.3.8 Receive DMA -------------------------------------------------------------------------------------------


RDBAL, RDBAH = q.half(hw.RDBAL), q.half(hw.RDBAH)
RDLEN, RDH, RDT = q.length(hw.RDLEN), q.head(hw.RDH), q.tail(hw.RDT)


class SRRCTL(Register, row=hw.SRRCTL, access=RW):
    """Split and replication receive control."""

    bsizepacket: int = bits(0, 5, "buffer size in KiB")
    bsizeheader: int = bits(8, 6, "header buffer size in 64 bytes")
    rdmts: int = bits(22, 3, "descriptor threshold for an interrupt")
    desctype: int = bits(25, 3, "1: advanced, one buffer")
    drop_en: int = bit(28, "drop when the ring has no descriptor, instead of blocking the other queues")


class RXDCTL(Register, row=hw.RXDCTL, access=RW):
    """Receive descriptor control."""

    enable: int = bit(25, "queue enabled")
    vme: int = bit(30, "strip the VLAN tag")


RX = q.Rings("receive", RDBAL, RDBAH, RDLEN, RDH, RDT, RXDCTL)


class RSCCTL(Register, row=hw.RSCCTL, access=RW):
    """Receive side coalescing of one queue."""

    rscen: int = bit(0, "coalesce")


class RDRXCTL(Register, row=hw.RDRXCTL, access=RW):
    """Receive DMA control."""

    crcstrip: int = bit(1, "strip the CRC; must be as HLREG0.RXCRCSTRP")
    dmaidone: int = bit(3, "DMA initialisation is done")
    rscfrstsize: int = bits(17, 5, "to be cleared")
    rscackc: int = bit(25, "to be set")
    fcoe_wrfix: int = bit(26, "to be set")


class RXPBSIZE(Register, row=hw.RXPBSIZE, access=RW):
    """Size of a receive packet buffer."""

    size: int = bits(10, 10, "KiB")


class RXCTRL(Register, row=hw.RXCTRL, access=RW):
    """Receive control."""

    rxen: int = bit(0, "receive enabled")


# --- 8.2.3.9 Transmit ----------------------------------------------------------------------------------------------


TDBAL, TDBAH = q.half(hw.TDBAL), q.half(hw.TDBAH)
TDLEN, TDH, TDT = q.length(hw.TDLEN), q.head(hw.TDH), q.tail(hw.TDT)


class DTXMXSZRQ(Register, row=hw.DTXMXSZRQ, access=RW):
    """Most bytes that transmit DMA may have requested at a time."""

    max_bytes_num_req: int = bits(0, 12, "units of 256 bytes")


class DMATXCTL(Register, row=hw.DMATXCTL, access=RW):
    """Transmit DMA control."""

    te: int = bit(0, "transmit enabled")
    vt: int = bits(16, 16, "VLAN EtherType")


class TXDCTL(Register, row=hw.TXDCTL, access=RW):
    """Transmit descriptor control."""

    pthresh: int = bits(0, 7, "prefetch when fewer descriptors are on chip")
    hthresh: int = bits(8, 7, "prefetch only when as many are in memory")
    wthresh: int = bits(16, 7, "write back in bursts of as many; 0: each one")
    enable: int = bit(25, "queue enabled")


TX = q.Rings("transmit", TDBAL, TDBAH, TDLEN, TDH, TDT, TXDCTL)


class TXPBSIZE(Register, row=hw.TXPBSIZE, access=RW):
    """Size of a transmit packet buffer."""

    size: int = bits(10, 10, "KiB")


class TXPBTHRESH(Register, row=hw.TXPBTHRESH, access=RW):
    """Transmit packet buffer threshold."""

    thresh: int = bits(0, 10, "KiB; the buffer less the longest packet")


class MTQC(Register, row=hw.MTQC, access=RW):
    """Multiple transmit queues."""

    rt_ena: int = bit(0, "DCB")
    vt_ena: int = bit(1, "virtualisation")
    num_tc_or_q: int = bits(2, 2, "0: 64 queues, one packet buffer")


# --- 8.2.3.10 DCB --------------------------------------------------------------------------------------------------


class RTTDCS(Register, row=hw.RTTDCS, access=RW):
    """Transmit descriptor plane control."""

    arbdis: int = bit(6, "descriptor arbiter disabled")


class RTTDQSEL(Register, row=hw.RTTDQSEL, access=RW):
    """Which queue RTTBCNRC speaks of."""

    txdq_idx: int = bits(0, 7, "transmit queue")


class RTTBCNRC(Register, row=hw.RTTBCNRC, access=RW):
    """Rate limit of the selected transmit queue."""

    rf_dec: int = bits(0, 14, "rate factor, fraction")
    rf_int: int = bits(14, 10, "rate factor, whole part")
    rs_ena: int = bit(31, "rate limit enabled")


# --- 8.2.3.11 DCA --------------------------------------------------------------------------------------------------


class DCA_RXCTRL(Register, row=hw.DCA_RXCTRL, access=RW):
    """Direct cache access and PCIe attributes of a receive queue."""

    bit12: int = bit(12, "set after reset; to be cleared by software (4.6.7)")
    data_wro: int = bit(13, "packet writes may be reordered")
    head_wro: int = bit(15, "header writes may be reordered")


class DCA_TXCTRL(Register, row=hw.DCA_TXCTRL, access=RW):
    """Direct cache access and PCIe attributes of a transmit queue."""

    desc_wro: int = bit(11, "descriptor write-back may be reordered")


# --- 8.2.3.12 Security ---------------------------------------------------------------------------------------------


class SECRXCTRL(Register, row=hw.SECRXCTRL, access=RW):
    """Receive path through the security block."""

    rx_dis: int = bit(1, "halt the receive data path")


class SECRXSTAT(Register, row=hw.SECRXSTAT, access=RO):
    """State of the receive path through the security block."""

    secrx_rdy: int = bit(0, "the data path is empty")
