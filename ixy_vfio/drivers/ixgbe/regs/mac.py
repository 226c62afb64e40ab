"""MAC, link and statistics: 8.2.3.22 and 8.2.3.23."""

from enum import IntEnum

from ixy_vfio.core.registers import RO, RW, Register, bit, bits
from ixy_vfio.hw import ixgbe as hw

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
