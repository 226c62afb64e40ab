"""How each register of the simulated 82599 behaves: access kind, value after reset, bits that a write changes.

From the 82599 datasheet, section 8.2.3, in the order of the book. The rule for writes is one: a bit outside the
write mask must be written as it reads (a read-modify-write keeps to that); anything else is a violation.
"""

from dataclasses import dataclass
from enum import Enum

from ixy_vfio.hw import Register, ixgbe, register


class Access(Enum):
    """What a read and a write do."""

    RW = "read, write"
    RO = "read only"
    RC = "read only, cleared by the read"
    W1C = "write 1 to clear"
    SPECIAL = "has side effects of its own, in the module that models it"


RW, RO, RC, W1C, SPECIAL = Access
ALL = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """The behaviour of one row of registers."""

    row: Register
    access: Access
    reset: int  # value after reset; of the first register only where `reset_first`
    mask: int  # bits that a write changes (RW) or may be 1 (W1C, SPECIAL)
    tolerated: int  # bits outside the mask whose writes have no effect and are no violation
    reset_first: bool


_RULES: list[Rule] = []


def _rule(
    row: Register,
    access: Access,
    mask: int = 0,
    reset: int = 0,
    *,
    status: int = 0,
    tolerated: int = 0,
    first: bool = False,
) -> None:
    """`status`: read-only bits that the device changes; what is written there has no effect and is no violation."""
    _RULES.append(Rule(row, access, reset, mask, status | tolerated, first))


def _more(name: str, offset: int, access: Access, mask: int = 0, reset: int = 0, *, count: int = 1) -> None:
    """A row that no driver of ours needs, and that Linux's ixgbe or `ethtool -d` touches."""
    _rule(register(name, "8.2.3", offset, 4, count), access, mask, reset)


# What Linux's ixgbe writes although the book calls it reserved or read only on the 82599 (`tolerated`):
#   STATUS     every bit, by the register test of ethtool
#   FCTRL      DPF and PMCF, which the 82599 has in MFLCN
#   RAH        the VMDq bits of the 82598, by the register test
#   RDLEN, TDBAL  bits below the alignment, by the register test
#   EITR       bits 2:0, below the resolution of the interval
#   RXCTRL     DMBYPS, by the loopback test
#   RXDCTL     SWFLSH, which TXDCTL has, while it flushes the queues before a reset
#   FCRTH      a difference that went below 0, for packet buffers of size 0
#   EIMS, EIMC, EIAM: all ones; EICR all ones

# 8.2.3.1 General control
_rule(ixgbe.CTRL, SPECIAL, 0x0400_000C)
_rule(ixgbe.STATUS, RO, reset=0x0008_0000, tolerated=ALL)
_rule(ixgbe.CTRL_EXT, RW, 0x1403_4000)
_rule(ixgbe.ESDP, SPECIAL, 0x0303_FFFF)
_rule(ixgbe.I2CCTL, SPECIAL, 0x0000_000A, 0x0000_000F, status=0x5)
_rule(ixgbe.FRTIMER, SPECIAL)
_rule(ixgbe.TCPTIMER, RW, 0x0000_0FFF)
_rule(ixgbe.LEDCTL, RW, 0xCFCF_CFEF)
_rule(ixgbe.EXVET, RW, 0xFFFF_0000, 0x8100_0000)
_more("PFVFLRE1", 0x001C0, RO)
_more("PFVFLRE0", 0x00600, RO)
_more("PFVFLREC", 0x00700, W1C, ALL, count=2)
_more("PFMBICR", 0x00710, W1C, ALL, count=4)
_more("PFMBIMR", 0x00720, RW, ALL, count=2)

