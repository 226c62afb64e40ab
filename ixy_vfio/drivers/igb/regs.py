"""The registers that this driver uses, in the order of the 82576 datasheet, chapter 8. Other fields have no name."""

from typing import Any

from ixy_vfio.core.registers import RC_W1C, RO, RW, W1S, WO, Access, Register, bit, bits
from ixy_vfio.drivers import queues as q
from ixy_vfio.drivers.semaphore import swsm
from ixy_vfio.hw import Register as Row
from ixy_vfio.hw import igb as hw

# --- 8.2 General control -------------------------------------------------------------------------------------------


class CTRL(Register, row=hw.CTRL, access=RW):
    """Device control."""

    master_disable: int = bit(2, "no new PCIe requests")
    slu: int = bit(6, "the MAC takes the link that the PHY reports")
    frcspd: int = bit(11, "speed is forced")
    frcdplx: int = bit(12, "duplex is forced")
    rst: int = bit(26, "software reset; clears itself")
    vme: int = bit(30, "strip VLAN tags")


class STATUS(Register, row=hw.STATUS, access=RO):
    """Device status."""

    lu: int = bit(1, "link is up")
    lan_id: int = bits(2, 2, "which port of the device this is")
    speed: int = bits(6, 2, "0: 10, 1: 100, 2 and 3: 1000 Mbit/s")
    master_enable: int = bit(19, "PCIe requests may be under way")


class CTRL_EXT(Register, row=hw.CTRL_EXT, access=RW):
    """Extended device control."""

    ext_vlan: int = bit(26, "packets have an outer VLAN tag")
    drv_load: int = bit(28, "a driver is loaded")


class MDIC(Register, row=hw.MDIC, access=RW):
    """Access to a register of the PHY."""

    data: int = bits(0, 16, "of the PHY's register")
    regadd: int = bits(16, 5, "number of the PHY's register")
    phyadd: int = bits(21, 5, "address of the PHY")
    op: int = bits(26, 2, "1: write, 2: read")
    ready: int = bit(28, "done")
    error: int = bit(30, "the PHY did not answer")


class PHPM(Register, row=hw.PHPM, access=RW):
    """Power management of the PHY; from the 82580 on."""

    go_linkd: int = bit(5, "the PHY keeps the link down")


# --- 8.4 EEPROM ----------------------------------------------------------------------------------------------------


class EECD(Register, row=hw.EECD, access=RW):
    """EEPROM control."""

    auto_rd: int = bit(9, "auto-read after reset is done")


# --- 8.7 Semaphores ------------------------------------------------------------------------------------------------


SWSM = swsm(hw.SWSM)


class SW_FW_SYNC(Register, row=hw.SW_FW_SYNC, access=RW):
    """Who uses what."""

    sw: int = bits(0, 7, "resources held by software: EEPROM, PHY 0, PHY 1, MAC registers, -, PHY 2, PHY 3")
    fw: int = bits(16, 7, "resources held by firmware")


# --- 8.8 Interrupt -------------------------------------------------------------------------------------------------


def vectors(row: Row, access: Access) -> type[Any]:
    """A bit a vector. EIMS enables, EIMC disables; the causes of EIAC clear themselves when their message is sent."""

    class Vectors(Register, row=row, access=access):
        """See the datasheet section of its row. With a bit in EIAC, EICR must not be read (8.8.5)."""

        vectors: int = bits(0, 25, "one bit a vector")

    return Vectors


EIMS, EIMC, EIAC = vectors(hw.EIMS, W1S), vectors(hw.EIMC, WO), vectors(hw.EIAC, RW)


class ICR(Register, row=hw.ICR, access=RC_W1C):
    """Causes that are not a queue's."""

    lsc: int = bit(2, "link status change")


class IMS(Register, row=hw.IMS, access=W1S):
    """Enables causes that are not a queue's."""

    lsc: int = bit(2, "link status change")


class IMC(Register, row=hw.IMC, access=WO):
    """Disables causes that are not a queue's."""

    causes: int = bits(0, 32, "all causes")


class EITR(Register, row=hw.EITR, access=RW):
    """Interrupt throttling of one vector."""

    interval: int = bits(2, 13, "shortest time between two interrupts, in microseconds")


class IVAR(Register, row=hw.IVAR, access=RW):
    """Which vector serves the receive rings of two queues: see `irq`. (Transmit rings have bits, too.)"""

    rx_low: int = bits(0, 5, "vector of the first queue's receive ring")
    rx_low_valid: int = bit(7)
    rx_high: int = bits(16, 5, "vector of the second queue's receive ring")
    rx_high_valid: int = bit(23)


class IVAR_MISC(Register, row=hw.IVAR_MISC, access=RW):
    """Which vector serves the causes that are not a queue's."""

    other: int = bits(8, 5, "vector of the other causes")
    other_valid: int = bit(15)


class GPIE(Register, row=hw.GPIE, access=RW):
    """General-purpose interrupt enable."""

    nsicr: int = bit(0, "reading ICR clears it, whatever is enabled")
    multiple_msix: int = bit(4, "MSI-X with several vectors, by IVAR")
    pba_support: int = bit(31, "pending bits are cleared when a message is sent")


