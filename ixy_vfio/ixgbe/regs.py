"""The registers this driver uses, in the order of the 82599 datasheet (revision 3.4), chapter 8.2.3.

Where a register lies comes from `hw`; how it may be accessed and what its fields mean stands here. Only the fields
that the driver sets or shows are named: `modify` keeps all others as they are.
"""

from enum import IntEnum

from ixy_vfio.core.registers import RC, RC_W1C, RO, RW, W1S, WO, Register, bit, bits
from ixy_vfio.hw import Register as Row
from ixy_vfio.hw import ixgbe as hw

# --- 8.2.3.1 General control ---------------------------------------------------------------------------------------


class CTRL(Register, row=hw.CTRL, access=RW):
    """Device control."""

    master_disable: int = bit(2, "no new PCIe requests")
    lrst: int = bit(3, "link reset; clears itself")
    rst: int = bit(26, "software reset; clears itself")


class STATUS(Register, row=hw.STATUS, access=RO):
    """Device status."""

    lan_id: int = bits(2, 2, "which port of the device this is")
    link_up: int = bit(7, "link is up")
    num_vfs: int = bits(10, 8, "virtual functions")
    iov: int = bit(18, "virtual functions are enabled")
    master_enable: int = bit(19, "PCIe requests may be under way")


class CTRL_EXT(Register, row=hw.CTRL_EXT, access=RW):
    """Extended device control."""

    pfrstd: int = bit(14, "physical function reset is done")
    ns_dis: int = bit(16, "no-snoop disabled")
    ro_dis: int = bit(17, "relaxed ordering disabled")
    drv_load: int = bit(28, "a driver is loaded")


class ESDP(Register, row=hw.ESDP, access=RW):
    """Software-definable pins; on SFP+ boards pin 3 turns the laser off."""

    sdp2: int = bit(2, "data of pin 2 (SFP+: module present)")
    sdp3: int = bit(3, "data of pin 3 (SFP+: laser off)")
    sdp5: int = bit(5, "data of pin 5 (SFP+: rate select, 1 = 10 Gbit/s)")
    sdp3_dir: int = bit(11, "pin 3 is an output")
    sdp5_dir: int = bit(13, "pin 5 is an output")


# --- 8.2.3.2 EEPROM and flash --------------------------------------------------------------------------------------


class EEC(Register, row=hw.EEC, access=RW):
    """EEPROM control."""

    pres: int = bit(8, "EEPROM is present")
    ard: int = bit(9, "auto-read after reset is done")


class EERD(Register, row=hw.EERD, access=RW):
    """EEPROM read."""

    start: int = bit(0, "read a word")
    done: int = bit(1, "the word is there")
    addr: int = bits(2, 14, "word address")
    data: int = bits(16, 16, "the word")


class EEMNGCTL(Register, row=hw.EEMNGCTL, access=RW):
    """EEPROM control by manageability firmware."""

    cfg_done0: int = bit(18, "firmware has configured port 0")
    cfg_done1: int = bit(19, "firmware has configured port 1")


# --- 8.2.3.4 PCIe --------------------------------------------------------------------------------------------------


class SWSM(Register, row=hw.SWSM, access=RW):
    """Software semaphore. A read sets SMBI: who reads 0 has it."""

    smbi: int = bit(0, "held by a driver")
    swesmbi: int = bit(1, "held by software, not by firmware")


class FWSM(Register, row=hw.FWSM, access=RO):
    """Firmware semaphore."""

    fw_mode: int = bits(1, 3, "firmware mode")
    fw_valid: int = bit(15, "firmware has set the other bits")


class SW_FW_SYNC(Register, row=hw.SW_FW_SYNC, access=RW):
    """Who uses what: bits 0-4 are software's, 5-9 firmware's."""

    sw: int = bits(0, 5, "resources held by software: EEPROM, PHY 0, PHY 1, MAC registers, flash")
    fw: int = bits(5, 5, "resources held by firmware")