# 8.2.3.2 EEPROM and flash
_rule(ixgbe.EEC, SPECIAL, 0x0080_0077, status=0x003F_FF88)
_rule(ixgbe.EERD, SPECIAL, 0x0000_FFFD, status=0xFFFF_0002)
_rule(ixgbe.EEWR, SPECIAL, ALL)
_rule(ixgbe.FLA, SPECIAL, ALL)
_rule(ixgbe.EEMNGCTL, RO, reset=0x000C_0000)
_rule(ixgbe.EEMNGDATA, RO)
_rule(ixgbe.FLMNGCTL, SPECIAL, ALL)
_rule(ixgbe.FLMNGDATA, SPECIAL, ALL)
_rule(ixgbe.FLMNGCNT, SPECIAL, ALL)
_rule(ixgbe.FLOP, SPECIAL, ALL)
_rule(ixgbe.GRC, RW, 0x0000_0002)

# 8.2.3.3 Flow control
_rule(ixgbe.PFCTOP, RW, ALL)
_rule(ixgbe.FCTTV, RW, ALL)
_rule(ixgbe.FCRTL, RW, 0x8007_FFF0)
_rule(ixgbe.FCRTH, RW, 0x8007_FFF0, tolerated=0x7FF8_0000)
_rule(ixgbe.FCRTV, RW, 0x0000_FFFF)
_rule(ixgbe.FCCFG, RW, 0x0000_0018)
_rule(ixgbe.TFCS, RO)

# 8.2.3.4 PCIe
_rule(ixgbe.GCR, RW, 0x0001_FE00, 0x0004_0000)
_rule(ixgbe.GSCL_1, RW, ALL)
_rule(ixgbe.GSCL_2, RW, ALL)
_rule(ixgbe.GSCL_5_8, RW, ALL)
_rule(ixgbe.GSCN, RC)
_rule(ixgbe.GCR_EXT, RW, 0xC000_0013)
_rule(ixgbe.FACTPS, RO)
_rule(ixgbe.PCIEPHYADR, RW, ALL)
_rule(ixgbe.PCIEPHYDAT, RW, ALL)
_rule(ixgbe.SWSM, SPECIAL, 0x0000_0007)
_rule(ixgbe.FWSM, RO, reset=0x0000_8000)  # firmware valid, mode 0: no manageability
_rule(ixgbe.SW_FW_SYNC, RW, 0x0000_041F)
_rule(ixgbe.CIAA, RW, ALL)
_rule(ixgbe.CIAD, RW, ALL)
_rule(ixgbe.PICAUSE, W1C, 0x0000_001F)
_rule(ixgbe.PIENA, RW, 0x0000_001F)
_more("MREVID", 0x11064, RO, reset=1)
_more("PCIE_DIAG", 0x11090, RO, count=8)
_more("PCIEECCCTL", 0x1106C, RO)

# 8.2.3.5 Interrupt (interrupts.py)
_rule(ixgbe.EICR, SPECIAL, ALL)
_rule(ixgbe.EICS, SPECIAL, ALL)
_rule(ixgbe.EIAC, RW, 0x4000_FFFF)
_rule(ixgbe.EIMS, SPECIAL, ALL)
_rule(ixgbe.EIMC, SPECIAL, ALL)
_rule(ixgbe.EIAM, RW, 0x7FFF_FFFF, tolerated=0x8000_0000)
_rule(ixgbe.EITRSEL, RW, ALL)
_rule(ixgbe.GPIE, RW, 0xC000_FFFF)
_rule(ixgbe.EITR, SPECIAL, 0x8FFF_8FF8, tolerated=0x7)
_rule(ixgbe.IVAR, RW, 0xBFBF_BFBF)
_rule(ixgbe.IVAR_MISC, RW, 0x0000_BFBF)
_rule(ixgbe.EICS_EX, SPECIAL, ALL)
_rule(ixgbe.EIMS_EX, SPECIAL, ALL)
_rule(ixgbe.EIMC_EX, SPECIAL, ALL)
_rule(ixgbe.EIAM_EX, RW, ALL)
_rule(ixgbe.PBACL, W1C, ALL)