# --- 8.10 Receive --------------------------------------------------------------------------------------------------


RDBAL, RDBAH = q.half(hw.RDBAL), q.half(hw.RDBAH)
RDLEN, RDH, RDT = q.length(hw.RDLEN), q.head(hw.RDH), q.tail(hw.RDT)
MTA, UTA = q.table(hw.MTA), q.table(hw.UTA, WO)
RAL, RAH = q.address_low(hw.RAL), q.address_high(hw.RAH)
RETA, RSSRK = q.rss_table(hw.RETA), q.rss_key(hw.RSSRK)


class RCTL(Register, row=hw.RCTL, access=RW):
    """Receive control."""

    rxen: int = bit(1, "receive enabled")
    sbp: int = bit(2, "store bad packets")
    upe: int = bit(3, "unicast promiscuous")
    mpe: int = bit(4, "multicast promiscuous")
    lpe: int = bit(5, "packets up to RLPML")
    lbm: int = bits(6, 2, "loopback")
    bam: int = bit(15, "accept broadcast")
    vfe: int = bit(18, "VLAN filter enable")
    secrc: int = bit(26, "strip the CRC")


class SRRCTL(Register, row=hw.SRRCTL, access=RW):
    """Split and replication receive control."""

    bsizepacket: int = bits(0, 7, "buffer size in KiB")
    bsizeheader: int = bits(8, 6, "header buffer size in 64 bytes")
    desctype: int = bits(25, 3, "1: advanced, one buffer")
    drop_en: int = bit(31, "drop when the ring has no descriptor, instead of blocking the other queues")


class RXDCTL(Register, row=hw.RXDCTL, access=RW):
    """Receive descriptor control."""

    pthresh: int = bits(0, 5, "prefetch when fewer descriptors are on chip")
    hthresh: int = bits(8, 5, "prefetch only when as many are in memory")
    wthresh: int = bits(16, 5, "write back in bursts of as many")
    enable: int = bit(25, "queue enabled; reads 0 while RCTL.RXEN is 0")


class RQDPC(Register, row=hw.RQDPC, access=RW):
    """Packets that the queue dropped for want of a descriptor. I210 does not clear it when it is read."""

    count: int = bits(0, 32)


class DVMOLR(Register, row=hw.DVMOLR, access=RW):
    """Offloads of one queue; from the 82580 on."""

    strcrc: int = bit(31, "strip the CRC; must be as RCTL.SECRC")


class RXCSUM(Register, row=hw.RXCSUM, access=RW):
    """Receive checksum control."""

    ipofld: int = bit(8, "check IPv4 headers")
    tuofld: int = bit(9, "check TCP and UDP")
    pcsd: int = bit(13, "the descriptor has the RSS hash in place of the fragment checksum")


class RLPML(Register, row=hw.RLPML, access=RW):
    """Longest packet, where RCTL.LPE is set."""

    rlpml: int = bits(0, 14, "bytes with CRC and VLAN tags")


class MRQC(Register, row=hw.MRQC, access=RW):
    """Multiple receive queues."""

    mode: int = bits(0, 3, "0: one queue, 2: RSS")
    tcp_ipv4: int = bit(16, "hash TCP over IPv4")
    ipv4: int = bit(17, "hash IPv4")
    ipv6: int = bit(20, "hash IPv6")
    tcp_ipv6: int = bit(21, "hash TCP over IPv6")
    udp_ipv4: int = bit(22, "hash UDP over IPv4")
    udp_ipv6: int = bit(23, "hash UDP over IPv6")


# --- 8.12 Transmit -------------------------------------------------------------------------------------------------


TDBAL, TDBAH = q.half(hw.TDBAL), q.half(hw.TDBAH)
TDLEN, TDH, TDT = q.length(hw.TDLEN), q.head(hw.TDH), q.tail(hw.TDT)


class TCTL(Register, row=hw.TCTL, access=RW):
    """Transmit control."""

    en: int = bit(1, "transmit enabled")
    psp: int = bit(3, "pad short packets")


class TXDCTL(Register, row=hw.TXDCTL, access=RW):
    """Transmit descriptor control."""

    pthresh: int = bits(0, 5, "prefetch when fewer descriptors are on chip")
    hthresh: int = bits(8, 5, "prefetch only when as many are in memory")
    wthresh: int = bits(16, 5, "write back in bursts of as many")
    enable: int = bit(25, "queue enabled; reads 0 while TCTL.EN is 0")


RX = q.Rings("receive", RDBAL, RDBAH, RDLEN, RDH, RDT, RXDCTL)
TX = q.Rings("transmit", TDBAL, TDBAH, TDLEN, TDH, TDT, TXDCTL)
ADDRESSES, SPREAD = q.Filter(RAL, RAH, MTA, UTA), q.Spread(RSSRK, RETA)

ALL: tuple[type[Register], ...] = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and value is not Register and issubclass(value, Register)
)