# --- 8.2.3.5 Interrupt ---------------------------------------------------------------------------------------------


class EICR(Register, row=hw.EICR, access=RC_W1C):
    """Interrupt causes. Never read here: reading it also clears what EIAC clears by itself."""

    rtxq: int = bits(0, 16, "queue causes")
    lsc: int = bit(20, "link status change")


class EICS(Register, row=hw.EICS, access=WO):
    """Sets interrupt causes."""

    lsc: int = bit(20, "link status change")


class EIAC(Register, row=hw.EIAC, access=RW):
    """Causes that clear themselves when their MSI-X message is sent."""

    rtxq: int = bits(0, 16, "queue causes")


class EIMS(Register, row=hw.EIMS, access=W1S):
    """Enables interrupts; a 0 disables nothing (EIMC does)."""

    rtxq: int = bits(0, 16, "queue causes")
    lsc: int = bit(20, "link status change")


class EIMC(Register, row=hw.EIMC, access=WO):
    """Disables interrupts."""

    causes: int = bits(0, 31, "all causes; bit 31 is reserved")


class EIAM(Register, row=hw.EIAM, access=RW):
    """Causes that mask themselves when their interrupt is sent."""

    causes: int = bits(0, 31, "all causes; bit 31 is reserved")


class GPIE(Register, row=hw.GPIE, access=RW):
    """General-purpose interrupt enable."""

    multiple_msix: int = bit(4, "MSI-X with several vectors")
    ocd: int = bit(5, "reading EICR clears only what is not a queue cause")
    eimen: int = bit(6, "a set cause raises its interrupt at once, even when throttled")
    eiame: int = bit(30, "EIAM acts when a message is sent")
    pba_support: int = bit(31, "pending bits are cleared when a message is sent")


class EITR(Register, row=hw.EITR, access=RW):
    """Interrupt throttling of one vector."""

    itr_interval: int = bits(3, 9, "shortest time between two interrupts, in units of 2 us (at 10 Gbit/s)")
    cnt_wdis: int = bit(31, "writing leaves the running counter as it is")


class IVAR(Register, row=hw.IVAR, access=RW):
    """Which vector serves receive and transmit of two queues: 2n and 2n + 1."""

    rx_even: int = bits(0, 6, "vector of receive queue 2n")
    rx_even_valid: int = bit(7)
    tx_even: int = bits(8, 6, "vector of transmit queue 2n")
    tx_even_valid: int = bit(15)
    rx_odd: int = bits(16, 6, "vector of receive queue 2n + 1")
    rx_odd_valid: int = bit(23)
    tx_odd: int = bits(24, 6, "vector of transmit queue 2n + 1")
    tx_odd_valid: int = bit(31)


class IVAR_MISC(Register, row=hw.IVAR_MISC, access=RW):
    """Which vectors serve the TCP timer and all other causes."""

    timer: int = bits(0, 7, "vector of the TCP timer")
    timer_valid: int = bit(7)
    other: int = bits(8, 7, "vector of the other causes")
    other_valid: int = bit(15)


class EIMS_EX(Register, row=hw.EIMS_EX, access=W1S):
    """Enables the interrupts of vectors 32n to 32n + 31."""

    vectors: int = bits(0, 32, "one bit a vector")


class EIMC_EX(Register, row=hw.EIMC_EX, access=WO):
    """Disables the interrupts of vectors 32n to 32n + 31."""

    vectors: int = bits(0, 32, "one bit a vector")


# --- 8.2.3.7 Receive -----------------------------------------------------------------------------------------------


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


class MTA(Register, row=hw.MTA, access=RW):
    """Multicast table."""

    bit_vector: int = bits(0, 32, "one bit a hash value")


class RAL(Register, row=hw.RAL, access=RW):
    """Receive address, bytes 0-3."""

    address: int = bits(0, 32, "byte 0 is the lowest")