# 8.2.3.7 Receive
_rule(ixgbe.RXCSUM, RW, 0x0000_3000)
_rule(ixgbe.RFCTL, RW, 0x0003_4FFF)
_rule(ixgbe.FCTRL, RW, 0x0000_0702, tolerated=0x0000_3000)
_rule(ixgbe.VLNCTRL, RW, 0x7000_FFFF, 0x0000_8100)
_rule(ixgbe.MCSTCTRL, RW, 0x0000_0007)
_rule(ixgbe.ETQF, RW, 0xEFFF_FFFF)
_rule(ixgbe.VMTXSW, RW, ALL)
_rule(ixgbe.VT_CTL, RW, 0x6000_1F81)
_rule(ixgbe.VFRE, RW, ALL)
_rule(ixgbe.MTA, RW, ALL)
_rule(ixgbe.RAL, RW, ALL)
_rule(ixgbe.RAH, RW, 0x8000_FFFF, tolerated=0x003C_0000)
_rule(ixgbe.PSRTYPE, RW, 0xE000_1332)
_rule(ixgbe.MRQC, RW, 0x00F3_000F)
_rule(ixgbe.RETA, RW, 0x0F0F_0F0F)
_rule(ixgbe.RSSRK, RW, ALL)
_rule(ixgbe.VFTA, RW, ALL)
_rule(ixgbe.MPSAR, RW, ALL)
_rule(ixgbe.SAQF, RW, ALL)
_rule(ixgbe.DAQF, RW, ALL)
_rule(ixgbe.SDPQF, RW, ALL)
_rule(ixgbe.FTQF, RW, 0xFE00_3F1F)
_rule(ixgbe.L34TIMIR, RW, 0x0FFF_F000)
_rule(ixgbe.ETQS, RW, 0xA07F_0000)
_rule(ixgbe.SYNQF, RW, 0x8000_00FF)
_rule(ixgbe.RQTC, RW, 0x7777_7777)
_more("RXMTRL", 0x05120, RW, ALL)
_more("RFVAL", 0x050A4, RW, ALL)
_more("LLITHRESH", 0x0EC90, RW, ALL)
_more("IMIRVP", 0x0EC60, RW, 0x0000_000F)
_more("PFFLPL", 0x050B0, RO, count=2)

# Flow director (7.1.2.7)
_rule(ixgbe.FDIRCTRL, SPECIAL, 0xFF1F_7FB3, status=0x8)
_rule(ixgbe.FDIRHKEY, RW, ALL, 0x8000_0001)
_rule(ixgbe.FDIRSKEY, RW, ALL, 0x8000_0001)
_rule(ixgbe.FDIRFREE, RO, reset=0x0000_7FFF)
_rule(ixgbe.FDIRLEN, RC)
_rule(ixgbe.FDIRUSTAT, RC)
_rule(ixgbe.FDIRFSTAT, RC)
_rule(ixgbe.FDIRMATCH, RC)
_rule(ixgbe.FDIRMISS, RC)
_rule(ixgbe.FDIRCMD, SPECIAL, ALL)
_more("FDIRSIPV6", 0x0EE0C, RW, ALL, count=3)
_more("FDIRIPSA", 0x0EE18, RW, ALL)
_more("FDIRIPDA", 0x0EE1C, RW, ALL)
_more("FDIRPORT", 0x0EE20, RW, ALL)
_more("FDIRVLAN", 0x0EE24, RW, ALL)
_more("FDIRHASH", 0x0EE28, RW, ALL)
_more("FDIRDIP4M", 0x0EE3C, RW, ALL)
_more("FDIRSIP4M", 0x0EE40, RW, ALL)
_more("FDIRTCPM", 0x0EE44, RW, ALL)
_more("FDIRUDPM", 0x0EE48, RW, ALL)
_more("FDIRM", 0x0EE70, RW, 0x0000_003F)
_more("FDIRIP6M", 0x0EE74, RW, ALL)
_more("FDIRSCTPM", 0x0EE78, RW, ALL)

# Pools
_rule(ixgbe.VMOLR, RW, 0x1FC0_0000)
_rule(ixgbe.VLVF, RW, 0x8000_0FFF)
_rule(ixgbe.VLVFB, RW, ALL)
_rule(ixgbe.UTA, RW, ALL)
_more("MRCTL", 0x0F600, RW, 0x0000_3F0F, count=4)
_more("VMRVLAN", 0x0F610, RW, ALL, count=8)
_more("VMRVM", 0x0F630, RW, ALL, count=8)
_more("PFVFSPOOF", 0x08200, RW, 0x0000_FFFF, count=8)
_more("PFDTXGSWC", 0x08220, RW, 0x0000_0001)
_more("QDE", 0x02F04, RW, 0x0003_7F01)

# 8.2.3.8 Receive DMA
_rule(ixgbe.RDBAL, RW, 0xFFFF_FF80)
_rule(ixgbe.RDBAH, RW, ALL)
_rule(ixgbe.RDLEN, RW, 0x000F_FF80, tolerated=0x7F)
_rule(ixgbe.DCA_RXCTRL, RW, 0xFF00_B2E0, 0x0000_B200)
_rule(ixgbe.RDH, RW, 0x0000_FFFF)
_rule(ixgbe.SRRCTL, RW, 0x1FC0_3F1F, 0x0000_0402)
_rule(ixgbe.RDT, RW, 0x0000_FFFF)
_rule(ixgbe.RXDCTL, SPECIAL, 0x4200_0000, tolerated=0x0400_0000)
_rule(ixgbe.RSCCTL, RW, 0x0000_000D)
_rule(ixgbe.RDRXCTL, RW, 0x063F_0002, 0x0010_0000, status=0x8)
_rule(ixgbe.RXPBSIZE, RW, 0x000F_FC00, 0x0008_0000, first=True)
_rule(ixgbe.RXCTRL, RW, 0x0000_0001, tolerated=0x0000_0002)
_rule(ixgbe.RXMEMWRAP, RO)
_rule(ixgbe.RSCDBU, RW, 0x0000_00FF)
_rule(ixgbe.DROPEN, RW, 0x0000_00FF)

# 8.2.3.9 Transmit
_rule(ixgbe.DTXMXSZRQ, RW, 0x0000_0FFF, 0x0000_0010)
_rule(ixgbe.DMATXCTL, RW, 0xFFFF_000B, 0x8100_0000)
_rule(ixgbe.DTXTCPFLGL, RW, 0x0FFF_0FFF, 0x0FF6_0FF6)
_rule(ixgbe.DTXTCPFLGH, RW, 0x0000_0FFF, 0x0000_0F7F)
_rule(ixgbe.TDBAL, RW, 0xFFFF_FF80, tolerated=0x7F)
_rule(ixgbe.TDBAH, RW, ALL)
_rule(ixgbe.TDLEN, RW, 0x000F_FF80)
_rule(ixgbe.DCA_TXCTRL, RW, 0xFF00_2A20, 0x0000_2A00)
_rule(ixgbe.TDH, RW, 0x0000_FFFF)
_rule(ixgbe.TDT, RW, 0x0000_FFFF)
_rule(ixgbe.TXDCTL, SPECIAL, 0x067F_7F7F)
_rule(ixgbe.TDWBAL, RW, 0xFFFF_FFFD)
_rule(ixgbe.TDWBAH, RW, ALL)
_rule(ixgbe.TXPBSIZE, RW, 0x000F_FC00, 0x0002_8000, first=True)
_rule(ixgbe.TXPBTHRESH, RW, 0x0000_03FF, 0x0000_0096, first=True)
_rule(ixgbe.MTQC, RW, 0x0000_000F)
_rule(ixgbe.VMVIR, RW, 0xC000_FFFF)
_rule(ixgbe.VFTE, RW, ALL)
_more("TXLLQ", 0x082E0, RW, ALL, count=4)
_more("LBDRPEN", 0x0CA00, RW, ALL)