class RAH(Register, row=hw.RAH, access=RW):
    """Receive address, bytes 4-5."""

    address: int = bits(0, 16, "byte 4 is the lower")
    av: int = bit(31, "address valid")


class MRQC(Register, row=hw.MRQC, access=RW):
    """Multiple receive queues."""

    mrqe: int = bits(0, 4, "0: one queue, 1: RSS over 16")
    tcp_ipv4: int = bit(16, "hash TCP over IPv4")
    ipv4: int = bit(17, "hash IPv4")
    ipv6: int = bit(20, "hash IPv6")
    tcp_ipv6: int = bit(21, "hash TCP over IPv6")
    udp_ipv4: int = bit(22, "hash UDP over IPv4")
    udp_ipv6: int = bit(23, "hash UDP over IPv6")


class RETA(Register, row=hw.RETA, access=RW):
    """RSS redirection: the queue of hash values 4n to 4n + 3."""

    entry0: int = bits(0, 4)
    entry1: int = bits(8, 4)
    entry2: int = bits(16, 4)
    entry3: int = bits(24, 4)


class RSSRK(Register, row=hw.RSSRK, access=RW):
    """RSS key, four bytes."""

    key: int = bits(0, 32, "byte 4n is the lowest")


# --- 8.2.3.8 Receive DMA -------------------------------------------------------------------------------------------


class RDBAL(Register, row=hw.RDBAL, access=RW):
    """Receive ring base, low half."""

    base: int = bits(0, 32, "aligned to 128 bytes")


class RDBAH(Register, row=hw.RDBAH, access=RW):
    """Receive ring base, high half."""

    base: int = bits(0, 32)


class RDLEN(Register, row=hw.RDLEN, access=RW):
    """Receive ring length."""

    len: int = bits(0, 20, "bytes, a multiple of 128")


class RDH(Register, row=hw.RDH, access=RO):
    """Receive head: where the device is."""

    head: int = bits(0, 16, "descriptor index")


class SRRCTL(Register, row=hw.SRRCTL, access=RW):
    """Split and replication receive control."""

    bsizepacket: int = bits(0, 5, "buffer size in KiB")
    bsizeheader: int = bits(8, 6, "header buffer size in 64 bytes")
    rdmts: int = bits(22, 3, "descriptor threshold for an interrupt")
    desctype: int = bits(25, 3, "1: advanced, one buffer")
    drop_en: int = bit(28, "drop when the ring has no descriptor, instead of blocking the other queues")


class RDT(Register, row=hw.RDT, access=RW):
    """Receive tail: the first descriptor that is not the device's."""

    tail: int = bits(0, 16, "descriptor index")


class RXDCTL(Register, row=hw.RXDCTL, access=RW):
    """Receive descriptor control."""

    enable: int = bit(25, "queue enabled")
    vme: int = bit(30, "strip the VLAN tag")


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


class DTXMXSZRQ(Register, row=hw.DTXMXSZRQ, access=RW):
    """Most bytes that transmit DMA may have requested at a time."""

    max_bytes_num_req: int = bits(0, 12, "units of 256 bytes")


class DMATXCTL(Register, row=hw.DMATXCTL, access=RW):
    """Transmit DMA control."""

    te: int = bit(0, "transmit enabled")
    vt: int = bits(16, 16, "VLAN EtherType")


class TDBAL(Register, row=hw.TDBAL, access=RW):
    """Transmit ring base, low half."""

    base: int = bits(0, 32, "aligned to 128 bytes")


class TDBAH(Register, row=hw.TDBAH, access=RW):
    """Transmit ring base, high half."""

    base: int = bits(0, 32)


class TDLEN(Register, row=hw.TDLEN, access=RW):
    """Transmit ring length."""

    len: int = bits(0, 20, "bytes, a multiple of 128")


class TDH(Register, row=hw.TDH, access=RO):
    """Transmit head: where the device is."""

    head: int = bits(0, 16, "descriptor index")