# 8.2.3.10 DCB
_rule(ixgbe.RTRPCS, RW, 0x0000_0106)
_rule(ixgbe.RTRPT4C, RW, ALL)
_rule(ixgbe.RTRPT4S, RO)
_rule(ixgbe.RTTDCS, RW, 0x80C2_0053, 0x00C0_0000)
_rule(ixgbe.RTTDQSEL, RW, 0x0000_007F)
_rule(ixgbe.RTTDT1C, RW, 0x0000_3FFF)
_rule(ixgbe.RTTDT1S, RO)
_rule(ixgbe.RTTDT2C, RW, ALL)
_rule(ixgbe.RTTDT2S, RO)
_rule(ixgbe.RTTBCNRM, RW, 0x0000_03FF)
_rule(ixgbe.RTTBCNRC, RW, 0x8FFF_FFFF)
_rule(ixgbe.RTTPCS, RW, 0xFFC0_0120, 0x0100_0000)
_rule(ixgbe.RTTPT2C, RW, ALL)
_rule(ixgbe.RTTPT2S, RO)
_rule(ixgbe.RTRUP2TC, RW, 0x00FF_FFFF)
_rule(ixgbe.RTTUP2TC, RW, 0x00FF_FFFF)

# 8.2.3.11 DCA
_rule(ixgbe.DCA_ID, RO)
_rule(ixgbe.DCA_CTRL, RW, 0x0000_001F, 0x0000_0001)

# 8.2.3.12 Security, with IPsec's tables
_rule(ixgbe.SECTXCTRL, RW, 0x0000_0007)
_rule(ixgbe.SECTXSTAT, SPECIAL)
_rule(ixgbe.SECTXBUFFAF, RW, 0x0000_03FF, 0x0000_0250)
_rule(ixgbe.SECTXMINIFG, RW, 0x0000_1F0F, 0x0000_1001)
_rule(ixgbe.SECRXCTRL, RW, 0x0000_0003)
_rule(ixgbe.SECRXSTAT, SPECIAL)
_more("IPSTXIDX", 0x08900, RW, 0xC000_1FF9)
_more("IPSTXSALT", 0x08904, RW, ALL)
_more("IPSTXKEY", 0x08908, RW, ALL, count=4)
_more("IPSRXIDX", 0x08E00, RW, 0xC000_1FFF)
_more("IPSRXIPADDR", 0x08E04, RW, ALL, count=4)
_more("IPSRXSPI", 0x08E14, RW, ALL)
_more("IPSRXIPIDX", 0x08E18, RW, 0x0000_007F)
_more("IPSRXKEY", 0x08E1C, RW, ALL, count=4)
_more("IPSRXSALT", 0x08E2C, RW, ALL)
_more("IPSRXMOD", 0x08E30, RW, 0x0000_001F)
_more("LSECTXCAP", 0x08A00, RW, ALL)
_more("LSECTXCTRL", 0x08A04, RW, ALL)
_more("LSECRXCAP", 0x08F00, RW, ALL)
_more("LSECRXCTRL", 0x08F04, RW, ALL)

# 8.2.3.13 LinkSec (MACsec), which is never switched on here: its counters stay 0
_more("LSECTXSTATS", 0x08A3C, RC, count=5)  # untagged, encrypted, protected packets; encrypted, protected octets
_more("LSECRXSTATS", 0x08F40, RC, count=17)  # LSECRXUT to LSECRXNUSA

# 8.2.3.21 PF mailbox
_rule(ixgbe.PFMAILBOX, RW, 0x0000_001F)
_more("PFMBMEM", 0x13000, RW, ALL, count=64 * 16)