class TDT(Register, row=hw.TDT, access=RW):
    """Transmit tail: the first descriptor that is not the device's."""

    tail: int = bits(0, 16, "descriptor index")


class TXDCTL(Register, row=hw.TXDCTL, access=RW):
    """Transmit descriptor control."""

    pthresh: int = bits(0, 7, "prefetch when fewer descriptors are on chip")
    hthresh: int = bits(8, 7, "prefetch only when as many are in memory")
    wthresh: int = bits(16, 7, "write back in bursts of as many; 0: each one")
    enable: int = bit(25, "queue enabled")


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


# --- 8.2.3.22 MAC --------------------------------------------------------------------------------------------------


class HLREG0(Register, row=hw.HLREG0, access=RW):
    """MAC core control 0."""

    txcrcen: int = bit(0, "append the CRC to transmitted packets")
    rxcrcstrp: int = bit(1, "strip the CRC of received packets")
    jumboen: int = bit(2, "packets up to MAXFRS.MFS")
    txpaden: int = bit(10, "pad short packets")
    lpbk: int = bit(15, "loopback")


class MAXFRS(Register, row=hw.MAXFRS, access=RW):
    """Longest packet."""

    mfs: int = bits(16, 16, "bytes with CRC; without a VLAN tag")


class LinkMode(IntEnum):
    """AUTOC.LMS: what the link is made of."""

    FIXED_1G = 0
    FIXED_10G_PARALLEL = 1
    AUTO_1G = 2
    SERIAL_10G = 3
    KX4_KX_KR = 4
    SGMII = 5
    KX4_KX_KR_1G = 6
    KX4_KX_KR_SGMII = 7


class LinkSpeed(IntEnum):
    """LINKS.LINK_SPEED."""

    M100 = 1
    G1 = 2
    G10 = 3


class AUTOC(Register, row=hw.AUTOC, access=RW):
    """Auto-negotiation control."""

    pma_10g_parallel: int = bits(7, 2, "0: XAUI, 1: KX4, 2: CX4")
    pma_1g: int = bit(9, "0: SFI, 1: KX/BX")
    restart_an: int = bit(12, "restart the link; clears itself")
    lms: int = bits(13, 3, "link mode select", LinkMode)


class LINKS(Register, row=hw.LINKS, access=RO):
    """Link status."""

    speed_non_standard: int = bit(27, "X550: 2.5 or 5 Gbit/s")
    speed: int = bits(28, 2, "speed", LinkSpeed)
    link_up: int = bit(30, "link is up")
    kx_an_comp: int = bit(31, "backplane auto-negotiation is complete")


class AUTOC2(Register, row=hw.AUTOC2, access=RW):
    """Auto-negotiation control 2."""

    pma_10g_serial: int = bits(16, 2, "0: KR, 1: XFI, 2: SFI")
    link_disable: int = bits(28, 3, "link kept down by the EEPROM")


# --- 8.2.3.23 Statistics -------------------------------------------------------------------------------------------


class RQSMR(Register, row=hw.RQSMR, access=RW):
    """Which of the 16 counters count for receive queues 4n to 4n + 3."""

    map0: int = bits(0, 4)
    map1: int = bits(8, 4)
    map2: int = bits(16, 4)
    map3: int = bits(24, 4)


class TQSM(Register, row=hw.TQSM, access=RW):
    """Which of the 16 counters count for transmit queues 4n to 4n + 3."""

    map0: int = bits(0, 4)
    map1: int = bits(8, 4)
    map2: int = bits(16, 4)
    map3: int = bits(24, 4)


class Counter(Register, row=hw.GPRC, access=RC):
    """Any clear-on-read counter; `counter` gives it its row."""

    count: int = bits(0, 32)


def counter(row: Row) -> type[Counter]:
    """The register class of a 32-bit counter (or one half of a 64-bit counter) that a read clears."""

    class Counted(Counter, row=row, access=RC):
        """See the datasheet section of its row."""

        count: int = bits(0, 32)

    return Counted