# 8.2.3.22 MAC (link.py)
_rule(ixgbe.PCS1GCFIG, RW, ALL)
_rule(ixgbe.PCS1GLCTL, RW, ALL)
_rule(ixgbe.PCS1GLSTA, RO)
_rule(ixgbe.PCS1GANA, RW, ALL)
_rule(ixgbe.PCS1GANLP, RO)
_rule(ixgbe.HLREG0, RW, 0x18F3_8407, 0x0801_0403)
_rule(ixgbe.HLREG1, RO)
_rule(ixgbe.PAP, RW, 0x0000_FFFF, 0x0000_FFFF)
_rule(ixgbe.MSCA, SPECIAL, ALL)
_rule(ixgbe.MSRWD, RW, 0x0000_FFFF, status=0xFFFF_0000)
_rule(ixgbe.MAXFRS, RW, 0xFFFF_0000, 0x05EE_0000)
_rule(ixgbe.PCSS1, RO)
_rule(ixgbe.PCSS2, RO)
_rule(ixgbe.XPCSS, RO)
_rule(ixgbe.SERDESC, RO)
_rule(ixgbe.MACS, RO)
_rule(ixgbe.AUTOC, SPECIAL, ALL)
_rule(ixgbe.LINKS, SPECIAL)
_rule(ixgbe.AUTOC2, SPECIAL, ALL)
_rule(ixgbe.ANLP1, RO)
_rule(ixgbe.ANLP2, RO)
_rule(ixgbe.MACC, RW, 0x0007_0003)
_rule(ixgbe.LINKS2, RO)
_rule(ixgbe.MFLCN, RW, 0x0000_000F)
_rule(ixgbe.CORECTL, RW, 0x0001_FFFF)
_more("AUTOC3", 0x042AC, RO)
_more("MMNGC", 0x042D0, RO)
_more("SMADARCTL", 0x14F10, RW, ALL)

# 8.2.3.23 Statistics: the counters themselves are in statistics.py
_rule(ixgbe.RQSMR, RW, 0x0F0F_0F0F)
_rule(ixgbe.RXDSTATCTRL, RW, 0x0000_001F)
_rule(ixgbe.TQSM, RW, 0x0F0F_0F0F)

# 8.2.3.24 Wake up, 8.2.3.25 management, 8.2.3.26 time synchronisation
_rule(ixgbe.WUC, RW, 0x0000_0017)
_rule(ixgbe.WUFC, RW, 0x003F_80FF)
_rule(ixgbe.WUS, W1C, ALL)
_rule(ixgbe.IPAV, RW, 0x0001_000F)
_more("IP4AT", 0x05840, RW, ALL, count=8)
_more("IP6AT", 0x05880, RW, ALL, count=4)
_more("WUPL", 0x05900, RO)
_more("WUPM", 0x05A00, RO, count=32)
_more("FHFT", 0x09000, RW, ALL, count=256)
_more("FHFT_EXT", 0x09800, RW, ALL, count=128)
_rule(ixgbe.MANC, RO)
_rule(ixgbe.HICR, RO)
_more("FWSTS", 0x15F0C, W1C, 0x0000_0200)
_rule(ixgbe.TSYNCRXCTL, RW, 0x0000_001E)
_rule(ixgbe.TSYNCTXCTL, RW, 0x0000_0010)
_rule(ixgbe.SYSTIML, RW, ALL)
_rule(ixgbe.SYSTIMH, RW, ALL)
_rule(ixgbe.TIMINCA, RW, ALL)
_more("TIMADJL", 0x08C18, RW, ALL)
_more("TIMADJH", 0x08C1C, RW, ALL)
_more("TSAUXC", 0x08C20, RW, ALL)
_more("TRGTTIM", 0x08C24, RW, ALL, count=4)
_more("CLKTIM", 0x08C34, RW, ALL, count=2)
_more("RXSTMPH", 0x051A4, RO)
_more("RXSTMPL", 0x051E8, RO)
_more("TXSTMP", 0x08C04, RO, count=2)

RULES: tuple[Rule, ...] = tuple(_RULES)

# Registers that stand at two places: (place of the 82598, place of the 82599).
ALIASES: tuple[tuple[Register, Register], ...] = (
    (ixgbe.RAL_82598, ixgbe.RAL),
    (ixgbe.RAH_82598, ixgbe.RAH),
    (ixgbe.PSRTYPE_82598, ixgbe.PSRTYPE),
    (ixgbe.SRRCTL_82598, ixgbe.SRRCTL),
    (ixgbe.DCA_RXCTRL_82598, ixgbe.DCA_RXCTRL),
)
